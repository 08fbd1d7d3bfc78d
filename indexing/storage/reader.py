"""Reader: one moment of an index's SQLite file, held by a read transaction, whatever writers commit meanwhile."""

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import ArgumentError, IndexFormatError
from indexing.storage.database import connect_reader
from indexing.storage.dates import define_functions
from indexing.storage.durable import FileRecord
from indexing.storage.filters import Filter, parse_filter
from indexing.storage.fulltext import Texts, frequencies, idf_ratio
from indexing.storage.refusals import damaged, refusals, refused
from indexing.storage.tables import FORMAT_VERSION, DocumentRow, SegmentRow, State

__all__ = ["OCCURRENCE", "POSTING", "Document", "Numbers", "Reader"]

Numbers = npt.NDArray[np.int64]
VARIABLES = 500  # bound parameters a statement; SQLite builds from before 2020 stop at 999
POSTING = np.dtype([("document", np.int64), ("score", np.float64)])
OCCURRENCE = np.dtype([("document", np.int64), ("times", np.float64), ("length", np.float64)])
POSTINGS_KEPT, WORDS_KEPT = 1 << 20, 4096  # 16 MiB; a search for frequent words takes a third of the time
PAGE = 256  # documents read at a time by those that stream them


@dataclass(frozen=True)
class Document:
    """A stored document. text is None where it came as bare vectors."""

    doc_id: str
    text: str | None
    metadata: dict[str, Any]


