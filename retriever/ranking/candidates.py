"""Candidate generation on compressed segments: probe inverted lists, rank what they hold by centroids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexing.storage.segment import Segment
from retriever.ranking.documents import best_passages, n_documents, owners_of
from retriever.ranking.engines import Engine
from retriever.ranking.knobs import SearchSettings

__all__ = ["Wanted", "candidates"]

Scores = npt.NDArray[np.float32]
Passages = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a search may find. lives: (n_passages,) of each segment. n: how many documents that are, or passages.
    least: how many it must not come back short of. fold: whether passages are folded into documents."""

    lives: Sequence[npt.NDArray[np.bool_]]
    n: int
    least: int
    fold: bool


def candidates(
    segments: Sequence[Segment], engine: Engine, settings: SearchSettings, wanted: Wanted
) -> list[Passages]:
    """Passages worth reranking, of about nrerank documents in all: local numbers, ascending, for each segment.

    Those in the probed lists, the best ncandidates of them by what the lists say, the best nrerank of these by
    centroid interaction. The lists are left out where ncandidates covers all there is, or where they hold fewer
    than `least`, so that a search never comes back short.
    """
    passages = None
    if wanted.n > settings.ncandidates:
        found, scores = engine.in_lists(segments, settings.nprobe, wanted.lives)
        n_found = n_documents(owners_of(segments, found)) if wanted.fold else len(scores)
        if n_found >= wanted.least:
            passages = _best(segments, found, scores, settings.ncandidates, wanted.fold)
    if passages is None:
        passages = [np.flatnonzero(live) for live in wanted.lives]
    if sum(map(len, passages)) <= settings.nrerank:
        return passages
    scores = engine.by_centroids(segments, passages)
    return _best(segments, passages, scores, settings.nrerank, wanted.fold)


def _best(
    segments: Sequence[Segment], passages: list[Passages], scores: Scores, n: int, fold: bool
) -> list[Passages]:
    """The passages with the best scores over all segments, of n documents if folded. scores: of all, end to end."""
    if len(scores) <= n:
        return passages
    if fold:
        keep = best_passages(owners_of(segments, passages), scores, n)
    else:
        keep = np.zeros(len(scores), dtype=np.bool_)
        keep[np.argpartition(-scores, n - 1)[:n]] = True
    ends = np.cumsum([len(p) for p in passages])[:-1]
    return [p[k] for p, k in zip(passages, np.split(keep, ends), strict=True)]
