"""The stages of a search in torch, on a device that holds all codes, or as many as it has room for. Nothing waits for
the device but one copy of what a batch of queries found."""

import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.devices import roomy, sent
from encoder.errors import ArgumentError
from encoder.maxsim import sharpened
from encoder.on_device import free_bytes
from encoder.replay import Replay
from indexing import Snapshot
from indexing.storage.segment import Segment
from retriever.kernels.torch_codes import Codes, Scan, Tables, over_passages, residual_scores

if TYPE_CHECKING:
    from retriever.ranking.ranker import Plan

__all__ = ["DeviceIndex"]

Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
Query = npt.NDArray[np.float32]
SPARE = 0.9  # of a device's free memory; the rest is for the scores of a chunk of tokens
AT_ONCE = 64  # queries of a launch
TABLE_BYTES = 1 << 28  # of their scores with centroids and residuals
LONGEST, ROW = (
    64,
    16,
)  # tokens of a query alone whose kernels are recorded, and what it is filled up to a multiple of
KEPT = 4  # recordings
TIES = 64  # more passages than asked for that are brought back, for those that score alike
# The score of a passage without tokens, in place of -inf: that is of what is not worth it.
NOTHING = torch.finfo(torch.float32).min


@dataclass(frozen=True, eq=False)
class Part:
    """A segment on the device. offsets: (n_passages + 1,). Either vectors (n_tokens, dim) float16, or ids (n_tokens,)
    int32 and codes (n_tokens, code_bytes) uint8."""

    offsets: Tensor
    vectors: Tensor | None
    ids: Tensor | None
    codes: Tensor | None


