"""Which inverted lists to look into, and their union with a score for each passage from the lists alone."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from indexing.coding.centroids import BLOCK
from retriever.kernels.compiling import compiled, frozen
from retriever.kernels.tables import QueryTables

__all__ = ["probe", "unite"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def probe(tables: QueryTables, nprobe: int) -> tuple[Ints, Floats]:
    """The nprobe best centroids of every query token and their scores: (n_query, nprobe) each, best first."""
    nprobe = min(nprobe, len(tables.centroids))
    lists = np.zeros((tables.n_query, nprobe), dtype=np.int64)
    scores = np.full((tables.n_query, nprobe), -np.inf, dtype=np.float32)
    _probe(frozen(tables.centroids), frozen(tables.most), lists, scores)
    order = np.argsort(-scores, axis=1)
    return np.take_along_axis(lists, order, axis=1), np.take_along_axis(scores, order, axis=1)


@compiled
def _probe(centroids: Floats, most: Floats, lists: Ints, scores: Floats) -> None:
    # Rows of lists and scores are heaps, the least score in front; few blocks of centroids get past `least`. A
    # small part of the time of numpy's argpartition, which wants the scores transposed.
    n_query, nprobe = lists.shape
    least = np.full(centroids.shape[1], np.inf, np.float32)
    least[:n_query] = -np.inf
    for block in range(len(most)):
        better = False
        for q in range(len(least)):
            better |= most[block, q] > least[q]
        if not better:
            continue
        for c in range(block * BLOCK, min((block + 1) * BLOCK, len(centroids))):
            for q in range(n_query):
                score = centroids[c, q]
                if not score > least[q]:
                    continue
                at = 0
                while 2 * at + 1 < nprobe:
                    child = 2 * at + 1
                    if child + 1 < nprobe and scores[q, child + 1] < scores[q, child]:
                        child += 1
                    if score <= scores[q, child]:
                        break
                    scores[q, at], lists[q, at] = scores[q, child], lists[q, child]
                    at = child
                scores[q, at], lists[q, at] = score, c
                least[q] = scores[q, 0]


def unite(
    segments: Sequence[tuple[Ints, npt.NDArray[np.int32]]],
    lists: Ints,
    scores: Floats,
    wanted: Sequence[npt.NDArray[np.bool_]],
) -> tuple[list[Ints], Floats]:
    """Passages in the lists that are wanted, local numbers, ascending, for each segment; and the scores of all,
    end to end.

    segments: list_offsets and list_pids of each. lists, scores: (n_query, nprobe) probed lists of each query token,
    best first. wanted: (n_passages,) of each segment, live and let through by the filter. Each query token adds the
    best of its probed centroids that the passage has; where it has none, the worst of them, which no centroid
    outside the probe exceeds (Lee et al. 2023, XTR's imputation).
    """
    ends = np.cumsum([0, *map(len, wanted)])
    total, seen_by = np.zeros(ends[-1], dtype=np.float32), np.zeros(ends[-1], dtype=np.int32)
    probed = (frozen(lists), frozen(scores - scores[:, -1:]))
    for i, (list_offsets, list_pids) in enumerate(segments):
        at = slice(ends[i], ends[i + 1])
        segment = (frozen(list_offsets), frozen(list_pids))
        _unite(segment, probed, frozen(wanted[i]), total[at], seen_by[at])
    found = np.flatnonzero(seen_by)
    cuts = np.searchsorted(found, ends)
    passages = [found[a:b] - first for a, b, first in zip(cuts[:-1], cuts[1:], ends[:-1], strict=True)]
    return passages, total[found] + scores[:, -1].sum()


@compiled
def _unite(
    segment: tuple[Ints, npt.NDArray[np.int32]],
    probed: tuple[Ints, Floats],
    wanted: npt.NDArray[np.bool_],
    total: Floats,
    seen_by: npt.NDArray[np.int32],
) -> None:
    list_offsets, list_pids = segment
    lists, gains = probed
    for token in range(lists.shape[0]):
        for i in range(lists.shape[1]):
            entry = lists[token, i]
            for p in list_pids[max(list_offsets[entry], 0) : max(list_offsets[entry + 1], 0)]:
                # A damaged file may name passages that are not there.
                if 0 <= p < len(wanted) and wanted[p] and seen_by[p] != token + 1:
                    seen_by[p] = token + 1
                    total[p] += gains[token, i]
