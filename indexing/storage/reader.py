"""Reader: one moment of an index's SQLite file, held by a read transaction, whatever writers commit meanwhile."""

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from encoder.errors import ArgumentError, IndexFormatError
from indexing.storage.database import connect_reader, file_at
from indexing.storage.dates import define_functions
from indexing.storage.durable import FileRecord
from indexing.storage.filters import Filter, parse_filter
from indexing.storage.fulltext import Texts, bm25, frequencies, varints
from indexing.storage.refusals import damaged, refusals, refused
from indexing.storage.tables import FORMAT_VERSION, DocumentRow, SegmentRow, State

__all__ = ["OCCURRENCE", "Document", "Numbers", "Reader"]

Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
VARIABLES = 500  # bound parameters a statement; SQLite builds from before 2020 stop at 999
OCCURRENCE = np.dtype([("document", np.int64), ("times", np.uint32), ("length", np.uint32)])
POSTINGS_KEPT, WORDS_KEPT = 1 << 20, 4096  # 24 MiB; a search for frequent words takes a third of the time
GONE_KEPT = 4096  # documents, whose occurrences are taken out of the words that are asked again
PAGE = 256  # documents read at a time by those that stream them


@dataclass(frozen=True)
class Document:
    """A stored document. text is None where it came as bare vectors."""

    doc_id: str
    text: str | None
    metadata: dict[str, Any]


class _Word(NamedTuple):
    """found: an array of OCCURRENCE, as it is in a generation: documents below `end`."""

    found: npt.NDArray[Any]
    generation: int
    end: int


Known = TypeVar("Known", bound=tuple[Any, ...])


class _Kept(Generic[Known]):
    """What is known of the words asked first, an array with a row a document before all: as much as there is room for.
    Several threads may share it."""

    def __init__(self, words: Mapping[str, Known] = MappingProxyType({})) -> None:
        self.words = dict(words)
        self.postings = sum(len(known[0]) for known in self.words.values())
        self._lock = threading.Lock()

    def put(self, word: str, known: Known) -> None:
        with self._lock:
            before = self.words.get(word)
            postings = self.postings + len(known[0]) - (0 if before is None else len(before[0]))
            if before is not None or (len(self.words) < WORDS_KEPT and postings <= POSTINGS_KEPT):
                self.words[word], self.postings = known, postings


