"""How every kernel is compiled, what stands in where it cannot be, and how passages are shared out among threads."""

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from encoder.compiling import working
from encoder.threads import shared_threads, thread_count, threads_at_most

__all__ = ["cgutils", "compiled", "each_on_a_thread", "frozen", "in_parts", "intrinsic", "types", "usable"]

F = TypeVar("F", bound=Callable[..., Any])
Item = TypeVar("Item")
Result = TypeVar("Result")

Kernel = Callable[..., None]

# numba is typed in part, and differently from release to release; what builds LLVM's code is not.
cgutils: Any = importlib.import_module("numba.core.cgutils")
types: Any = importlib.import_module("numba.types")
intrinsic: Any = importlib.import_module("numba.extending").intrinsic
_config: Any = importlib.import_module("numba.core.config")

SERIAL_STEPS = 1 << 20  # below this, about 1 ms, a second thread saves less than waking it costs


def compiled(function: F) -> F:
    """numba's njit, without the GIL: compiled at the first call and kept in numba's cache.

    The cache lies beside the source or, where that cannot be written, in the user's cache folder. A cached
    kernel is as old as its own file, so code that is compiled into a kernel must be in the kernel's file.
    """
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither folder can be written: each process compiles for itself
        return cast(F, njit(nogil=True)(function))


@functools.cache
def usable(fast: F, plain: F, example: Callable[[], tuple[Any, ...]]) -> F:
    """`fast`, if this machine compiles it, which a call with `example()` shows."""
    if _config.DISABLE_JIT:
        return plain
    line = "vector kernels could not be compiled ({reason}); search takes plain ones, several times slower"
    return working(fast, plain, example, line)


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as a plain read-only one: numba compiles anew for each mix of writable and mapped ones."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def in_parts(work: Callable[[slice], None], steps: npt.NDArray[np.int64]) -> None:
    """Call `work` on slices of passages, on the process's threads, where there is enough to do.

    steps: (n,) the cost of each passage, in nanoseconds or so. The pool is shared, so that searches side by
    side do not take more threads than one; FAISS and torch have nothing to do meanwhile.
    """
    threads = thread_count()
    if threads == 1 or len(steps) < 2 or steps.sum() < SERIAL_STEPS:
        work(slice(0, len(steps)))
        return
    ends = np.cumsum(np.clip(steps, 0, 1 << 40))  # ascending even where a damaged file has lengths below 0
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, threads) // threads)
    edges = [0, *cuts.tolist(), len(steps)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    pool = shared_threads(threads)
    others = [pool.submit(work, part) for part in parts[1:]]
    try:
        work(parts[0])  # here, where nothing has to be woken
    finally:
        wait(others)  # they write into arrays of the caller
    for other in others:
        other.result()


def each_on_a_thread(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """work(item) for every item, in order, on the same threads: each item on one, and `in_parts` inside it."""
    threads = thread_count()
    if threads == 1:
        return [work(item) for item in items]

    def alone(item: Item) -> Result:
        with threads_at_most(1):  # a thread of the pool waits for nothing else of the pool
            return work(item)

    return list(shared_threads(threads).map(alone, items))
