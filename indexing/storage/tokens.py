"""The words of a filter expression: names, strings, numbers and operators, each with its position."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from encoder.errors import ArgumentError

__all__ = ["Token", "tokens"]

TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>'[^']*(?:''[^']*)*'(?!'))
    | (?P<quoted>"[^"]*")
    | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<name>[^\W\d]\w*)
    | (?P<foreign>==|<>|&&|\|\||!(?!=))
    | (?P<operator><=|>=|!=|[=<>(),.?])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """position: of the first character, from 1. text: for a string or quoted name what is inside."""

    kind: str
    text: str
    position: int
    raw: str


def tokens(text: str, what: str) -> Iterator[Token]:
    """The words of a filter or a key (what), with an end after the last. Raises ArgumentError for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{what} has a lone surrogate at position {error.start + 1}; pass valid Unicode"
        ) from error
    end = 0
    while end < len(text):
        match = TOKEN.match(text, end)
        raw = text[end:] if match is None else match.group()
        kind = "unknown" if match is None else str(match.lastgroup)
        inner = raw
        if kind == "string":
            inner = raw[1:-1].replace("''", "'")
        elif kind == "quoted":
            inner = raw[1:-1]
        if kind != "space":
            yield Token(kind, inner, end + 1, raw)
        end += len(raw)
    yield Token("end", "", len(text) + 1, "")
