"""Python threads that each compute on one thread of torch or of numpy, and torch in a process that was forked.

torch shares out every single operation among its threads, which wait for each other by spinning: where another
program takes turns with one of them, two are several times slower than one; and so does numpy. Threads that each take
whole batches wait for nobody.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = [
    "computing_threads",
    "end_with_parent",
    "in_order",
    "numpy_libraries",
    "shared_threads",
    "thread_count",
    "threads_at_most",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = threading.Lock()
_here = threading.local()


def thread_count() -> int:
    """Threads that work begun in this thread computes on: torch's number where torch is loaded, which
    `torch.set_num_threads` sets; else OMP_NUM_THREADS, or the processors that the process may use; and no more than
    `threads_at_most` says. Loads nothing."""
    return min(_of_the_process(), getattr(_here, "most", sys.maxsize))


@contextmanager
def threads_at_most(most: int) -> Iterator[None]:
    """Within, what this thread begins takes no more threads, itself included: for work side by side."""
    before, _here.most = getattr(_here, "most", sys.maxsize), most
    try:
        yield
    finally:
        _here.most = before


def _of_the_process() -> int:
    if torch_threads := getattr(sys.modules.get("torch"), "get_num_threads", None):
        return int(torch_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order. Only `ahead` are under way at once, whatever the corpus."""
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            under_way.append((item, submit(item)))
            if len(under_way) > ahead:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


def shared_threads(count: int) -> ThreadPoolExecutor:
    """The process's `count` threads for what is no torch; all callers share them."""
    return _shared(os.getpid(), count)  # by process, as in computing_threads


@functools.cache
def _shared(pid: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="latewood")


@functools.cache
def numpy_libraries() -> Any:
    """Those that numpy computes with, to limit their threads. Found once, for that takes as long as a query."""
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def end_with_parent() -> None:
    """In a process of multiprocessing: end when the one that started it has, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        # Pipes tell nothing: a process may hold both their ends.
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def computing_threads(count: int) -> ThreadPoolExecutor:
    """The process's `count` threads with one torch thread each; all callers share them."""
    # By process: after a fork the child has the pool's record but none of its threads.
    return _pool(os.getpid(), count)


@functools.cache
def _pool(pid: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="encode", initializer=_compute_alone)


def _compute_alone() -> None:
    """One torch thread for this thread; nothing changes for others.

    torch keeps the number for each thread, and the one set last for threads to come: that is set again by a
    thread which ends then.
    """
    import torch

    with _starting:
        to_come = torch.get_num_threads()  # of a thread that never set it
        turn = threading.Event()

        def set_again() -> None:
            turn.wait()
            torch.set_num_threads(to_come)

        other = threading.Thread(target=set_again)
        other.start()
        torch.set_num_threads(1)
        turn.set()
        other.join()


def _after_fork() -> None:
    """A forked process has the records of its parent's OpenMP threads and not the threads: the next operation that
    is shared out would wait for them for ever. With one thread none is. Threads that the child starts have
    records of their own; torch.set_num_threads there is safe."""
    global _starting
    _starting = threading.Lock()  # a thread that is not here may hold the old one
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    if faiss := sys.modules.get("faiss"):  # it comes with an OpenMP of its own
        faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
