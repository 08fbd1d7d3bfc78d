"""Filter expressions over metadata: `lang = 'py' and stars >= 10` → SQL with bound parameters.

The language is in docs/guides/filters.md. No character of the user's text becomes SQL: keys and values alike are
bound, and the SQL is put together from the fixed fragments below.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from encoder.arguments import did_you_mean
from encoder.errors import ArgumentError
from indexing.storage.dates import DATE, read_date
from indexing.storage.tokens import Token, tokens

__all__ = ["MOST_KEYS", "Filter", "key_names", "parse_filter", "parse_key", "written_key", "written_strings"]

MAX_DEPTH = 100  # parentheses and nots within each other
MAX_COMPARISONS = 400  # two bound parameters each; SQLite builds from before 2020 stop at 999
MAX_PATTERN = 10_000  # bytes; SQLite stops at 50,000
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "is", "null", "true", "false"})
KEY_DEPTH = 4  # names of a nested key by which it is known
MOST_KEYS = 10_000
DOC_ID = "doc_id"
VALUE = "a 'string', a number, true or false"
COMPARES = "=, !=, <, <=, >, >=, in, not in, like, contains, icontains or is"

FOREIGN = {"==": "=", "<>": "!=", "&&": "and", "||": "or", "!": "not"}  # operators of other languages

KINDS = {"string": "= 'text'", "number": "IN ('integer', 'real')"}  # what json_type says


@dataclass(frozen=True)
class Filter:
    """A condition on rows of `documents`: SQL with `?1`, `?2`, ... for the parameters."""

    sql: str
    parameters: tuple[str | int, ...]


def parse_filter(
    text: str, columns: Mapping[str, str] | None = None, keys: Set[tuple[str, ...]] | None = None
) -> Filter:
    """Read a filter expression. Raises ArgumentError with the position and what was expected there.

    columns: JSON path → the column of `documents` that holds what is at it, for keys with an index. keys: the only
    ones that may be named, as `key_names` gives them; None for any.
    """
    return _Parser(text, "filter", columns or {}, keys).filter()


def key_names(metadata: str) -> set[tuple[str, ...]]:
    """The keys of metadata, which is JSON: the names on the way to each, as far as KEY_DEPTH."""
    found: set[tuple[str, ...]] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), json.loads(metadata))]
    for _ in range(KEY_DEPTH):
        level = [((*names, name), v) for names, value in level for name, v in value.items()]
        found.update(names for names, _ in level)
        level = [(names, value) for names, value in level if isinstance(value, dict)]
    return found


def parse_key(text: str) -> str:
    """The JSON path of a key as a filter writes it: `lang`, `repo.name`, `"odd key"`."""
    return _Parser(text, "key", {}, None).key()


@dataclass(frozen=True)
class _Date:
    """Compared by moment with the strings that are dates."""

    text: str


_Key: TypeAlias = str | None  # a JSON path; None is the doc_id
_Literal: TypeAlias = str | float | bool | _Date


@dataclass
class _Parser:
    """Recursive descent; each method reads what it is named for and returns its SQL."""

    text: str
    what: str
    columns: Mapping[str, str]
    keys: Set[tuple[str, ...]] | None
    at: int = 0
    depth: int = 0
    comparisons: int = 0
    parameters: dict[tuple[type, str | int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ArgumentError(f"{self.what} is {type(self.text).__name__}; pass a string")
        self.tokens = list(tokens(self.text, self.what))

    def filter(self) -> Filter:
        sql = self._any()
        if self._token.kind != "end":
            raise self._expected("and, or, or the end")
        return Filter(sql, tuple(value for _, value in self.parameters))

    def key(self) -> str:
        path = self._path()
        if self._token.kind != "end":
            raise self._expected("a dot or the end")
        return path

    # Grammar ------------------------------------------------------------------------------------------------

    def _any(self) -> str:
        parts = [self._all()]
        while self._skip("or"):
            parts.append(self._all())
        return _joined(parts, "OR")

    def _all(self) -> str:
        parts = [self._not()]
        while self._skip("and"):
            parts.append(self._not())
        return _joined(parts, "AND")

    def _not(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._expected(f"at most {MAX_DEPTH} levels of not and parentheses")
        if self._skip("not"):
            sql = f"(NOT {self._not()})"
        elif self._skip("("):
            sql = self._any()
            if not self._skip(")"):
                raise self._expected("and, or, or )")
        else:
            sql = self._comparison()
        self.depth -= 1
        return sql

    def _comparison(self) -> str:
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
            raise self._expected(f"at most {MAX_COMPARISONS} comparisons (in takes any number of values)")
        key = self._key()
        for operator in ("=", "!=", "<", "<=", ">", ">="):
            if self._skip(operator):
                return self._operator(key, operator)
        if self._skip("is"):
            return self._is(key)
        negated = self._skip("not")
        if self._skip("in"):
            sql = self._in(key)
        elif self._skip("like"):
            sql = self._like(key)
        elif self._skip("contains"):
            sql = self._contains(key)
        elif self._skip("icontains"):
            sql = self._icontains(key)
        else:
            raise self._expected("in, like, contains or icontains" if negated else COMPARES)
        return f"(NOT {sql})" if negated else sql

    def _is(self, key: _Key) -> str:
        negated = self._skip("not")
        if self._skip("null"):
            return f"({self._value(key)} IS {'NOT ' if negated else ''}NULL)"
        if not self._skip("empty"):
            raise self._expected("null or empty" if negated else "null, empty, not null or not empty")
        value, kind = self._value(key), self._kind(key)
        nothing = f"({kind} = 'text' AND {value} = '') OR ({kind} = 'array' AND {value} = '[]')"
        sql = f"({value} IS NULL OR {nothing})"
        return f"(NOT {sql})" if negated else sql

    def _operator(self, key: _Key, operator: str) -> str:
        token = self._token
        literal = self._literal(key)
        if isinstance(literal, bool) and operator not in ("=", "!="):
            raise self._expected("a 'string' or a number (true and false take = and !=)", token)
        if operator == "!=":
            return f"(NOT {self._compared(key, '=', literal)})"
        return self._compared(key, operator, literal)

    def _in(self, key: _Key) -> str:
        if not self._skip("("):
            raise self._expected("(")
        literals = [self._literal(key)]
        while self._skip(","):
            literals.append(self._literal(key))
        if not self._skip(")"):
            raise self._expected(", or )")
        parts = [self._compared(key, "=", flag) for flag in (True, False) if any(x is flag for x in literals)]
        if dates := [x.text for x in literals if isinstance(x, _Date)]:
            value, given = self._value(key), self._bind(json.dumps(dates))
            among = f"(SELECT 1 FROM json_each({given}) WHERE date_order({value}, value) = 0)"
            parts.append(f"(CASE WHEN {value} IS NULL THEN NULL ELSE EXISTS {among} END)")
        strings = [x for x in literals if isinstance(x, str)]
        numbers = [x for x in literals if isinstance(x, (int, float)) and not isinstance(x, bool)]
        for name, some in (("string", strings), ("number", numbers)):
            if some:  # one parameter, however many values
                values = f"(SELECT value FROM json_each({self._bind(json.dumps(some))}))"
                parts.append(f"({self._value(key)} IN {values} AND {self._kind(key)} {KINDS[name]})")
        return _joined(parts, "OR")

    def _like(self, key: _Key) -> str:
        token = self._token
        pattern = self._literal(key) if token.kind == "string" else None
        if not isinstance(pattern, str):
            raise self._expected("a 'pattern'")
        if len(pattern.encode()) > MAX_PATTERN:
            raise self._expected(f"a pattern of at most {MAX_PATTERN} bytes", token)
        return f"({self._value(key)} LIKE {self._bind(pattern)} AND {self._kind(key)} {KINDS['string']})"

    def _contains(self, key: _Key) -> str:
        """A string within a string, any value among the items of an array."""
        token = self._token
        literal = self._literal(key)
        if isinstance(literal, _Date):
            raise self._expected("a 'string', a number, true or false", token)
        value = self._value(key)
        within = f"(instr({value}, {self._bind(literal)}) > 0)" if isinstance(literal, str) else "0"
        if key is None:
            return within
        item = self._equals("value", "type", "=", literal)
        among = f"EXISTS (SELECT 1 FROM json_each(metadata, {self._bind(key)}) WHERE {item})"
        kind = self._kind(key)
        return f"(CASE {kind} WHEN 'text' THEN {within} WHEN 'array' THEN {among} ELSE nullif({kind} IS NULL, 1) END)"

    def _icontains(self, key: _Key) -> str:
        token = self._token
        literal = self._literal(key)
        if not isinstance(literal, str):
            raise self._expected("a 'string'", token)
        kind, within = self._kind(key), f"lowered({self._value(key)}), {self._bind(literal.lower())}"
        return f"(CASE {kind} WHEN 'text' THEN instr({within}) > 0 ELSE nullif({kind} IS NULL, 1) END)"

    def _compared(self, key: _Key, operator: str, literal: _Literal) -> str:
        value = self._value(key)
        if isinstance(literal, _Date):
            order = f"date_order({value}, {self._bind(literal.text)})"
            return f"(CASE WHEN {value} IS NULL THEN NULL ELSE ifnull({order} {operator} 0, 0) END)"
        return self._equals(value, self._kind(key), operator, literal)

    def _equals(self, value: str, kind: str, operator: str, literal: str | float | bool) -> str:
        """value, kind: SQL of what is compared, and of its JSON type."""
        # Unknown where the key is missing or null: the type is NULL too, and NULL AND NULL is NULL.
        if isinstance(literal, bool):
            number, name = (1, "true") if literal else (0, "false")  # json_extract gives the numbers
            return f"({value} = {number} AND {kind} = '{name}')"
        if isinstance(literal, str):
            return f"({value} {operator} {self._bind(literal)} AND {kind} {KINDS['string']})"
        # SQLite reads decimals in JSON less exactly than Python does; one reader makes equal text equal.
        bound = (
            self._bind(literal)
            if isinstance(literal, int)
            else f"json_extract({self._bind(json.dumps(literal))}, '$')"
        )
        return f"({value} {operator} {bound} AND {kind} {KINDS['number']})"

    def _key(self) -> _Key:
        token, following = self._token, self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        if token.kind == "name" and token.text == DOC_ID and following.text != ".":
            self.at += 1
            return None
        return self._path()

    def _value(self, key: _Key) -> str:
        if key is None:
            return "doc_id"
        return self.columns.get(key) or f"json_extract(metadata, {self._bind(key)})"

    def _kind(self, key: _Key) -> str:
        """SQL of a value's JSON type; NULL for a key that is missing or null."""
        return "'text'" if key is None else f"nullif(json_type(metadata, {self._bind(key)}), 'null')"

    def _path(self) -> str:
        first = self._token
        names: list[str] = []
        while True:
            token = self._token
            plain = token.kind == "name" and token.text.lower() not in KEYWORDS
            if not plain and (token.kind != "quoted" or not token.text):
                raise self._expected("the name of a key" if not names else "a name")
            self.at += 1
            names.append(token.text)
            if not self._skip("."):
                break
        optional = self.what == "filter" and self._skip("?")
        if not optional and self.keys is not None and tuple(names[:KEY_DEPTH]) not in self.keys:
            near = did_you_mean(written_key(names), map(written_key, self.keys))
            raise ArgumentError(
                f"{self.what} has the key {written_key(names)} at position {first.position}, "
                f"which no document has ever had; {near}"
            )
        # In the escapes that the stored JSON has: older SQLite compares the text as it stands.
        return "".join(["$", *(f".{json.dumps(name)}" for name in names)])

    def _literal(self, key: _Key) -> _Literal:
        token = self._token
        keyword = token.text.lower() if token.kind == "name" else ""
        value: _Literal
        if token.kind == "string":
            if "\0" in token.text:
                raise self._expected("a string without NUL characters")
            value = token.text
        elif token.kind == "number":
            value = self._number(token)
        elif keyword in ("true", "false"):
            value = keyword == "true"
        elif keyword == "date":
            self.at += 1
            if self._token.kind != "string" or read_date(self._token.text) is None:
                raise self._expected(DATE)
            value = _Date(self._token.text)
        elif keyword == "null":
            raise self._expected(f"{VALUE} (to compare with null write: is null)")
        elif token.kind == "quoted":
            raise self._expected(f"{VALUE} (strings take single quotes)")
        else:
            raise self._expected(VALUE)
        if key is None and not isinstance(value, str):
            raise self._expected("a 'string', as every doc_id is", token)
        self.at += 1
        return value

    def _number(self, token: Token) -> int | float:
        # Beyond 64 bits SQLite, too, counts in float64.
        if (
            token.text.lstrip("+-").isdigit()
            and len(token.text) <= 20
            and -(2**63) <= int(token.text) < 2**63
        ):
            return int(token.text)
        value = float(token.text)
        if not math.isfinite(value):
            raise self._expected("a number within float64")
        return value

    # Tokens -------------------------------------------------------------------------------------------------

    @property
    def _token(self) -> Token:
        return self.tokens[self.at]

    def _skip(self, word: str) -> bool:
        """Step over a keyword or operator if it comes next."""
        token = self._token
        found = token.kind in ("name", "operator") and token.text.lower() == word
        self.at += found
        return found

    def _bind(self, value: str | int) -> str:
        return self.parameters.setdefault((type(value), value), f"?{len(self.parameters) + 1}")

    def _expected(self, wanted: str, token: Token | None = None) -> ArgumentError:
        token = token or self._token
        raw = token.raw if len(token.raw) <= 30 else token.raw[:30] + "..."
        if token.kind == "foreign":
            wanted = f"{wanted}; use {FOREIGN[raw]}"
        found = "ends" if token.kind == "end" else f"has {raw!r}"
        if token.kind == "unknown" and raw[0] in "'\"":
            found = f"has a quote that is never closed ({' '.join(raw.splitlines())})"
        return ArgumentError(f"{self.what} {found} at position {token.position}; expected {wanted}")


def written_key(names: Sequence[str]) -> str:
    """A key as a filter writes it."""
    plain = (re.fullmatch(r"[^\W\d]\w*", n) and n.lower() not in KEYWORDS for n in names)
    return ".".join(n if is_plain else f'"{n}"' for n, is_plain in zip(names, plain, strict=True))


def written_strings(*values: str) -> str:
    """Strings as a filter writes them, between commas."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _joined(parts: list[str], operator: str) -> str:
    """As a balanced tree: SQLite limits how deep an expression may go, not how long it is."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_joined(parts[:half], operator)} {operator} {_joined(parts[half:], operator)})"
