"""What takes a while is done in threads, beside the event loop, and not more of it waits than can be answered soon.

Queries that arrive within a few milliseconds are answered as one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from retriever.serving.errors import busy

__all__ = ["Batcher", "Threads"]

AT_ONCE = 16  # items of a batch: while it is searched, the answers of the last one are written and the next one comes

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    """A request's items. gone: nobody waits for the answer any more."""

    items: Sequence[Item]
    done: anyio.Event = field(default_factory=anyio.Event)
    gone: bool = False
    results: Sequence[Result] = ()
    error: Exception | None = None


class Batcher(Generic[Item, Result]):
    """Collects the items of many requests for one function that takes many at once.

    answer: items → one result each, in order; runs in a thread, one call at a time for each `run`. While a batch is
    answered the next one gathers, so the more clients there are the larger are the batches.
    """

    def __init__(
        self, answer: Callable[[Sequence[Item]], Sequence[Result]], *, waiting: int, seconds: float
    ) -> None:
        """waiting: requests that may wait, at most. seconds: how long the first of a batch waits for others."""
        self._answer = answer
        self._seconds = seconds
        self._most = waiting
        self._put, self._get = anyio.create_memory_object_stream[_Waiting[Item, Result]](waiting)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._put.statistics().current_buffer_used

    async def ask(self, items: Sequence[Item]) -> Sequence[Result]:
        """One result an item. Raises 503 where too many wait already; if it is cancelled before its batch is begun,
        nothing is done for it."""
        one: _Waiting[Item, Result] = _Waiting(items)
        try:
            self._put.send_nowait(one)
        except anyio.WouldBlock:
            raise too_many(self._most) from None
        try:
            await one.done.wait()
        finally:
            one.gone = True
        if one.error is not None:
            raise one.error
        return one.results

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer batch after batch, until it is cancelled. Run twice, two are answered side by side."""
        limiter = anyio.CapacityLimiter(1)
        task_status.started()
        async with self._put, self._get:
            async for first in self._get:
                batch = [one for one in await self._gathered(first) if not one.gone]
                if batch:
                    await anyio.to_thread.run_sync(self._answered, batch, limiter=limiter)
                for one in batch:
                    one.done.set()

    async def _gathered(self, first: _Waiting[Item, Result]) -> list[_Waiting[Item, Result]]:
        batch, n = [first], len(first.items)
        with anyio.move_on_after(self._seconds):
            while n < AT_ONCE:
                try:
                    one = self._get.receive_nowait()
                except anyio.WouldBlock:
                    if not self._seconds:
                        break
                    one = await self._get.receive()
                batch.append(one)
                n += len(one.items)
        return batch

    def _answered(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            left = iter(self._answer([item for one in batch for item in one.items]))
            for one in batch:
                one.results = [next(left) for _ in one.items]
        except Exception as error:
            for one in batch:
                one.error = error


class Threads:
    """A few threads for what is no search of a batch."""

    def __init__(self, threads: int, *, waiting: int) -> None:
        """waiting: calls that may wait for a thread, at most."""
        self._limiter = anyio.CapacityLimiter(threads)
        self._most = waiting

    @property
    def waiting(self) -> int:
        return self._limiter.statistics().tasks_waiting

    async def run(self, work: Callable[[], Result]) -> Result:
        """work(). Raises 503 where too many wait already. What is cancelled before it has a thread is not begun; what
        has one ends at its next `anyio.from_thread.check_cancelled()`."""
        if self.waiting >= self._most:
            raise too_many(self._most)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def too_many(most: int) -> Exception:
    return busy(f"{most} requests wait already; try again in a second")
