"""Passages folded into documents: a document is as good as its best passage.

A document's passages are neighbours in their segment, so that folding is a pass over runs of equal owners.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from indexing.storage.segment import Segment

__all__ = ["best_of_each", "best_passages", "n_documents", "owners_of"]

Passages = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]


def owners_of(segments: Sequence[Segment], passages: Sequence[Passages]) -> Numbers:
    """The documents of passages, local numbers of each segment: (all,), end to end."""
    return np.concatenate(
        [np.zeros(0, np.int64), *(s.owners[p] for s, p in zip(segments, passages, strict=True))]
    )


def _runs(owners: Numbers) -> Numbers:
    """Where each document's passages begin."""
    return np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]])) if len(owners) else owners


def n_documents(owners: Numbers) -> int:
    return len(_runs(owners))


def best_of_each(owners: Numbers, scores: Scores) -> Passages:
    """Which passage is the best of each document, the first of equal ones: positions, (n_documents,), ascending."""
    starts = _runs(owners)
    if len(starts) == len(owners):
        return np.arange(len(owners))
    best = np.repeat(np.maximum.reduceat(scores, starts), np.diff([*starts, len(owners)]))
    at = np.flatnonzero(scores >= best)  # NaN is in no score
    return at[_runs(owners[at])]


def best_passages(owners: Numbers, scores: Scores, n: int) -> npt.NDArray[np.bool_]:
    """True for the passages that score no less than the n-th best document: its own best ones and their like."""
    best = np.maximum.reduceat(scores, _runs(owners)) if len(owners) else scores
    if len(best) <= n:
        return np.ones(len(owners), np.bool_)
    keep: npt.NDArray[np.bool_] = scores >= np.partition(best, len(best) - n)[len(best) - n]
    return keep
