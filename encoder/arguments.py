"""Checks of what callers pass: iterables walked once, strings that are no lists, NumPy's integers, paths."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encoder.errors import ArgumentError

__all__ = ["absolute", "as_integer", "as_list", "as_number", "as_strings"]


def as_list(values: Any, name: str, of: str = "values") -> list[Any]:
    """Any iterable, a generator too, walked once. A string, bytes or a mapping is one value, not several."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        shown = f"the string {values!r:.60}" if isinstance(values, str) else type(values).__name__
        raise ArgumentError(f"{name} is {shown}; pass a list of {of}")
    return list(values)


def as_strings(values: Any, name: str) -> list[str]:
    """A list of strings from any iterable. Nothing is turned into a string."""
    found = as_list(values, name, "strings")
    for i, value in enumerate(found):
        if not isinstance(value, str):
            raise ArgumentError(f"{name}[{i}] is {value!r:.60} ({type(value).__name__}); pass strings")
    return found


def as_integer(value: Any, name: str, least: int | None = None) -> int:
    """An integer, NumPy's too; no bool, no float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ArgumentError(f"{name}={value!r:.60} is {type(value).__name__}; pass an integer")
    if least is not None and value < least:
        raise ArgumentError(f"{name}={value}; pass {name} >= {least}")
    return int(value)


def as_number(value: Any, name: str) -> float:
    """A finite number, NumPy's too; no bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise ArgumentError(f"{name}={value!r:.60} is {type(value).__name__}; pass a number")
    if not math.isfinite(value):
        raise ArgumentError(f"{name}={value}; pass a finite number")
    return float(value)


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path that stays the same when the process changes its folder. Links are kept as they are."""
    return Path(path).expanduser().absolute()
