"""The one reader of JSON lines: plain or gzipped files → objects, with file and line in every error."""

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from encoder.errors import CorpusError
from encoder.reading import marked_encoding, open_regular

__all__ = ["Row", "read_rows", "rows_of"]

T = TypeVar("T")
_REQUIRED: Any = object()


@dataclass(frozen=True)
class Row:
    """One line's object. where: `file:line`, for messages."""

    where: str
    values: dict[str, Any]

    @overload
    def get(self, key: str, kind: type[T] | tuple[type[T], ...]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T] | tuple[type[T], ...], default: T | None) -> T: ...

    def get(self, key: str, kind: Any, default: Any = _REQUIRED) -> Any:
        """The value under `key`, of one of these types (a bool is no number). A key that is missing or null gives
        the default, and is an error where there is none."""
        value = self.values.get(key)
        if value is None:
            if default is _REQUIRED:
                raise CorpusError(f"{self.where} has no {key!r}; give it {_named(kind)}")
            return default
        return self.checked(f"{key!r}", value, kind)

    def get_list(self, key: str, kind: Any, default: list[Any] | None = _REQUIRED) -> list[Any]:
        """As `get`, for a list of values of one kind. A string is no list."""
        values = self.get(key, list) if default is _REQUIRED else self.get(key, list, default)
        return [self.checked(f"{key!r}[{i}]", value, kind) for i, value in enumerate(values)]

    def checked(self, name: str, value: Any, kind: Any) -> Any:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CorpusError(f"{self.where} has {name} = {value!r:.60}; give it {_named(kind)}")
        if float in kinds and isinstance(value, int | float) and not _finite(value):
            raise CorpusError(f"{self.where} has {name} = {value!r:.60}; give it a finite number")
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """Every object of a .jsonl file, or of a .jsonl.gz, in order. Blank lines are passed over.

    UTF-8, or what a byte order mark says. Raises CorpusError naming file and line for what is no JSON object, and
    the file where it cannot be read or is no regular file.
    """
    try:
        with (
            open_regular(path) as file,
            io.BufferedReader(gzip.open(file) if path.suffix.lower() == ".gz" else file) as data,  # type: ignore[type-var]
        ):
            yield from rows_of(data, str(path))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {path}: {reason}; check the file and its permissions") from error


def rows_of(data: "io.BufferedReader[Any]", name: str) -> Iterator[Row]:
    """As `read_rows`, of an open file; name: for messages."""
    encoding = marked_encoding(data.peek(4))
    try:
        for number, line in enumerate(_lines(data, encoding), start=1):
            if line.strip():
                yield _row(line, f"{name}:{number}")
    except UnicodeError as error:
        raise CorpusError(
            f"{name} is not in {encoding}, as its mark says ({error}); write it in UTF-8"
        ) from None


def _lines(data: IO[bytes], encoding: str | None) -> Iterator[str | bytes]:
    # In UTF-8 each line is decoded by itself, so that an error has its number.
    return iter(data if encoding in (None, "utf-8-sig") else data.read().decode(encoding).split("\n"))


def _row(line: str | bytes, where: str) -> Row:
    try:
        text = line if isinstance(line, str) else line.decode("utf-8-sig")
        record = json.loads(text, parse_constant=_refuse)
        if "\\ud" in text.lower():
            # Half of a surrogate pair is legal JSON but no text: SQLite and the tokenizers refuse it.
            whole = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass")
            record = json.loads(whole.decode("utf-16", "replace"))
    except RecursionError:
        raise CorpusError(f"{where} is nested too deep; write one flat JSON object a line") from None
    except (
        ValueError
    ) as error:  # JSONDecodeError, UnicodeDecodeError, an integer of more digits than Python reads
        raise CorpusError(f"{where} is not JSON ({error}); write one JSON object a line, in UTF-8") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is a JSON {type(record).__name__}; write one JSON object a line")
    return Row(where, record)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    bool: "a boolean",
}


def _named(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if set(kinds) == {int, float}:
        return "a number"
    return " or ".join(_NAMES[k] for k in kinds)
