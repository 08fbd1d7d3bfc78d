"""Several rankings → one."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from indexing.storage.fulltext import queried

__all__ = ["fusion_depth", "reciprocal_rank_fusion", "words_weight"]

CONSTANT = 60  # of the paper: how little the first few ranks differ
TYPICAL = 10  # words of a query for which weights are given
FUSED = 100  # hits of each ranking that are fused, or k if that is more


def fusion_depth(k: int, ncandidates: int | None, nrerank: int | None) -> int:
    """How many hits of each ranking a hybrid search for k fuses; no more than the user lets it look at."""
    return max(k, min(FUSED, FUSED if nrerank is None else nrerank, ncandidates or FUSED))


def words_weight(query: str) -> float:
    """How much words count for a query: as the square root of their number, 1 for ten of them."""
    return math.sqrt(len(queried(query)) / TYPICAL)


def reciprocal_rank_fusion(
    rankings: Sequence[npt.NDArray[np.int64]], weights: Sequence[float], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pids and scores of the k best over rankings of pids, best first; equal scores in the order of pids.

    A score is the sum of weight / (60 + rank) over the rankings that have the pid, ranks from 1 (Cormack,
    Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009).
    """
    pids = np.unique(np.concatenate(rankings))
    scores = np.zeros(len(pids))
    for ranking, weight in zip(rankings, weights, strict=True):
        scores[np.searchsorted(pids, ranking)] += weight / (CONSTANT + 1 + np.arange(len(ranking)))
    order = np.argsort(-scores, kind="stable")[:k]
    return pids[order], scores[order]
