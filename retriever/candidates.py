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

    Those in the probed lists, the best ncandidates of them by what the lists say, the best nrerank of these
    by centroid interaction. least: where the lists hold fewer live passages than this, all live passages
    stand in for them, so that a search never comes back short.
    """
    lists, list_scores = probe(tables, nprobe)
    found = [
        unite(s.list_offsets, s.list_pids, lists, list_scores, live)
        for s, live in zip(segments, lives, strict=True)
    ]
    passages = [p for p, _ in found]
    if sum(map(len, passages)) < least:
        passages = [np.flatnonzero(live) for live in lives]
    else:
        passages = _best(passages, [scores for _, scores in found], ncandidates)
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
