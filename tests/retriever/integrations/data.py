"""Metadata of 500 random documents, and what Python says of a comparison."""

from collections.abc import Iterable
from operator import ge, gt, le, lt
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

__all__ = [
    "DATES",
    "KEYS",
    "NUMBERS",
    "TEXTS",
    "VALUES",
    "Some",
    "assert_all_drawn",
    "python_compare",
    "python_contains",
    "some_documents",
]

KEYS = ["n", "s", "odd key", "tags", "nobody"]  # no document has the last
WORDS = ["", "a", "b", "ab", "aB", "é", "É", "it's", "1", "true", "a_b", "%"]
DATES = [
    "2024-02-29", "2024-02-29T00:00:00", "2024-02-29T00:00:00Z", "2024-02-29T01:00:00+01:00", "2024-02-29T01:00:00",
    "2024-03-01", "2024-02-28T23:30:00.5-01:00", "2024-02-29 00:30:00",
]  # fmt: skip
PLAIN = [-2, 0, 1, 2, 0.5, 1.0, True, False]
TEXTS = st.sampled_from(WORDS[:8])
NUMBERS = st.sampled_from([-2, -1, 0, 1, 1.0, 0.5, 2])
VALUES = TEXTS | NUMBERS | st.booleans()


class Some(list[Any]):
    """Many, of which a failing example shows the number alone."""

    def __repr__(self) -> str:
        return f"<{len(self)} documents>"


def some_documents(n: int = 500, *, dates: bool = False, seed: int = 0) -> Some:
    random = np.random.default_rng(seed)

    def pick(values: list[Any]) -> Any:
        return values[int(random.integers(len(values)))]

    def value() -> Any:
        kind = pick(["none", "text", "text", "plain", "plain", "list", *(["date"] * (2 * dates))])
        several = [pick([*WORDS, *PLAIN]) for _ in range(int(random.integers(3)))]
        return {
            "none": None,
            "text": pick(WORDS),
            "plain": pick(PLAIN),
            "list": several,
            "date": pick(DATES),
        }[kind]

    return Some({key: value() for key in KEYS[:-1] if random.random() < 0.7} for _ in range(n))


def python_compare(operator: str, value: Any, wanted: Any) -> bool:
    """What Python cannot compare is neither before nor after; nor are lists, of which filters have none."""
    try:
        return not isinstance(value, list) and {"<": lt, "<=": le, ">": gt, ">=": ge}[operator](value, wanted)
    except TypeError:
        return False


def python_contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    return isinstance(value, list) and wanted in value


def assert_all_drawn(filters: st.SearchStrategy[Any], operators: Iterable[str]) -> None:
    """Each operator is in some filter of those that a property is tried on, within another."""
    seen: set[Any] = set()

    def look(found: Any, depth: int = 0) -> None:
        if isinstance(found, dict):
            if depth > 1:
                seen.update([*found, found.get("operator")])
            for one in found.values():
                look(one, depth + 1)
        elif isinstance(found, list | tuple):
            for one in found:
                look(one, depth + 1)

    settings(max_examples=300, derandomize=True, deadline=None, database=None)(
        given(filters)(lambda one: look(one))
    )()
    assert set(operators) <= seen