class Reader:
    """Reads the documents of one moment; safe from several threads. Closed by `close`, or when nobody has it."""

    def __init__(self, path: Path, previous: "Reader | None" = None) -> None:
        """previous: of an older moment, whose words are taken over where it is known what has changed since.

        Raises IndexFormatError if `path` is not an index's database or is of another version, StorageError
        where the system refuses to read it."""
        self.path = path
        self._lock = threading.RLock()
        self._keep_words()
        try:
            found = file_at(path)
            self._db = connect_reader(path)
            # What it is equal to reads the same file.
            self.file: object = found if file_at(path) == found else object()
            define_functions(self._db)
            self._finalizer = weakref.finalize(self, self._db.close)
            with refusals(path):
                self._db.execute("BEGIN")  # the first read fixes the moment
                self._read_settings()
                if previous is not None and previous.file == self.file:
                    self._take_over(previous)
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

    @cached_property
    def n_documents(self) -> int:
        return sum(n for (n,) in self.rows("SELECT count(*) FROM documents"))

    @cached_property
    def n_unencoded(self) -> int:
        return sum(n for (n,) in self.rows("SELECT count(*) FROM unencoded"))

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

    def lexical(self, words: Iterable[str]) -> tuple[Numbers, Scores]:
        """Documents that any of the words finds, FTS5 queries as `queried` makes them, ascending, and their BM25."""
        each = [(np.zeros(0, np.int64), np.zeros(0)), *map(self._postings, words)]
        documents, at = np.unique(np.concatenate([found for found, _ in each]), return_inverse=True)
        scores = np.concatenate([scores for _, scores in each])
        return documents, np.bincount(at, scores, len(documents)).astype(np.float64)

    def _postings(self, word: str) -> tuple[Numbers, Scores]:
        """The documents of one word and their BM25."""
        if (known := self._scored.words.get(word)) is not None:
            return known
        found = self.occurrences(word)
        postings = found["document"], bm25(found, self._having(word, found), self.texts)
        self._scored.put(word, postings)
        return postings

    def _having(self, word: str, found: npt.NDArray[Any]) -> int:
        """How many documents have a word, of which `found` are here."""
        return len(found)

    def occurrences(self, word: str) -> npt.NDArray[Any]:
        """The documents of one word, how often each has it and how many words it has: an array of OCCURRENCE, in the
        order of documents. The first words that are asked are kept, and what later commits change of them is read."""
        known, state = self._words.words.get(word), self.state
        if known is None:
            found = self._read_word(word, state.first_document, 0)
        elif known.generation == state.generation:
            return known.found
        else:
            kept = _without(known.found, self._gone)
            new = self._read_word(word, known.end, len(kept))
            found = np.concatenate([kept, new]) if len(new) else kept
        self._words.put(word, _Word(found, state.generation, state.next_document))
        return found

    def _read_word(self, word: str, first: int, before: int) -> npt.NDArray[Any]:
        """Occurrences from a document on, with `before` documents before it that have the word."""
        sql = (
            "SELECT fulltext.rowid, -bm25(fulltext), sz FROM fulltext JOIN fulltext_docsize ON id = fulltext.rowid "
            "WHERE fulltext MATCH ? AND fulltext.rowid >= ? ORDER BY fulltext.rowid"
        )
        rows = self.rows(sql, [word, first])
        found = np.zeros(len(rows), OCCURRENCE)
        if rows:
            documents, scores, sizes = zip(*rows, strict=True)
            found["document"], found["length"] = documents, varints(b"".join(sizes))
            found["times"] = frequencies(np.array(scores), found["length"], before + len(rows), self.texts)
        return found

    @cached_property
    def texts(self) -> Texts:
        """How many texts there are, and words in them: the first record of FTS5's own table."""
        blocks = self.rows("SELECT block FROM fulltext_data WHERE id = 1")
        return Texts(*varints(blocks[0][0])[:2].tolist()) if blocks and blocks[0][0] else Texts(0, 0)

    def document_frequency(self, match: str) -> int:
        """How many documents an FTS5 query finds."""
        if match in self._words.words:
            return len(self.occurrences(match))
        return sum(n for (n,) in self.rows("SELECT count(*) FROM fulltext WHERE fulltext MATCH ?", [match]))

    def memory(self) -> int:
        """Bytes of the words kept."""
        return OCCURRENCE.itemsize * self._words.postings + 8 * self._scored.postings

    def check(self) -> None:
        """Have SQLite check every page. Raises IndexFormatError with what it found."""
        told = self.rows("PRAGMA integrity_check(1)")[0][0]
        if told != "ok":
            raise damaged(self.path, told)

    # Inside --------------------------------------------------------------------------------------------------

    def _keep_words(self) -> None:
        self._words: _Kept[_Word] = _Kept()
        self._scored: _Kept[tuple[Numbers, Scores]] = _Kept()
        self._gone: Numbers = np.zeros(0, np.int64)  # since the oldest of the words was read

    def _take_over(self, older: "Reader") -> None:
        """The words of an older reader, if what it has that is gone now is known: all of it has left a tombstone."""
        with older._lock:
            if not older._words.words or not older._finalizer.alive:
                return
            before, dead = older.n_documents, older.tombstones()
        end = older.state.next_document
        gone = np.setdiff1d(self.tombstones(), dead, assume_unique=True)
        gone = gone[gone < end]
        [(new,)] = self.rows("SELECT count(*) FROM documents WHERE document >= ?", [end])
        if before - len(gone) + new != self.n_documents:
            return
        words = dict(older._words.words)
        self._gone = np.concatenate([older._gone, gone])
        full = len(words) > WORDS_KEPT // 2 or older._words.postings > POSTINGS_KEPT // 2
        if full or len(self._gone) > GONE_KEPT:  # what was asked since the last commit stays
            words = {
                word: known for word, known in words.items() if known.generation == older.state.generation
            }
            self._gone = gone
        self._words = _Kept(words)

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


def _without(found: npt.NDArray[Any], gone: Numbers) -> npt.NDArray[Any]:
    """found: an array of OCCURRENCE, in the order of documents."""
    documents = found["document"]
    at = np.searchsorted(documents, gone)
    at = at[at < len(documents)]
    at = at[np.isin(documents[at], gone)] if len(at) else at
    return np.delete(found, at) if len(at) else found
