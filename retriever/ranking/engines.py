"""What scores compressed segments: compiled kernels, or numpy alone for a single search in a process of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.maxsim import maxsim_arrays, sharpened_array
from indexing.coding.codec import Codec
from indexing.storage.segment import Segment, token_places
from indexing.storage.snapshot import Live
from retriever.ranking.scoring import TOKENS_AT_ONCE

__all__ = ["Compiled", "Engine", "Plain"]

Floats: TypeAlias = npt.NDArray[np.float32]
Passages: TypeAlias = npt.NDArray[np.int64]
# Of a segment: where the rows of each passage begin and end, how many rows there are, and what makes vectors of some.
Rows: TypeAlias = tuple[Passages, int, Callable[[Passages], Floats]]


class Engine(Protocol):
    """Scores of one query. passages: local numbers of each segment, ascending. Scores are of all, end to end."""

    def in_lists(
        self, segments: Sequence[Segment], nprobe: int, lives: Sequence[Live]
    ) -> tuple[list[Passages], Floats]:
        """Passages that have one of the nprobe best centroids of a query token, and what the lists say of them."""

    def by_centroids(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        """MaxSim with every token replaced by its centroid."""

    def by_codes(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        """MaxSim on the vectors that the codes decode to."""


class Compiled:
    """By `retriever.kernels`. Importing and loading them takes half a second and more, each search then far less."""

    def __init__(self, query: Floats, codec: Codec, sharpness: float) -> None:
        from retriever import kernels

        self._kernels = kernels
        self._tables = kernels.QueryTables.of(query, codec, sharpness)

    def in_lists(
        self, segments: Sequence[Segment], nprobe: int, lives: Sequence[Live]
    ) -> tuple[list[Passages], Floats]:
        lists, scores = self._kernels.probe(self._tables, nprobe)
        inverted = [(segment.list_offsets, segment.list_pids) for segment in segments]
        return self._kernels.unite(inverted, lists, self._tables.counted(scores), lives)

    def by_centroids(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        parts = [(s.passage_lists, s.passage_offsets, p) for s, p in zip(segments, passages, strict=True)]
        return self._kernels.interaction(self._tables, 0, parts)

    def by_codes(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        parts = [(s.codes, s.offsets, p) for s, p in zip(segments, passages, strict=True)]
        return self._kernels.residual_maxsim(self._tables, segments[0].residual_codes.shape[1], parts)


class Plain:
    """The same by numpy: equal to the kernels but for their rounding to 8 and 16 bits."""

    def __init__(self, query: Floats, codec: Codec, sharpness: float) -> None:
        self._query, self._codec, self._sharpness = query, codec, sharpness
        self._rotated = codec.rotated(query)

    def in_lists(
        self, segments: Sequence[Segment], nprobe: int, lives: Sequence[Live]
    ) -> tuple[list[Passages], Floats]:
        nprobe = min(nprobe, self._codec.nlist)
        products = self._rotated @ self._codec.centroids.T  # (n_query, nlist)
        lists = np.argpartition(-products, nprobe - 1, axis=1)[:, :nprobe]
        best = np.take_along_axis(products, lists, axis=1)
        order = np.argsort(best, axis=1)  # the best last: of several lists with a passage it is what stays
        lists = np.take_along_axis(lists, order, axis=1)
        norms = np.sqrt(np.einsum("ij,ij->i", self._query, self._query))[:, None]
        scores = sharpened_array(np.take_along_axis(best, order, axis=1), norms, self._sharpness)
        found, totals = [], []
        for segment, live in zip(segments, lives, strict=True):
            total, seen = np.zeros(len(live), np.float32), np.zeros(len(live), np.bool_)
            starts = segment.list_offsets[lists]
            lengths = np.maximum(segment.list_offsets[lists + 1] - starts, 0)
            for token, gains in enumerate(scores - scores[:, :1]):
                places = token_places(starts[token], lengths[token])
                pids = segment.list_pids[np.clip(places, 0, max(len(segment.list_pids) - 1, 0))]
                # A damaged file may name passages that are not there.
                within = (pids >= 0) & (pids < len(live))
                own = np.zeros(len(live), np.float32)
                own[pids[within]] = np.repeat(gains, lengths[token])[within]
                seen[pids[within]] = True
                total += own
            passages = np.flatnonzero(seen & live)
            found.append(passages)
            totals.append(total[passages])
        return found, np.concatenate([np.zeros(0, np.float32), *totals]) + scores[:, 0].sum()

    def by_centroids(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        return self._maxsim(
            self._rotated,
            passages,
            [(s.passage_offsets, len(s.passage_lists), partial(self._centroids, s)) for s in segments],
        )

    def by_codes(self, segments: Sequence[Segment], passages: Sequence[Passages]) -> Floats:
        return self._maxsim(
            self._query,
            passages,
            [(s.offsets, s.n_tokens, partial(s.take, codec=self._codec)) for s in segments],
        )

    def _centroids(self, segment: Segment, places: Passages) -> Floats:
        near: Floats = self._codec.centroids[np.minimum(segment.lists_at(places), self._codec.nlist - 1)]
        return near

    def _maxsim(self, query: Floats, passages: Sequence[Passages], segments: Sequence[Rows]) -> Floats:
        scores = [np.zeros(0, np.float32)]
        for own, (offsets, n, vectors) in zip(passages, segments, strict=True):
            starts = np.clip(offsets[own], 0, n)
            lengths = np.clip(offsets[own + 1], starts, n) - starts
            groups = np.cumsum(lengths) // TOKENS_AT_ONCE
            for some in np.split(np.arange(len(own)), np.flatnonzero(np.diff(groups)) + 1):
                places = token_places(starts[some], lengths[some])
                ends = np.concatenate([[0], np.cumsum(lengths[some])])
                scores.append(maxsim_arrays(query, vectors(places), ends, self._sharpness))
        return np.concatenate(scores)
