"""Kernels that are compiled on the spot, and what stands in where they cannot be."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["working"]

F = TypeVar("F", bound=Callable[..., Any])


def working(fast: F, plain: F, example: Callable[[], tuple[Any, ...]], consequence: str) -> F:
    """`fast`, if this machine compiles it, which a call with `example()` shows; else `plain`, and one line says why.

    consequence: the line, with {reason} in it.
    """
    try:
        fast(*example())
    except Exception as error:  # whatever a compiler may say
        reason = str(error).partition("\n")[0] or type(error).__name__
        warnings.warn(consequence.format(reason=reason), RuntimeWarning, stacklevel=2)
        return plain
    return fast