class DeviceIndex:
    """A snapshot's codes on a device. Scores every passage, or prunes as the processor does.

    What the device has no room for comes segment by segment, once a launch and stage; one line says so. Raises
    ArgumentError where there is not even room for that.
    """

    def __init__(
        self, snapshot: Snapshot, device: torch.device, previous: "DeviceIndex | None" = None
    ) -> None:
        self.device = device
        self.codec = codec = snapshot.codec
        here: dict[Segment, Part] = {}  # segments never change; under another codec they are opened anew
        if previous is not None and previous.codec is codec:
            here = previous._here
        held = self._held(snapshot, here)
        if codec is not None:
            self._centroids = torch.tensor(codec.byte_centroids.floats(), device=device)
            self._scales = torch.tensor(codec.scales, device=device)
            self._pq_centroids = torch.tensor(codec.pq_centroids, device=device)
            self._rotation = torch.tensor(codec.rotation, device=device)
        self._last_copy: torch.cuda.Event | None = None
        there = partial(torch.tensor, device=device)
        self._here: dict[Segment, Part] = {
            segment: here[segment] if segment in here else _part_of(segment, there) for segment in held
        }
        self._segments, self._starts, self._lives = snapshot.segments, snapshot.starts, snapshot.lives
        self._all = self._scans(self._lives)
        self._dim = snapshot.settings.dim
        self._replays: dict[Hashable, Replay | None] = {}
        self._recording = threading.Lock()

    def search(self, query: Query, plan: "Plan", fold: bool) -> Ranking:
        """As `search_many`, for one; where nothing is filtered out and it is of usual length, by kernels that are
        launched together."""
        whole = plan.selection.lives is self._lives and len(self._here) == len(self._segments)
        if whole and 0 < len(query) <= LONGEST:
            with self._roomy():
                replay = self._replay(-(-len(query) // ROW) * ROW, plan, fold)
                best = None if replay is None else replay(partial(_fill, query)).numpy()
            if best is not None and (found := _ranked(best, plan.depth, self._all.n)):
                return found[0]
        return self.search_many([query], plan, fold)[0]

    def search_many(self, queries: Sequence[Query], plan: "Plan", fold: bool) -> list[Ranking]:
        """Pids and scores of the plan's depth best passages for each query, and of more that score as the last does;
        with `fold` the best of each document's.

        queries: (n_query, dim) each; AT_ONCE of them, or fewer where their tables are large, are one launch, whose
        results are copied back together; nothing else waits.
        """
        lives = plan.selection.lives
        scans = self._all if lives is self._lives else self._scans(lives)
        found: list[Ranking] = []
        step = self._at_once(max(map(len, queries), default=0))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            with self._roomy():
                scores = self._scored(self._there(some), plan, scans, fold)
                found += self._best(scans.pids, scores, plan.depth)
        return found

    def scores(self, query: Query, plan: "Plan") -> npt.NDArray[np.float32]:
        """Of every passage that the plan selects, in the order of pids: (n,)."""
        with self._roomy():
            scans = self._scans(plan.selection.lives)
            scores = self._scored(self._there([query]), plan, scans, fold=False)
            return _as_maxsim(scores[0].cpu().numpy())

    def _replay(self, n_query: int, plan: "Plan", fold: bool) -> Replay | None:
        """The search of all passages with a query of so many tokens; None where it is asked for the first time, for a
        recording takes longer than a search."""
        key = n_query, plan.depth, plan.settings, plan.sharpness, fold

        def best(query: Tensor) -> Tensor:
            scores = self._scored(query, plan, self._all, fold)
            return _top(self._all.pids, scores, plan.depth + TIES)

        with self._recording:
            if key not in self._replays:
                if len(self._replays) == KEPT:  # each holds memory
                    self._replays.clear()
                self._replays[key] = None
            elif self._replays[key] is None:
                self._replays[key] = Replay(best, (1, n_query, self._dim), torch.float32, self.device)
            return self._replays[key]

    def _there(self, queries: Sequence[Query]) -> Tensor:
        """(batch, n_query, dim) on the device; shorter queries end with zeros, which add nothing to a score."""
        padded = np.zeros((len(queries), max(map(len, queries)), self._dim), np.float32)
        for row, query in zip(padded, queries, strict=True):
            row[: len(query)] = query
        return sent(padded, self.device)

    def _roomy(self) -> AbstractContextManager[None]:
        return roomy(
            f"a search does not fit what the codes leave of the memory of {self.device} ({{reason}}); leave out "
            "device=... to search on the processor"
        )

    def _at_once(self, n_query: int) -> int:
        """Queries whose tables are made together."""
        rows = 0 if self.codec is None else self.codec.nlist + self.codec.m * 256
        return max(1, min(AT_ONCE, TABLE_BYTES // max(4 * rows * n_query, 1)))

    def _scored(self, q: Tensor, plan: "Plan", scans: "Scans", fold: bool) -> Tensor:
        """Scores (batch, n) of the passages of `scans` with queries (batch, n_query, dim); -inf for what is not worth
        it."""
        norms, sharpness = q.norm(dim=2), plan.sharpness
        tables, worth = None, None
        if self.codec is not None:
            turned = q @ self._rotation
            centroids = torch.einsum("cd,bqd->cbq", self._centroids, turned)  # (nlist, batch, n_query)
            by_part = torch.unflatten(turned, 2, (self.codec.m, -1))  # (batch, n_query, m, dim / m)
            residuals = torch.einsum("mcd,bqmd->mcbq", self._pq_centroids, by_part)
            tables = Tables(centroids, residuals, self._scales, norms, sharpness)
            if plan.settings is not None:
                worth = self._worth(sharpened(centroids, norms, sharpness), norms > 0, plan, scans, fold)
        scored, start = [norms.new_zeros(len(q), 0)], 0
        for segment, scan in zip(self._segments, scans.each, strict=True):
            part = self._part(segment)
            if part.vectors is not None:
                values = over_passages(
                    partial(_products, q, part.vectors), part.offsets, scan, norms, sharpness
                )
                values = values.clamp_min(NOTHING)
            else:
                assert tables is not None
                assert part.ids is not None
                assert part.codes is not None
                own = None if worth is None else worth[:, start : start + len(scan)]
                stored = Codes(part.ids, part.codes, part.offsets)
                values = residual_scores(tables, stored, scan, own).clamp_min(NOTHING)
                del stored  # of a part that may go
                if own is not None:
                    values = values.masked_fill(~own, -torch.inf)
                start += len(scan)
            scored.append(values)
        scores = torch.cat(scored, dim=1)
        return self._folded(scores, scans) if fold else scores

    def _folded(self, scores: Tensor, scans: "Scans") -> Tensor:
        """The same with -inf for all but the first of the best passages of each document."""
        of = scans.documents.expand(len(scores), -1)
        best = scores.new_full((len(scores), scans.n_documents), -torch.inf).scatter_reduce_(
            1, of, scores, "amax"
        )
        place = torch.arange(scores.shape[1], device=self.device).expand_as(of)
        last = torch.full_like(of, scores.shape[1])
        first = last[:, : scans.n_documents].scatter_reduce(
            1, of, torch.where(scores == best.gather(1, of), place, last), "amin"
        )
        return torch.where(place == first.gather(1, of), scores, -torch.inf)

    def _best(self, pids: Tensor, scores: Tensor, depth: int) -> list[Ranking]:
        """Each query's `depth` best, ascending pids, and all that score as the last does."""
        n = len(pids)
        found = _ranked(_top(pids, scores, depth + TIES).cpu().numpy(), depth, n)
        return found or _ranked(_top(pids, scores, n).cpu().numpy(), depth, n)

    def _worth(self, centroids: Tensor, there: Tensor, plan: "Plan", scans: "Scans", fold: bool) -> Tensor:
        """Which passages of compressed segments to rerank, (batch, n): candidates.candidates, without lists.

        A list is looked up by comparing: each passage's best centroid score for a query token, which counts no
        less than the worst one probed, is what the union of lists would add up to. centroids: (nlist, batch, n_query).
        there: (batch, n_query), False for what fills up a query.
        """
        settings, batch = plan.settings, centroids.shape[1]
        assert settings is not None
        pairs = [
            (segment, scan)
            for segment, scan in zip(self._segments, scans.each, strict=True)
            if segment.kind != "flat"
        ]

        def ranked(table: Tensor) -> Tensor:
            """MaxSim of the passages by a table of centroids' scores."""
            ones = table.new_ones(table.shape[1:])
            scored = [_by_centroid(table, self._part(segment), scan, ones) for segment, scan in pairs]
            return torch.cat([table.new_zeros(batch, 0), *scored], dim=1)

        of, n_documents = scans.coded_documents if fold else scans.coded

        def best_of_each(scores: Tensor) -> Tensor:
            empty = scores.new_full((batch, n_documents), -torch.inf)
            return empty.scatter_reduce_(1, of.expand(batch, -1), scores, "amax")

        def among(scores: Tensor, n: int) -> Tensor:
            """Passages that score no less than the n-th best document."""
            return scores >= best_of_each(scores).topk(min(n, n_documents), dim=1).values[:, -1:]

        worth = torch.ones(batch, of.shape[1], dtype=torch.bool, device=self.device)
        if n_documents > settings.ncandidates:
            floor = centroids.topk(settings.nprobe, dim=0).values[-1]  # (batch, n_query)
            probed = ((centroids >= floor) & there).any(dim=2, keepdim=True).float()  # (nlist, batch, 1)
            listed = ranked(probed) > 0
            enough = (best_of_each(listed.float()) > 0).sum(dim=1, keepdim=True) >= plan.depth
            scores = ranked(centroids.maximum(floor)).masked_fill(~listed, -torch.inf)
            worth = torch.where(enough, listed & among(scores, settings.ncandidates), worth)
        if n_documents > settings.nrerank:
            scores = ranked(centroids).masked_fill(~worth, -torch.inf)
            worth = worth & among(scores, settings.nrerank)
        return worth

    def _scans(self, lives: Sequence[npt.NDArray[np.bool_]]) -> "Scans":
        return Scans(self._segments, self._starts, lives, self.device)

    def _held(self, snapshot: Snapshot, here: Mapping[Segment, Part]) -> list[Segment]:
        """The segments that stay on the device; the others are copied there anew by each search. Raises ArgumentError
        where it has no room for one of those. here: segments that are there already."""
        sizes = {segment: _bytes(segment) for segment in snapshot.segments if segment not in here}
        needed, free = sum(sizes.values()), room(self.device)
        left = int(SPARE * free) - needed
        if left >= 0:
            return list(snapshot.segments)
        there = f"{snapshot.folder} needs {needed:,} bytes on {self.device}, which has {free:,} free"
        passing = 2 * max(sizes.values())  # of those that come and go: one, and the one before it
        left = int(SPARE * free) - passing
        if left < 0:
            raise ArgumentError(f"{there}; leave out device=... to search on the processor")
        held = []
        for segment in snapshot.segments:
            if segment in here or sizes[segment] <= left:
                left -= sizes.get(segment, 0)
                held.append(segment)
        warnings.warn(
            f"{there}: each search copies {len(snapshot.segments) - len(held)} of {len(snapshot.segments)} segments "
            "there anew; leave out device=... to search on the processor",
            RuntimeWarning,
            stacklevel=2,
        )
        return held

    def _part(self, segment: Segment) -> Part:
        """On the device; of one that does not stay there a copy, which is read while the one before it is scored."""
        if segment in self._here:
            return self._here[segment]
        part = _part_of(segment, partial(sent, device=self.device))
        if self.device.type == "cuda":
            # The copy before this one is to be done: else page-locked memory would be taken for all of them.
            newest = torch.cuda.current_stream(self.device).record_event()
            before, self._last_copy = self._last_copy, newest
            if before is not None:
                before.synchronize()
        return part


class Scans:
    """The passages that a search may find, of all segments. each: of every segment. pids: (n,), ascending. documents:
    (1, n) numbers below n_documents, equal for those that count as one."""

    def __init__(
        self,
        segments: Sequence[Segment],
        starts: npt.NDArray[np.int64],
        lives: Sequence[npt.NDArray[np.bool_]],
        device: torch.device,
    ) -> None:
        some = [np.flatnonzero(live) for live in lives]
        offsets = [np.asarray(segment.offsets) for segment in segments]
        self.each = [Scan(own, stored, device) for own, stored in zip(some, offsets, strict=True)]
        none = np.zeros(0, np.int64)
        self.n = sum(map(len, some))
        pids = (int(start) + own for start, own in zip(starts, some, strict=False))
        self.pids = sent(np.concatenate([none, *pids]), device)
        owners = [np.asarray(segment.owners)[own] for segment, own in zip(segments, some, strict=True)]
        self._coded_owners = [
            own for own, segment in zip(owners, segments, strict=True) if segment.kind != "flat"
        ]
        self.documents, self.n_documents = self._numbered(owners, device)
        self._device = device

    @cached_property
    def coded_documents(self) -> tuple[Tensor, int]:
        """As `documents` and how many there are, of compressed segments alone."""
        return self._numbered(self._coded_owners, self._device)

    @cached_property
    def coded(self) -> tuple[Tensor, int]:
        """The same where each passage counts for itself."""
        n = sum(map(len, self._coded_owners))
        return torch.arange(n, device=self._device)[None], n

    @staticmethod
    def _numbered(owners: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, int]:
        numbers, dense = np.unique(np.concatenate([np.zeros(0, np.int64), *owners]), return_inverse=True)
        return sent(dense.reshape(1, -1), device), len(numbers)


def _top(pids: Tensor, scores: Tensor, n: int) -> Tensor:
    """Pids and scores of the n best, best first: (2, batch, n). Pids and float32 are exact in float64, so that one copy
    brings both."""
    top = scores.topk(min(n, scores.shape[1]), dim=1)
    return torch.stack([pids[top.indices].double(), top.values.double()])


def _ranked(best: npt.NDArray[np.float64], depth: int, n: int) -> list[Ranking]:
    """Each query's best of n passages, ascending pids; [] where more score as the last does, which is rare: all are to
    be looked at then. best: of `_top`."""
    pids, scores = best[0].astype(np.int64), best[1].astype(np.float32)
    last = scores[:, -1:]
    if scores.shape[1] < n and not ((last == -np.inf) | (scores[:, depth - 1 : depth] > last)).all():
        return []
    found: list[Ranking] = []
    for own_pids, own in zip(pids, scores, strict=True):
        there = own > -np.inf
        order = np.argsort(own_pids[there])
        found.append((own_pids[there][order], _as_maxsim(own[there][order])))
    return found


def _fill(query: Query, padded: Tensor) -> None:
    """(1, n_query, dim), with zeros at its end."""
    padded.zero_()
    padded[0, : len(query)] = torch.from_numpy(np.ascontiguousarray(query))


def _as_maxsim(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """-inf again for passages without tokens."""
    return np.where(scores > NOTHING, scores, np.float32(-np.inf))


def _part_of(segment: Segment, there: Callable[[npt.NDArray[Any]], Tensor]) -> Part:
    offsets = there(np.asarray(segment.offsets))
    if segment.kind == "flat":
        return Part(offsets, there(np.asarray(segment.vectors)), None, None)
    ids = there(segment.centroid_ids().astype(np.int32))
    return Part(offsets, None, ids, there(np.ascontiguousarray(segment.residual_codes)))


def _products(queries: Tensor, vectors: Tensor, tokens: Tensor) -> Tensor:
    """(batch, n_query, dim) → (n_tokens, batch, n_query)."""
    return torch.einsum("td,bqd->tbq", vectors[tokens].float(), queries)


def _by_centroid(table: Tensor, part: Part, scan: Scan, norms: Tensor) -> Tensor:
    ids = part.ids
    assert ids is not None
    return over_passages(lambda tokens: table[ids[tokens].long()], part.offsets, scan, norms)


def room(device: torch.device) -> int:
    """Bytes that a device has for codes and scores; no number on a processor, whose system pages."""
    return free_bytes(device) if device.type == "cuda" else sys.maxsize


def _bytes(segment: Segment) -> int:
    if segment.kind == "flat":
        return segment.vectors.nbytes + segment.offsets.nbytes
    return 4 * segment.n_tokens + segment.residual_codes.nbytes + segment.offsets.nbytes