class Reader:
    """Reads the documents of one moment; safe from several threads. Closed by `close`, or when nobody has it."""

    def __init__(self, path: Path) -> None:
        """Raises IndexFormatError if `path` is not an index's database or is of another version, StorageError
        where the system refuses to read it."""
        self.path = path
        self._lock = threading.RLock()
        self._keep_postings()
        try:
            self._db = connect_reader(path)
            define_functions(self._db)
            self._finalizer = weakref.finalize(self, self._db.close)
            with refusals(path):
                self._db.execute("BEGIN")  # the first read fixes the moment
                self._read_settings()
        except BaseException as error:
            if hasattr(self, "_finalizer"):
                self.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise (refused(path, error) or damaged(path, error)) from error
            raise

    def close(self) -> None:
        with self._lock:
            self._finalizer()

    # Lists ---------------------------------------------------------------------------------------------------

    def segments(self) -> list[SegmentRow]:
        """In the order of their numbers."""
        columns = "segment_id, kind, n_passages, n_tokens"
        return [SegmentRow(*row) for row in self.rows(f"SELECT {columns} FROM segments ORDER BY segment_id")]

    def files(self) -> list[FileRecord]:
        return [FileRecord(*row) for row in self.rows("SELECT path, bytes, sha256 FROM files ORDER BY path")]

    def tombstones(self) -> Numbers:
        """Documents that are gone and whose passages still lie in segments, ascending."""
        return self._numbers("SELECT document FROM tombstones ORDER BY document")

    def count(self, table: str = "documents") -> int:
        assert table in ("documents", "unencoded")
        return sum(n for (n,) in self.rows(f"SELECT count(*) FROM {table}"))

    # Documents -----------------------------------------------------------------------------------------------

    def find(self, doc_ids: Sequence[str]) -> dict[str, DocumentRow]:
        """The rows of those doc_ids that are stored, without their text."""
        sql = "SELECT document, doc_id, content_hash, metadata FROM documents WHERE doc_id IN ({})"
        return {row[1]: DocumentRow(*row) for row in self._in(sql, doc_ids)}

    def documents(self, numbers: Iterable[int]) -> dict[int, Document]:
        """Those of the numbers that are stored."""
        sql = "SELECT document, doc_id, text, metadata FROM documents WHERE document IN ({})"
        rows = self._in(sql, [int(number) for number in numbers])
        return {number: Document(i, text, json.loads(metadata)) for number, i, text, metadata in rows}

    def doc_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        sql = "SELECT document, doc_id FROM documents WHERE document IN ({})"
        return dict(self._in(sql, [int(number) for number in numbers]))

    def condition(self, text: str) -> Filter:
        """A filter expression as this index reads it. Raises ArgumentError for what is none, and for a key that
        nothing has ever had."""
        known = self.keys if self.state.next_document > self.state.first_document else None
        return parse_filter(text, self.metadata_indexes, known)

    def stream(self, columns: str, condition: Filter | None = None) -> Iterator[tuple[Any, ...]]:
        """(document, *columns) of all documents, or those that meet a condition, in the order of adding."""
        condition = condition or Filter("1", ())
        last = -1
        while True:
            sql = (
                f"SELECT document, {columns} FROM documents WHERE document > {int(last)} AND ({condition.sql}) "
                f"ORDER BY document LIMIT {PAGE}"
            )
            rows = self.rows(sql, condition.parameters)
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def unencoded(self, doc_ids: Sequence[str] | None = None) -> Iterator[tuple[int, str, str]]:
        """(document, doc_id, text) of documents whose vectors are still to come, or of those among doc_ids."""
        if doc_ids is None:
            yield from self.stream("doc_id, text", Filter("document IN (SELECT document FROM unencoded)", ()))
        else:
            # The plus keeps SQLite from going through all that waits for each doc_id.
            sql = (
                "SELECT document, doc_id, text FROM documents WHERE doc_id IN ({}) "
                "AND +document IN (SELECT document FROM unencoded)"
            )
            yield from self._in(sql, doc_ids)

    def waiting(self, numbers: Iterable[int]) -> Numbers:
        """Those of the documents whose vectors are still to come."""
        rows = self._in("SELECT document FROM unencoded WHERE document IN ({})", list(numbers))
        return np.array([number for (number,) in rows], np.int64)

    def matching(self, condition: Filter) -> Numbers:
        """Documents that meet a condition, ascending."""
        sql = f"SELECT document FROM documents WHERE {condition.sql} ORDER BY document"
        return self._numbers(sql, condition.parameters)

    def values(self, path: str, most: int | None = None) -> list[Any]:
        """The different values at a JSON path of the metadata, in order, or the first `most`."""
        sql = (
            "SELECT DISTINCT json_extract(metadata, ?1) AS value, json_type(metadata, ?1) "
            "FROM documents ORDER BY value LIMIT ?2"
        )
        rows = list(dict.fromkeys(self.rows(sql, [path, -1 if most is None else most])))
        rows.sort(
            key=lambda row: (order := (row[0] is not None) + isinstance(row[0], str), row[0] if order else 0)
        )
        return [
            json.loads(value)
            if kind in ("array", "object")
            else bool(value)
            if kind in ("true", "false")
            else value
            for value, kind in rows[:most]
        ]

    # Words ---------------------------------------------------------------------------------------------------

    def lexical(self, words: Iterable[str]) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """Documents that any of the words finds, FTS5 queries as `queried` makes them, ascending, and their BM25."""
        each = np.concatenate([np.zeros(0, POSTING), *map(self._postings, words)])
        documents, at = np.unique(each["document"], return_inverse=True)
        return documents, np.bincount(at, each["score"], len(documents)).astype(np.float64)

    def _postings(self, word: str) -> npt.NDArray[Any]:
        """The documents of one word and their BM25, an array of POSTING. The first words that are asked are kept."""
        if (known := self._known.get(word)) is not None:
            return known
        found = self._scored(word)
        if len(found):
            found["score"] *= idf_ratio(self.n_texts, self._having(word, found))
        if self._room >= len(found) and len(self._known) < WORDS_KEPT:
            self._known[word] = found
            self._room -= len(found)
        return found

    def _having(self, word: str, found: npt.NDArray[Any]) -> int:
        """How many documents have a word, of which `found` are here."""
        return len(found)

    def _scored(self, word: str) -> npt.NDArray[Any]:
        """The documents of one word and FTS5's BM25, an array of POSTING."""
        sql = "SELECT rowid, -bm25(fulltext) FROM fulltext WHERE fulltext MATCH ?"
        return np.array(self.rows(sql, [word]), POSTING)

    def occurrences(self, word: str) -> npt.NDArray[Any]:
        """The documents of one word, how often each has it and how many words it has: an array of OCCURRENCE."""
        sql = (
            "SELECT fulltext.rowid, -bm25(fulltext), sz FROM fulltext JOIN fulltext_docsize ON id = fulltext.rowid "
            "WHERE fulltext MATCH ? ORDER BY fulltext.rowid"
        )
        rows = [(document, score, _varints(size)[0]) for document, score, size in self.rows(sql, [word])]
        found = np.array(rows, OCCURRENCE)
        if rows:
            found["times"] = frequencies(found["times"], found["length"], self.texts)
        return found

    @cached_property
    def texts(self) -> Texts:
        """How many texts there are, and words in them: the first record of FTS5's own table."""
        blocks = self.rows("SELECT block FROM fulltext_data WHERE id = 1")
        return Texts(*_varints(blocks[0][0])[:2]) if blocks and blocks[0][0] else Texts(0, 0)

    def document_frequency(self, match: str) -> int:
        """How many documents an FTS5 query finds."""
        return sum(n for (n,) in self.rows("SELECT count(*) FROM fulltext WHERE fulltext MATCH ?", [match]))

    def check(self) -> None:
        """Have SQLite check every page. Raises IndexFormatError with what it found."""
        told = self.rows("PRAGMA integrity_check(1)")[0][0]
        if told != "ok":
            raise damaged(self.path, told)

    @cached_property
    def n_texts(self) -> int:
        """Documents that have a text."""
        return sum(n for (n,) in self.rows("SELECT count(*) FROM fulltext_docsize"))

    # Inside --------------------------------------------------------------------------------------------------

    def _keep_postings(self) -> None:
        self._known: dict[str, npt.NDArray[Any]] = {}  # word → postings
        self._room = POSTINGS_KEPT

    def rows(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, refusals(self.path):
            if not self._finalizer.alive:
                raise ArgumentError(f"{self.path.parent} is closed; open it again")
            rows: list[tuple[Any, ...]] = self._db.execute(sql, list(parameters)).fetchall()
            return rows

    def _in(self, sql: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), VARIABLES):
            some = values[start : start + VARIABLES]
            yield from self.rows(sql.format(",".join("?" * len(some))), some)

    def _numbers(self, sql: str, parameters: Iterable[Any] = ()) -> Numbers:
        return np.array([number for (number,) in self.rows(sql, parameters)], dtype=np.int64)

    def _read_settings(self) -> None:
        names = {name for (name,) in self.rows("SELECT name FROM sqlite_master")}
        if not names:
            raise IndexFormatError(f"{self.path} is empty, its creation was cut short; make the index again")
        if "settings" not in names:
            raise IndexFormatError(f"{self.path} is not a Latewood index; pass a folder made by Index.create")
        pairs = {key: json.loads(value) for key, value in self.rows("SELECT key, value FROM settings")}
        version = pairs.get("format_version")
        if version != FORMAT_VERSION:
            older = isinstance(version, int) and version < FORMAT_VERSION
            raise IndexFormatError(
                f"{self.path} was built by an {'older' if older else 'other'} version of Latewood (format_version "
                f"{version}, this one reads {FORMAT_VERSION}); {'index again' if older else 'upgrade Latewood'}"
            )
        self.settings: dict[str, Any] = pairs["index"]
        self.state = State(**pairs["state"])
        # JSON path → column of documents
        self.metadata_indexes: dict[str, str] = pairs.get("metadata_indexes", {})
        self.search: dict[str, Any] | None = pairs.get("search")
        # Of metadata, as `key_names` gives them, of all that was ever stored; None where they are too many.
        keys = pairs.get("keys")
        self.keys = None if keys is None else frozenset(map(tuple, keys))


def _varints(block: bytes) -> list[int]:
    """SQLite's integers of seven bits a byte, as FTS5 writes them one after the other."""
    found, value = [], 0
    for byte in block:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            found.append(value)
            value = 0
    return found
