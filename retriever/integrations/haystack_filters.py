"""Haystack's filters in Latewood's language, without Haystack: comparisons {"field", "operator", "value"} and logic
{"operator", "conditions"}."""

from collections.abc import Callable, Mapping
from typing import Any

from encoder.arguments import shown
from encoder.errors import ArgumentError
from indexing.storage.dates import read_date
from retriever.integrations.filters import NONE, Condition, Field, Moment, all_of, any_of, unsayable

__all__ = ["condition"]

FIELDS = {"id", "content", "blob", "meta", "score", "embedding", "sparse_embedding"}  # of a Document
ORDERS = ("<", "<=", ">", ">=")
COMPARISONS = ("==", "!=", *ORDERS, "in", "not in")
LOGICAL: dict[str, Callable[[list[Condition]], Condition]] = {
    "AND": all_of,
    "OR": any_of,
    "NOT": lambda parts: ~all_of(parts),
}


def condition(filters: Any) -> Condition:
    """Raises ArgumentError for what is malformed or cannot be said, with the operator's name."""
    if not isinstance(filters, Mapping):
        raise ArgumentError(f"the filter {shown(filters)} is {type(filters).__name__}; pass a dict")
    comparison = "field" in filters
    for key in ("operator", "value" if comparison else "conditions"):
        if key not in filters:
            raise ArgumentError(
                f"the filter {shown(dict(filters))} has no {key!r}; see Haystack's metadata filtering"
            )
    operator = filters["operator"]
    if comparison:
        if operator not in COMPARISONS:
            raise unsayable(operator, COMPARISONS)
        return _comparison(_field(filters["field"], operator), operator, filters["value"])
    if operator not in LOGICAL:
        raise unsayable(operator, LOGICAL)
    if not isinstance(filters["conditions"], list):
        raise ArgumentError(f"the filter's 'conditions' are {shown(filters['conditions'])}; pass a list")
    return LOGICAL[operator]([condition(one) for one in filters["conditions"]])


def _field(name: Any, operator: str) -> Field:
    """`id`, `meta.x.y`, or a key of meta without its prefix."""
    names = name.split(".") if isinstance(name, str) else [""]
    if names == ["id"]:
        return Field([], operator)
    if names[0] == "meta" and len(names) > 1:
        return Field(names[1:], operator)
    if len(names) > 1 or name in FIELDS:
        raise ArgumentError(f"the filter's field {shown(name)} is none that is indexed; pass id or meta.NAME")
    return Field(names, operator)


def _comparison(field: Field, operator: str, value: Any) -> Condition:
    """As `haystack.utils.filters.document_matches_filter` reads it; what that cannot compare is not met."""
    if operator in ("==", "!="):
        equal = field.among(_with_moments([value]))
        return equal if operator == "==" else ~equal
    if operator in ORDERS:
        if isinstance(value, str):
            if read_date(value) is None:
                raise ArgumentError(
                    f"the filter's operator {operator!r} has the value {shown(value)}; of strings it takes ISO dates"
                )
            value = Moment(value)
        return NONE if value is None else field.compares(operator, value)
    if not isinstance(value, list):
        raise ArgumentError(f"the filter's operator {operator!r} has the value {shown(value)}; pass a list")
    among = field.among(_with_moments(value))
    return among if operator == "in" else ~among


def _with_moments(values: list[Any]) -> list[Any]:
    """Strings that are dates also equal those of the same moment."""
    return [*values, *(Moment(value) for value in values if isinstance(value, str) and read_date(value))]
