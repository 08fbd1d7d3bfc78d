"""Texts encoded by other threads, a few batches ahead of the one that stores them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from encoder.closing import Closing
from encoder.embeddings import TokenEmbeddings
from encoder.progress import Step
from indexing.reading.windows import Windows
from indexing.settings import DocumentEncoder, IndexSettings
from indexing.writing.encoding import Passages, encode_records
from indexing.writing.records import AddReport, Record

__all__ = ["Ahead", "Wanted", "tokens_at_once"]

BATCHES = 2  # of tokens that an encoder cuts the texts of one call into, by their lengths
WAITING = 2  # batches under way for each call at once: one is encoded, one is read or waits to be stored

Wanted = Callable[[list[Record], Iterable[Record]], list[Record]]
Made = tuple[dict[int, Passages], AddReport]


def tokens_at_once(encoder: DocumentEncoder, settings: IndexSettings) -> int:
    """Of a batch of records, for an encoder that says how many tokens it computes together; no more than a commit has,
    which a limit of memory makes smaller."""
    return min(BATCHES * getattr(encoder, "batch_tokens", 0), settings.commit_tokens)


class Ahead(Closing):
    """Encodes batches of records while those before them are coded and written: `batches` and `passages` are what a
    writer takes. The records are read, and all is stored, by the thread that calls.

    An error of the records comes once all that was read before it is stored, as if nothing had been ahead.
    """

    def __init__(
        self,
        encoder: DocumentEncoder,
        windows: Windows | None,
        wanted: Wanted = lambda batch, earlier: batch,
    ) -> None:
        """wanted: a batch, and the records under way before it → those to encode. encoder: is called by one thread at a
        time, or by as many as it says in `calls_at_once`; one that says so also takes `progress`, by which a call
        is stopped in its midst."""
        self._dim, self._windows, self._wanted = encoder.dim, windows, wanted
        self._stopped = threading.Event()
        encode: Any = encoder.encode_documents
        calls = getattr(encoder, "calls_at_once", None)
        self._encode: Callable[[list[str]], TokenEmbeddings] = (
            encode if calls is None else partial(encode, progress=self._go_on)
        )
        self._most = WAITING * (calls or 1)
        self._threads = ThreadPoolExecutor(calls or 1, thread_name_prefix="ahead")
        self._under_way: deque[tuple[list[Record], Future[Made]]] = deque()
        self._made: dict[int, Passages] = {}
        self._counts = AddReport()

    def close(self) -> None:
        """Nothing is encoded any more; waits for what a call has begun."""
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def batches(self, stream: Iterable[list[Record]]) -> Iterator[list[Record]]:
        """The same batches, each when its passages are made."""
        under_way, stream = self._under_way, iter(stream)
        end: Exception | None = None
        while under_way or end is None:
            if end is None and len(under_way) < self._most:
                try:
                    batch = next(stream)
                except Exception as error:  # StopIteration, or the user's own
                    end = error
                else:
                    earlier = chain.from_iterable(own for own, _ in under_way)
                    under_way.append((batch, self._threads.submit(self._of, self._wanted(batch, earlier))))
            if under_way and (end is not None or len(under_way) == self._most or under_way[0][1].done()):
                batch, future = under_way.popleft()
                self._made, self._counts = future.result()
                yield batch
        if not isinstance(end, StopIteration):
            assert end is not None
            raise end

    def passages(self, records: Sequence[Record], report: AddReport) -> list[Passages]:
        """Of those of the newest batch that a writer wants."""
        if self._made.keys() != {record.number for record in records}:  # something was written meanwhile
            self._made, self._counts = self._of(records)
        report.count(self._counts)
        return [self._made[record.number] for record in records]

    def _of(self, records: Sequence[Record]) -> Made:
        passages, counts = encode_records(self._encode, self._dim, self._windows, records)
        return {record.number: own for record, own in zip(records, passages, strict=True)}, counts

    def _go_on(self, step: Step) -> None:
        if self._stopped.is_set():
            raise CancelledError
