"""Dates in metadata, which are strings in JSON: when a filter says `date '2024-05-31'`, they are compared by moment."""

import re
import sqlite3
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["DATE", "define_functions", "read_date"]

DATE = "a date such as '2024-05-31', '2024-05-31T10:00' or '2024-05-31T10:00:30.5+02:00'"

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?)?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)
_BEGINNING = datetime(1, 1, 1)


class Moment(NamedTuple):
    """wall: microseconds of the clock on the wall. offset: of its zone from UTC, in microseconds; None: no zone."""

    wall: int
    offset: int | None


@lru_cache(maxsize=4096)
def read_date(text: str) -> Moment | None:
    """A date in the form of ISO 8601, with or without a time and a zone; None for what is none."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, utc, sign, hours, minutes = match.groups()
    clock = [
        int(part or 0) for part in (year, month, day, hour, minute, second, (fraction or "").ljust(6, "0"))
    ]
    try:
        wall = (datetime(*clock) - _BEGINNING) // timedelta(microseconds=1)  # type: ignore[arg-type]
    except ValueError:
        return None
    if utc:
        return Moment(wall, 0)
    if sign is None:
        return Moment(wall, None)
    if int(hours) > 23 or int(minutes or 0) > 59:
        return None
    offset = (int(hours) * 60 + int(minutes or 0)) * 60_000_000
    return Moment(wall, -offset if sign == "-" else offset)


def define_functions(connection: sqlite3.Connection) -> None:
    """What filters ask of a connection."""
    connection.create_function("date_order", 2, _date_order, deterministic=True)
    connection.create_function("lowered", 1, _lowered, deterministic=True)  # SQLite's own knows ASCII alone


def _date_order(value: Any, other: str) -> int | None:
    """Below, at or above 0 where `value` is before, at or after `other`; None where it is no date.

    Where one of the two has no zone, it is in the other's.
    """
    one, two = read_date(value) if isinstance(value, str) else None, read_date(other)
    if one is None or two is None:
        return None
    if one.offset is None or two.offset is None:
        return one.wall - two.wall
    return (one.wall - one.offset) - (two.wall - two.offset)


def _lowered(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None
