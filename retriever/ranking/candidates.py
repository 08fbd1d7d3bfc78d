"""Candidate generation on compressed segments: probe inverted lists, rank what they hold by centroids."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from indexing.storage.segment import Segment
from retriever.kernels import QueryTables, interaction, probe, unite

__all__ = ["candidates"]

Scores = npt.NDArray[np.float32]
Passages = npt.NDArray[np.int64]


def candidates(
    segments: Sequence[Segment],
    lives: Sequence[npt.NDArray[np.bool_]],
    tables: QueryTables,
    *,
    nprobe: int,
    ncandidates: int,
    nrerank: int,
    least: int,
) -> list[Passages]:
    """Live passages worth reranking, at most nrerank in all: local numbers, ascending, for each segment.

    lives: (n_passages,) of each segment, False for passages that must not be found. Those in the probed lists,
    the best ncandidates of them by what the lists say, the best nrerank of these by centroid interaction. The
    lists are left out where ncandidates covers all live passages, or where they hold fewer than `least`, so
    that a search never comes back short.
    """
    passages = None
    if sum(np.count_nonzero(live) for live in lives) > ncandidates:
        inverted = [(s.list_offsets, s.list_pids) for s in segments]
        lists, scores = probe(tables, nprobe)
        found, scores = unite(inverted, lists, tables.counted(scores), lives)
        if len(scores) >= least:
            passages = _best(found, scores, ncandidates)
    if passages is None:
        passages = [np.flatnonzero(live) for live in lives]
    if sum(map(len, passages)) <= nrerank:
        return passages
    parts = [(s.codes, s.offsets, p) for s, p in zip(segments, passages, strict=True)]
    return _best(passages, interaction(tables, segments[0].residual_codes.shape[1], parts), nrerank)


def _best(passages: list[Passages], scores: Scores, n: int) -> list[Passages]:
    """The n passages with the best scores over all segments, in their order. scores: of all, end to end."""
    if len(scores) <= n:
        return passages
    keep = np.zeros(len(scores), dtype=np.bool_)
    keep[np.argpartition(-scores, n - 1)[:n]] = True
    ends = np.cumsum([len(p) for p in passages])[:-1]
    return [p[k] for p, k in zip(passages, np.split(keep, ends), strict=True)]
