"""Batches on a GPU: as many tokens as its memory takes, the next one computed while the last one's vectors come back.

The same lines run on any torch device; what only a GPU has, its streams and its memory, is left out elsewhere.
"""

import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from encoder.batches import BATCH_TOKENS, Job, Vectors, vectors_of
from encoder.devices import why_full
from encoder.errors import ArgumentError
from encoder.model.late_interaction import LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.model.packing import filled, length_sorted_batches, pack
from encoder.replay import Replay, stream_on

__all__ = ["DeviceRunner"]

MOST_TOKENS = 1 << 17  # of a batch: more gains nothing, for every kernel has enough to do
SHARE = 0.6  # of the free memory, for a batch and the one before it
PROBE = (512,) * 8  # lengths of the batch by which memory is measured
AHEAD = 2  # batches under way
SHORT = (16, 32, 64)  # tokens that a text alone is filled up to


@dataclass
class Started:
    """A batch whose vectors, (n_tokens, dim), are on their way; `ready` is when they are here."""

    job: Job
    rows: Tensor
    ready: "torch.cuda.Event | None"


class DeviceRunner:
    """A model on a device, and how many tokens it takes at a time."""

    def __init__(self, model: LateInteractionModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self._limit: int | None = None  # of tokens, once memory has run out
        self._fits: int | None = None
        self._copying = stream_on(device) if device.type == "cuda" else None
        self._short: dict[int, Replay] = {}
        self._recording = threading.Lock()
        self._measuring = threading.Lock()
        # Several threads may call: kernels of one batch are launched before those of another, which then finds the
        # memory of its layers free again.
        self._launching = threading.Lock()

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, by what one of PROBE took of the device's memory; measured once."""
        with self._measuring:
            if self._fits is None:
                self._fits = self._tokens_that_fit() if self.device.type == "cuda" else BATCH_TOKENS
            return self._fits

    def _tokens_that_fit(self) -> int:
        try:
            a_token = self._measure()
        except torch.cuda.OutOfMemoryError:  # the first batches will find out how few it may take
            return BATCH_TOKENS
        room = SHARE * free_bytes(self.device) / max(a_token, 1)
        return max(BATCH_TOKENS, min(MOST_TOKENS, int(room)))

    def _measure(self) -> float:
        """The most bytes that a batch of PROBE takes, by token."""
        longest = self.model.backbone.config.max_positions
        ids = [[0] * min(length, longest) for length in PROBE]
        job = Job(list(range(len(ids))), ids, [len(own) for own in ids], None, 1)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._finish(self._start(job))
        return (torch.cuda.max_memory_allocated(self.device) - before) / sum(map(len, ids))

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]:
        """Each job with its result, in order. Where memory runs out, batches are half as large from then on; one line
        says so. Raises ArgumentError where one text alone is too much."""
        under_way: deque[tuple[Job, list[Started]]] = deque()
        for job in jobs:
            under_way.append((job, list(self._started(job))))
            if len(under_way) == AHEAD:
                yield self._done(*under_way.popleft())
        while under_way:
            yield self._done(*under_way.popleft())

    def _done(self, job: Job, parts: list[Started]) -> tuple[Job, Vectors]:
        vectors: Vectors = [job_vectors for part in parts for job_vectors in self._finish(part)]
        order = [place for part in parts for place in part.job.places]
        by_place = dict(zip(order, vectors, strict=True))
        return job, [by_place[place] for place in job.places]

    def _started(self, job: Job) -> Iterator[Started]:
        waiting = deque([job])
        while waiting:
            part = waiting.popleft()
            smaller = list(_parts(part, self._limit))
            if len(smaller) > 1:
                waiting.extendleft(reversed(smaller))
                continue
            try:
                started = self._start(part)
            except torch.cuda.OutOfMemoryError as error:
                self._halve(part, error)
                torch.cuda.empty_cache()
                waiting.appendleft(part)
            else:
                yield started

    def _halve(self, job: Job, error: Exception) -> None:
        tokens = sum(map(len, job.ids))
        if len(job.ids) == 1:
            raise ArgumentError(
                f"a text of {tokens:,} tokens does not fit the memory of {self.device} ({why_full(error)}); "
                "pass a smaller document_length, or window"
            ) from None
        if self._limit is None:
            warnings.warn(
                f"{self.device} ran out of memory at {tokens:,} tokens; batches are smaller from now on",
                RuntimeWarning,
                stacklevel=2,
            )
        self._limit = tokens // 2  # it was no more than the last limit

    @torch.inference_mode()
    def _start(self, job: Job) -> Started:
        if len(job.ids) == 1 and len(job.ids[0]) <= SHORT[-1] and self._recordable:
            return Started(job, self._of_one(job.ids[0], job.n_keys[0]), None)
        batch = pack(job.ids, job.n_keys)
        with self._launching:
            rows = self.model(batch.to(self.device))  # (n_tokens, dim) float32
        if self._copying is None:
            return Started(job, rows, None)
        here = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        self._copying.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copying):
            here.copy_(rows, non_blocking=True)
        rows.record_stream(self._copying)  # its memory may be used again only then
        return Started(job, here, self._copying.record_event())

    @property
    def _recordable(self) -> bool:
        return isinstance(getattr(self.model, "backbone", None), ModernBert)

    def _of_one(self, ids: list[int], n_keys: int) -> Tensor:
        """The vectors of a short text, as a query is, by kernels that are launched together: (n_tokens, dim)."""
        length = next(length for length in SHORT if length >= len(ids))
        with self._recording:
            if length not in self._short:
                batch, model = filled(length, self.device), self.model
                self._short[length] = Replay(
                    lambda numbers: model(batch(numbers)), (length + 1,), torch.int64, self.device
                )

        def fill(numbers: Tensor) -> None:
            numbers.zero_()
            numbers[: len(ids)] = torch.tensor(ids)
            numbers[length] = n_keys

        return self._short[length](fill)[: len(ids)]

    def _finish(self, started: Started) -> Vectors:
        if started.ready is not None:
            started.ready.synchronize()
        # A copy: memory of a page-locked kind is scarce.
        return vectors_of(started.rows.cpu().numpy().copy(), started.job)


def free_bytes(device: torch.device) -> int:
    """What a GPU has left, with what torch holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _parts(job: Job, limit: int | None) -> Iterator[Job]:
    """A job in batches of at most `limit` tokens, or of one text."""
    if limit is None or sum(map(len, job.ids)) <= limit:
        yield job
        return
    for some in length_sorted_batches([len(ids) for ids in job.ids], limit):
        yield replace(
            job,
            places=[job.places[i] for i in some],
            ids=[job.ids[i] for i in some],
            n_keys=[job.n_keys[i] for i in some],
            kept=None if job.kept is None else [job.kept[i] for i in some],
        )
