"""Candidate generation on compressed segments: probe inverted lists, rank what they hold by centroids."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from indexing.segment import Segment
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
        lists, list_scores = probe(tables, nprobe)
        found = [
            unite(s.list_offsets, s.list_pids, lists, list_scores, live)
            for s, live in zip(segments, lives, strict=True)
        ]
        if sum(len(p) for p, _ in found) >= least:
            passages = _best([p for p, _ in found], [scores for _, scores in found], ncandidates)
    if passages is None:
        passages = [np.flatnonzero(live) for live in lives]
    if sum(map(len, passages)) <= nrerank:
        return passages
    ranked = [
        interaction(tables, s.codes, s.residual_codes.shape[1], s.offsets, p)
        for s, p in zip(segments, passages, strict=True)
    ]
    return _best(passages, ranked, nrerank)


def _best(passages: list[Passages], scores: list[Scores], n: int) -> list[Passages]:
    """The n passages with the best scores over all segments, in their order."""
    together = np.concatenate(scores)
    if len(together) <= n:
        return passages
    keep = np.zeros(len(together), dtype=np.bool_)
    keep[np.argpartition(-together, n - 1)[:n]] = True
    ends = np.cumsum([len(p) for p in passages])[:-1]
    return [p[k] for p, k in zip(passages, np.split(keep, ends), strict=True)]
