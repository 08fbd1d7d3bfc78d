"""The one MaxSim: losses, candidate generation, reranking and tests import it from here."""

import torch
from torch import Tensor

from encoder.errors import ArgumentError

__all__ = ["max_sum", "maxsim"]


def maxsim(query: Tensor, vectors: Tensor, offsets: Tensor) -> Tensor:
    """Sum over query tokens of the best dot product with a passage's tokens (Khattab and Zaharia 2020).

    query: (n_query, dim). vectors: (total_tokens, dim), passages end to end. offsets: (n + 1,) int64.
    Returns (n,) scores. A passage without tokens scores -inf: there is nothing it could match, and a
    zero would put it before a passage whose similarities are negative.
    """
    if query.ndim != 2 or vectors.ndim != 2 or query.shape[1] != vectors.shape[1]:
        raise ArgumentError(
            f"query {tuple(query.shape)} and vectors {tuple(vectors.shape)} must be (tokens, dim) of one dim"
        )
    return max_sum(vectors @ query.T, offsets)


def max_sum(similarity: Tensor, offsets: Tensor) -> Tensor:
    """The reduction of MaxSim: max over a passage's tokens, then sum over query tokens.

    similarity: (total_tokens, n_query) of every passage token with every query token; offsets: (n + 1,).
    Returns (n,); -inf for a passage without tokens.
    """
    lengths = offsets.diff()
    if similarity.numel() == 0:  # segment_reduce knows no empty input
        return torch.where(lengths > 0, 0.0, -torch.inf)
    best = torch.segment_reduce(similarity, "max", lengths=lengths, initial=-torch.inf)  # (n, n_query)
    scores = best.sum(1)
    # With no query tokens the sum is over nothing; an empty passage is no better for that.
    return torch.where(lengths > 0, scores, scores.new_full((), -torch.inf))
