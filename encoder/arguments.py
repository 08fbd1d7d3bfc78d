"""Checks of what callers pass: iterables walked once, strings that are no lists, NumPy's integers, paths."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encoder.errors import ArgumentError

__all__ = ["absolute", "as_integer", "as_iterable", "as_list", "as_number", "as_strings", "shown"]


def shown(value: Any) -> str:
    """A value for a message, cut short; by its type where Python cannot write it (an integer of 5,000 digits)."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def as_iterable(values: Any, name: str, of: str = "values") -> Iterable[Any]:
    """Any iterable, as it is. A string, bytes or a mapping is one value, not several."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        found = f"the string {values!r:.60}" if isinstance(values, str) else type(values).__name__
        raise ArgumentError(f"{name} is {found}; pass a list of {of}")
    return values


def as_list(values: Any, name: str, of: str = "values") -> list[Any]:
    """Any iterable, a generator too, walked once. A string, bytes or a mapping is one value, not several."""
    return list(as_iterable(values, name, of))


def as_strings(values: Any, name: str) -> list[str]:
    """A list of strings from any iterable. Nothing is turned into a string."""
    found = as_list(values, name, "strings")
    for i, value in enumerate(found):
        if not isinstance(value, str):
            raise ArgumentError(f"{name}[{i}] is {shown(value)} ({type(value).__name__}); pass strings")
    return found


def as_integer(value: Any, name: str, least: int | None = None) -> int:
    """An integer, NumPy's too; no bool, no float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ArgumentError(f"{name}={shown(value)} is {type(value).__name__}; pass an integer")
    if least is not None and value < least:
        raise ArgumentError(f"{name}={shown(int(value))}; pass {name} >= {least}")
    return int(value)


def as_number(value: Any, name: str) -> float:
    """A finite number, NumPy's too; no bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise ArgumentError(f"{name}={shown(value)} is {type(value).__name__}; pass a number")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond float64
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(f"{name}={shown(value)}; pass a finite number")
    return number


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path that stays the same when the process changes its folder. Links are kept as they are."""
    return Path(path).expanduser().absolute()
