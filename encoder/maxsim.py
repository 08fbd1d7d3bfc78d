"""The one MaxSim: losses, reranking and tests import it from here."""

import torch
from torch import Tensor

from encoder.errors import ArgumentError

__all__ = ["maxsim"]


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
    similarity = vectors @ query.T  # (total_tokens, n_query)
    lengths = offsets.diff()
    n = len(lengths)
    passage = torch.repeat_interleave(torch.arange(n, device=lengths.device), lengths)  # (total_tokens,)
    best = similarity.new_full((n, len(query)), -torch.inf)
    best = best.scatter_reduce(0, passage[:, None].expand_as(similarity), similarity, "amax")
    scores = best.sum(1)
    # With no query tokens the sum is over nothing; an empty passage is no better for that.
    return torch.where(lengths > 0, scores, scores.new_full((), -torch.inf))
