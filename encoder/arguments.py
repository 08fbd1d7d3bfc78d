"""Checks of what callers pass: iterables walked once, strings that are no lists, NumPy's integers, arrays, paths."""

import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from encoder.errors import ArgumentError

__all__ = [
    "absolute",
    "as_integer",
    "as_iterable",
    "as_list",
    "as_number",
    "as_path",
    "as_rows",
    "as_strings",
    "as_vectors",
    "did_you_mean",
    "known_keywords",
    "shown",
]

P = ParamSpec("P")
R = TypeVar("R")

# What other libraries call it.
ELSEWHERE = {"top_k": "k", "topk": "k", "n": "k", "n_results": "k", "limit": "k", "where": "filter"}


def shown(value: Any) -> str:
    """A value for a message, on one line and cut short; by its type where Python cannot write it (an integer of 5,000
    digits)."""
    try:
        return " ".join(f"{value!r:.60}".split("\n"))
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


def as_rows(value: Any, name: str, dim: int | None = None) -> npt.NDArray[np.float32]:
    """The vectors of one text: (n_tokens, dim) float32, from anything that NumPy reads as such. What is too large for
    float32 is infinite. Where the dim is known, a text without tokens may be any empty array."""
    try:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name} is no array: {shown(value)}; pass (n_tokens, {dim or 'dim'})") from None
    if rows.size == 0 and dim is not None:
        return rows.reshape(0, dim)
    if rows.ndim != 2 or dim not in (None, rows.shape[1]):
        raise ArgumentError(f"{name} has shape {rows.shape}; pass (n_tokens, {dim or 'dim'})")
    return rows


def as_vectors(value: Any, name: str, dim: int | None = None) -> npt.NDArray[np.float32]:
    """As `as_rows`, and finite."""
    vectors = as_rows(value, name, dim)
    if not np.isfinite(vectors).all():
        raise ArgumentError(f"{name} has a value that is not finite; check the encoder that made it")
    return vectors


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is unknown: those that come near, else all of them, or the first ten."""
    names = sorted(known)
    near = [ELSEWHERE[name]] if ELSEWHERE.get(name) in names else difflib.get_close_matches(name, names)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names[:10]) or 'none'}"


def known_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse a keyword that the function has not, with the one that was meant."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise ArgumentError(f"{function.__name__} has no {name}; {did_you_mean(name, known)}")
        return function(*args, **kwargs)

    return checked


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path, with a user's name for their folder. Raises ArgumentError for what is none."""
    try:
        return Path(path).expanduser()
    except TypeError:
        raise ArgumentError(
            f"path is {shown(path)} ({type(path).__name__}); pass a string or a Path"
        ) from None
    except RuntimeError:  # ~name of nobody
        raise ArgumentError(
            f"path is {str(path)!r}, and there is no user of that name; write the folder out"
        ) from None


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path that stays the same when the process changes its folder. Links are kept as they are."""
    return as_path(path).absolute()
