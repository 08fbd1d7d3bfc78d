"""Scores by token embeddings and by words → one."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from indexing.storage.fulltext import queried

__all__ = ["WEIGHTS", "fused", "fusion_depth", "words_weight"]

# Of late and of words, chosen by cross-validation over collections (docs/guides/hybrid.md).
WEIGHTS = (1.0, 0.25)
TYPICAL = 10  # words of a query for which weights are given
FURTHER = 20  # documents of each ranking that are looked at beyond the k

Scores = npt.NDArray[np.floating[Any]]


def fusion_depth(k: int, ncandidates: int | None, nrerank: int | None) -> int:
    """How many documents of each ranking a hybrid search for k fuses; no more than the user lets it look at."""
    return max(k, min(k + FURTHER, nrerank or k + FURTHER, ncandidates or k + FURTHER))


def words_weight(query: str) -> float:
    """How much words count for a query: as the square root of their number, 1 for ten of them."""
    return math.sqrt(len(queried(query)) / TYPICAL)


def fused(
    late: Scores, lexical: Scores, waiting: npt.NDArray[np.bool_], weights: tuple[float, float]
) -> Scores:
    """MaxSim and, for the words, a share of the best MaxSim: that of the best BM25; both weighted. (n,)

    late: MaxSim, NaN where it is not known; such a document was not among the best, and counts as the last of them.
    lexical: BM25, 0 without a word of the query. waiting: documents that have no vectors yet; the n-th by words counts
    as near as the n-th by late.
    """
    share = lexical / (lexical.max(initial=0.0) or 1.0)
    ranked = np.sort(late[np.isfinite(late)])[::-1]
    if not len(ranked):
        return (weights[0] * waiting + weights[1]) * share
    place = np.minimum(np.searchsorted(np.sort(-lexical), -lexical), len(ranked) - 1)
    late = np.where(np.isfinite(late), late, np.where(waiting, ranked[place], ranked[-1]))
    found: Scores = weights[0] * late + weights[1] * share * (abs(ranked[0]) or 1.0)
    return found
