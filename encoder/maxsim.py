"""The one MaxSim: losses, candidate generation, reranking and tests import it from here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_number
from encoder.errors import ArgumentError

if TYPE_CHECKING:  # `import encoder` is quick, torch is not
    from torch import Tensor

__all__ = [
    "MOST_SHARPNESS",
    "SHARPNESS",
    "check_sharpness",
    "max_sum",
    "maxsim",
    "maxsim_arrays",
    "sharpened",
    "sharpened_array",
]

Floats = npt.NDArray[np.float32]

SHARPNESS = 2.5  # of a search for a text (docs/internals/search.md); 0 is MaxSim as published
MOST_SHARPNESS = 20.0


def maxsim(query: Tensor, vectors: Tensor, offsets: Tensor, sharpness: float = 0.0) -> Tensor:
    """Sum over query tokens of the best dot product with a passage's tokens (Khattab and Zaharia 2020).

    query: (n_query, dim). vectors: (total_tokens, dim), passages end to end. offsets: (n + 1,) int64.
    sharpness: above 0 near matches count more than many far ones (`sharpened`).
    Returns (n,) scores. A passage without tokens scores -inf: there is nothing it could match, and a
    zero would put it before a passage whose similarities are negative.
    """
    if query.ndim != 2 or vectors.ndim != 2 or query.shape[1] != vectors.shape[1]:
        raise ArgumentError(
            f"query {tuple(query.shape)} and vectors {tuple(vectors.shape)} must be (tokens, dim) of one dim"
        )
    norms = query.norm(dim=1) if sharpness else None
    return max_sum(vectors @ query.T, offsets, norms, sharpness)


def max_sum(
    similarity: Tensor, offsets: Tensor, norms: Tensor | None = None, sharpness: float = 0.0
) -> Tensor:
    """The reduction of MaxSim: max over a passage's tokens, then sum over query tokens.

    similarity: (total_tokens, ..., n_query) of every passage token with every query token, maybe of several queries;
    offsets: (n + 1,). norms: (..., n_query), the query vectors' lengths, which sharpness needs.
    Returns (n, ...); -inf for a passage without tokens.
    """
    import torch

    lengths = offsets.diff()
    there = (lengths > 0).reshape(-1, *[1] * (similarity.ndim - 2))
    if similarity.numel() == 0:  # segment_reduce knows no empty input
        return torch.where(there, 0.0, -torch.inf).expand(-1, *similarity.shape[1:-1])
    # unsafe: its check of the lengths would wait for the device.
    best = torch.segment_reduce(similarity, "max", lengths=lengths, initial=-torch.inf, unsafe=True)
    if norms is not None:
        best = sharpened(best, norms, sharpness)  # (n, ..., n_query)
    scores = best.sum(-1)
    # With no query tokens the sum is over nothing; an empty passage is no better for that.
    return torch.where(there, scores, scores.new_full((), -torch.inf))


def sharpened(best: Tensor, norms: Tensor, sharpness: float) -> Tensor:
    """What a query token's best dot product counts: |q| * (e^(s c) - 1) / (e^s - 1), where c = best / |q|, the cosine
    with a unit vector, and s is the sharpness; best itself for 0, the limit.

    It is convex and ascending, 0 at 0 and |q| at |q|: a token that is all but found counts more than two that are
    half found. Beyond |q|, where vectors are not of unit length, it goes on as its tangent.
    best: (..., n_query). norms: (n_query,).
    """
    if sharpness == 0:
        return best
    import torch

    known = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    cosine = best / known
    counted: Tensor = _counted(known, cosine, cosine.clamp_max(1.0), sharpness, torch.expm1)
    return counted


def sharpened_array(best: Floats, norms: Floats, sharpness: float) -> Floats:
    """`sharpened`, for numpy."""
    if sharpness == 0:
        return best
    known = np.maximum(norms, np.finfo(np.float32).tiny)
    cosine = best / known
    counted: Floats = _counted(known, cosine, np.minimum(cosine, np.float32(1)), sharpness, np.expm1)
    return counted


def _counted(known: Any, cosine: Any, within: Any, sharpness: float, expm1: Any) -> Any:
    """The formula of `sharpened`, for tensors and arrays. within: the cosine, at most 1."""
    whole = math.expm1(sharpness)
    return known * (expm1(sharpness * within) / whole + (cosine - within) * (sharpness * (1 + 1 / whole)))


def maxsim_arrays(
    query: Floats, vectors: Floats, offsets: npt.NDArray[np.int64], sharpness: float = 0.0
) -> Floats:
    """`maxsim`, for numpy; all by one float32 matrix product."""
    lengths = np.diff(offsets)
    scores = np.full(len(lengths), -np.inf, np.float32)
    some = np.flatnonzero(lengths)  # passages with tokens: where one ends, the next begins
    if not len(some):
        return scores
    if not len(query):
        scores[some] = 0
        return scores
    similarity = query @ vectors[: offsets[-1]].T  # (n_query, total_tokens)
    best = np.maximum.reduceat(similarity, offsets[some], axis=1)  # (n_query, n)
    if sharpness:
        norms = np.sqrt(np.einsum("ij,ij->i", query, query))
        best = sharpened_array(best, norms[:, None], sharpness)
    scores[some] = best.sum(0)
    return scores


def check_sharpness(sharpness: float) -> float:
    """Raises ArgumentError for what is no number, or one outside 0 to MOST_SHARPNESS."""
    sharpness = as_number(sharpness, "sharpness")
    if not 0 <= sharpness <= MOST_SHARPNESS:
        raise ArgumentError(f"sharpness={sharpness}; pass 0 for plain MaxSim, at most {MOST_SHARPNESS:g}")
    return sharpness
