"""How every numba kernel is compiled. Importing this imports numba, a third of a second."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["compiled", "compiled_with", "frozen"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """numba's njit, without the GIL: compiled at the first call and kept in numba's cache.

    The cache lies beside the source or, where that cannot be written, in the user's cache folder. A cached
    kernel is as old as its own file, so code that is compiled into a kernel must be in the kernel's file.
    """
    return _compiled(function)


def compiled_with(fastmath: Collection[str]) -> Callable[[F], F]:
    """As `compiled`, with these of LLVM's freedoms in floating point."""
    return lambda function: _compiled(function, fastmath=set(fastmath))


def _compiled(function: F, **options: Any) -> F:
    try:
        return cast(F, njit(nogil=True, cache=True, **options)(function))
    except RuntimeError:  # neither folder can be written: each process compiles for itself
        return cast(F, njit(nogil=True, **options)(function))


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as a plain read-only one: numba compiles anew for each mix of writable and mapped ones."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
