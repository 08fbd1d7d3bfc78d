"""What frameworks ask of metadata, said in Latewood's filter language (docs/guides/filters.md).

Their filters have two values where ours have three: a missing key equals None, and is unequal to all else. So each
condition is written twice, as it is met and as it is not, and `not` takes the other one.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

import numpy as np

from encoder.arguments import shown
from encoder.errors import ArgumentError
from indexing.storage.filters import parse_filter, written_strings

__all__ = [
    "EVERY",
    "NONE",
    "Condition",
    "Field",
    "Moment",
    "all_of",
    "any_of",
    "as_values",
    "said",
    "unsayable",
]


class Condition(NamedTuple):
    """Filter expressions: one that is met where the condition holds, one that is met where it does not."""

    met: str
    unmet: str

    def __invert__(self) -> "Condition":
        return Condition(self.unmet, self.met)


@dataclass(frozen=True)
class Moment:
    """A date as a text, to be compared by moment."""

    text: str


EVERY = Condition("doc_id is not null", "doc_id is null")
NONE = ~EVERY


def all_of(conditions: Iterable[Condition]) -> Condition:
    parts = list(conditions)
    if not parts:
        return EVERY
    if len(parts) == 1:
        return parts[0]
    return Condition(
        f"({' and '.join(part.met for part in parts)})", f"({' or '.join(part.unmet for part in parts)})"
    )


def any_of(conditions: Iterable[Condition]) -> Condition:
    return ~all_of(~condition for condition in conditions)


class Field:
    """A metadata key, of which conditions are made; it may be one that no document has.

    Values compare as Python's do, so 1 equals True; what Python cannot compare is neither before nor after. A
    `date` or `datetime` is compared by moment with strings that are dates.
    """

    def __init__(self, names: Sequence[str], operator: str) -> None:
        """names: on the way to the key; none for the document's id. operator: what errors name."""
        for name in names:
            if not name or '"' in name:
                raise ArgumentError(f"the key {name!r} cannot be named in a filter; give it another name")
        self.operator = operator
        self.key = ".".join(f'"{name}"' for name in names) + "?" if names else "doc_id"

    def equals(self, value: Any) -> Condition:
        return self.among([value])

    def among(self, values: Iterable[Any]) -> Condition:
        """One of the values equals it."""
        given = list(values)
        literals = [literal for value in given if value is not None for literal in self._equal(value)]
        if self.key == "doc_id":  # a string, so nothing else equals it
            literals = [literal for literal in literals if literal.startswith("'")]
        conditions = [self.is_null()] if any(value is None for value in given) else []
        if literals:
            conditions.append(self._leaf(f"{self.key} in ({', '.join(literals)})"))
        return any_of(conditions)

    def compares(self, operator: str, value: Any) -> Condition:
        """operator: <, <=, > or >=."""
        if value is None or (self.key == "doc_id" and not isinstance(value, str)):
            return NONE
        value = _plain(value)
        if not isinstance(value, int | float):
            return self._leaf(f"{self.key} {operator} {self._literal(value)}")
        parts = [f"{self.key} {operator} {self._literal(value + 0)}"]  # True + 0 is 1
        met = {"<": lt, "<=": le, ">": gt, ">=": ge}[operator]
        parts += [f"{self.key} = {str(flag).lower()}" for flag in (True, False) if met(flag, value)]
        return self._leaf(f"({' or '.join(parts)})")

    def contains(self, value: Any) -> Condition:
        """A string within a string, a value among the items of an array."""
        if self.key == "doc_id" and not isinstance(value, str):
            return NONE
        return any_of(self._leaf(f"{self.key} contains {literal}") for literal in self._equal(value))

    def contains_text(self, text: Any, *, ignore_case: bool = False) -> Condition:
        """A string within a string."""
        self._check_text(text)
        if ignore_case:
            return self._leaf(f"{self.key} icontains {self._literal(text)}")
        return self._leaf(f"({self.key} contains {self._literal(text)} and {self.key} like '%')")

    def like(self, pattern: Any) -> Condition:
        self._check_text(pattern)
        return self._leaf(f"{self.key} like {self._literal(pattern)}")

    def is_null(self) -> Condition:
        return Condition(f"{self.key} is null", f"{self.key} is not null")

    def is_empty(self) -> Condition:
        return Condition(f"{self.key} is empty", f"{self.key} is not empty")

    def _check_text(self, value: Any) -> None:
        if not isinstance(value, str):
            raise ArgumentError(
                f"the filter's operator {self.operator!r} has the value {shown(value)}; pass a string"
            )

    def _leaf(self, text: str) -> Condition:
        """Of a comparison that is unknown where the key is missing."""
        return Condition(text, f"({self.key} is null or not {text})")

    def _equal(self, value: Any) -> list[str]:
        """Literals of all that equals a value in Python."""
        value = _plain(value)
        twin = isinstance(value, int | float) and value in (0, 1)
        twins = [bool(value) if not isinstance(value, bool) else int(value)] if twin else []
        return [self._literal(one) for one in (value, *twins)]

    def _literal(self, value: Any) -> str:
        value = _plain(value)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return written_strings(value)
        if isinstance(value, date | Moment):
            return f"date '{value.text if isinstance(value, Moment) else value.isoformat()}'"
        if isinstance(value, int | float) and math.isfinite(value):
            return repr(value)
        raise ArgumentError(
            f"the filter's operator {self.operator!r} has the value {shown(value)} ({type(value).__name__}); "
            "pass a string, a finite number, a bool or a date"
        )


def said(filters: Any, condition: Callable[[Any], Condition]) -> str | None:
    """A framework's filters in Latewood's language; a text is in it already, and None or {} asks nothing.

    Raises ArgumentError for what is longer or deeper than a filter may be.
    """
    if isinstance(filters, str):
        return filters
    if filters is None or filters == {}:
        return None
    try:
        text = condition(filters).met
    except RecursionError:
        raise ArgumentError("the filter is nested too deeply; pass at most 100 levels") from None
    parse_filter(text)
    return text


def as_values(value: Any, operator: str) -> list[Any]:
    """A list or tuple that an operator takes."""
    if not isinstance(value, list | tuple):
        raise ArgumentError(
            f"the filter's operator {operator!r} has the value {shown(value)} ({type(value).__name__}); pass a list"
        )
    return list(value)


def unsayable(operator: Any, known: Iterable[str]) -> ArgumentError:
    """What to raise for an operator that has no counterpart."""
    return ArgumentError(
        f"the filter's operator {shown(operator)} is none that Latewood can say; pass one of {', '.join(known)}"
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
