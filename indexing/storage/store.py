"""The index's SQLite file: documents, tombstones, the lists of segments and files, the one commit point."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlite_utils import Database

from encoder.errors import ArgumentError, IndexFormatError
from indexing.storage import fulltext
from indexing.storage.database import BUSY_SECONDS, connect, connect_reader
from indexing.storage.durable import FileRecord
from indexing.storage.filters import MOST_KEYS, Filter, key_names, parse_filter
from indexing.storage.refusals import damaged, refusals, refused
from indexing.storage.segment import SegmentRow

__all__ = ["DATABASE", "FORMAT_VERSION", "Change", "Document", "DocumentRow", "State", "Store"]

DATABASE = "index.db"
FORMAT_VERSION = 2
VARIABLES = 500  # bound parameters a statement; SQLite builds from before 2020 stop at 999


@dataclass(frozen=True)
class Document:
    """A stored passage. text is None where it came as bare vectors."""

    doc_id: str
    text: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class DocumentRow:
    """A row of `documents`; metadata is JSON text."""

    pid: int
    doc_id: str
    text: str | None
    metadata: str
    content_hash: str


@dataclass(frozen=True)
class State:
    """What moves with each commit. codec: file name, or None while nothing is trained. codec_error: mean
    squared error of the vectors that it was trained on."""

    generation: int = 0
    next_pid: int = 0
    next_segment: int = 1
    next_codec: int = 1
    codec: str | None = None
    codec_error: float = 0.0


@dataclass
class Change:
    """All that one commit does. deleted: pids that get a tombstone; metadata: pid to its new JSON; renamed: pid to
    its new doc_id.

    metadata_index: JSON path to index. search: tuned search settings. renumber_from: compaction's new pids
    start here, in the order of the old ones; tombstones then go.
    """

    state: State
    documents: list[DocumentRow] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    metadata: dict[int, str] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)
    add_segments: list[SegmentRow] = field(default_factory=list)
    drop_segments: list[SegmentRow] = field(default_factory=list)
    add_files: list[FileRecord] = field(default_factory=list)
    drop_codec: str | None = None
    metadata_index: str | None = None
    search: dict[str, Any] | None = None
    renumber_from: int | None = None


class Store:
    """One snapshot of the database for reading and, when writable, a second connection for commits.

    The snapshot is a read transaction that stays open: whatever a writer commits, reads give the state of
    the last `refresh`. Reading is safe from several threads.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Raises IndexFormatError if `path` is not an index's database or is of a newer version, StorageError
        where the system refuses to read it."""
        self.path = path
        self.uncertain = writable  # whether a commit, ours or of a killed writer, may have half happened
        self._lock = threading.RLock()
        self._writer: Database | None = None
        self._reader: Database | None = None
        try:
            # Opened first: after a crash it is the writer who may bring the write-ahead log in order.
            self._writer = connect(path, "rw") if writable else None
            if self._writer is not None:
                fulltext.define_function(self._writer.conn)
            self._reader = connect_reader(path)
            self.settings: dict[str, Any] = self._read_settings()
            self._read_state()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise (refused(path, error) or damaged(path, error)) from error
            raise

    @staticmethod
    def create(path: Path, settings: dict[str, Any]) -> None:
        """Make the tables. A crash in the midst leaves none, and it may be tried again."""
        db = connect(path, "rwc")
        db.execute("PRAGMA journal_mode = WAL")
        with db.atomic():
            db.table("settings").create({"key": str, "value": str}, pk="key")
            documents = db.table("documents").create(
                # The text last: what comes after a long one is slow to read.
                {"pid": int, "doc_id": str, "content_hash": str, "metadata": str, "text": str},
                pk="pid",
                not_null={"doc_id", "metadata", "content_hash"},
            )
            documents.create_index(["doc_id"], unique=True)
            fulltext.create_table(db.conn)
            db.table("tombstones").create({"pid": int}, pk="pid")
            db.table("segments").create(
                {"segment_id": int, "kind": str, "pid_start": int, "n_passages": int, "n_tokens": int},
                pk="segment_id",
            )
            db.table("files").create({"path": str, "bytes": int, "sha256": str}, pk="path")
            pairs = {
                "format_version": FORMAT_VERSION,
                "index": settings,
                "state": asdict(State()),
                "burials": 0,
                "keys": [],
            }
            db.table("settings").insert_all({"key": k, "value": json.dumps(v)} for k, v in pairs.items())
        db.close()

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether `path` is a database with tables in it, or anything else that must not be overwritten."""
        if not path.exists() or path.stat().st_size == 0:
            return False
        try:
            db = connect(path, "ro")
        except sqlite3.DatabaseError:
            return True
        names = db.table_names()
        db.close()
        return bool(names)

    # Reading ------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Move the snapshot to the newest commit; whether it had moved."""
        with self._lock, refusals(self.path):
            before = self.state.generation
            self._reading().rollback()
            self._read_state()
            return self.state.generation != before

    def count(self) -> int:
        """Documents, the deleted ones not counted."""
        return int(self._rows("SELECT count(*) FROM documents")[0][0])

    def tombstones(self, pid_start: int, n: int) -> npt.NDArray[np.int64]:
        """Deleted pids in [pid_start, pid_start + n)."""
        sql = "SELECT pid FROM tombstones WHERE pid >= ? AND pid < ?"
        rows = self._rows(sql, [pid_start, pid_start + n])
        return np.array([pid for (pid,) in rows], dtype=np.int64)

    def documents(self, pids: Sequence[int]) -> list[Document]:
        """The documents in the order asked. Raises ArgumentError for a pid that is none."""
        wanted = [int(pid) for pid in pids]
        found = self._documents("pid", wanted)
        try:
            return [found[pid] for pid in wanted]
        except KeyError as error:
            raise ArgumentError(
                f"pid {error} is not in this snapshot; ask for pids of live passages"
            ) from None

    def get(self, doc_ids: Sequence[str]) -> dict[str, Document]:
        """The documents of those doc_ids that are stored."""
        return self._documents("doc_id", doc_ids)

    def _documents(self, column: str, values: Sequence[Any]) -> dict[Any, Document]:
        found = {}
        for some in _slices(values):
            marks = ",".join("?" * len(some))
            sql = f"SELECT {column}, doc_id, text, metadata FROM documents WHERE {column} IN ({marks})"
            for value, doc_id, text, metadata in self._rows(sql, some):
                found[value] = Document(doc_id, text, json.loads(metadata))
        return found

    def find(self, doc_ids: Sequence[str]) -> dict[str, DocumentRow]:
        """The rows of those doc_ids that are stored, without their text."""
        found: dict[str, DocumentRow] = {}
        for some in _slices(doc_ids):
            marks = ",".join("?" * len(some))
            sql = f"SELECT pid, doc_id, metadata, content_hash FROM documents WHERE doc_id IN ({marks})"
            for pid, doc_id, metadata, content_hash in self._rows(sql, some):
                found[doc_id] = DocumentRow(pid, doc_id, None, metadata, content_hash)
        return found

    def matching(self, condition: Filter) -> npt.NDArray[np.int64]:
        """Pids of the documents that meet a condition, in no order."""
        rows = self._rows(f"SELECT pid FROM documents WHERE {condition.sql}", condition.parameters)
        return np.array([pid for (pid,) in rows], dtype=np.int64)

    def ids(self, condition: Filter | None) -> list[str]:
        """The doc_ids of the documents that meet a condition, or of all, in the order of pids."""
        sql, parameters = ("", ()) if condition is None else (f"WHERE {condition.sql}", condition.parameters)
        return [
            doc_id for (doc_id,) in self._rows(f"SELECT doc_id FROM documents {sql} ORDER BY pid", parameters)
        ]

    def condition(self, text: str) -> Filter:
        """A filter expression as this index reads it. Raises ArgumentError for what is none, and for a key that
        nothing has ever had."""
        return parse_filter(text, self.metadata_indexes, self.keys if self.state.next_pid else None)

    def values(self, path: str) -> list[Any]:
        """The different values at a JSON path of the metadata, in order; arrays and objects as JSON text."""
        sql = "SELECT DISTINCT json_extract(metadata, ?) AS value FROM documents ORDER BY value"
        return [value for (value,) in self._rows(sql, [path])]

    def lexical(self, match: str, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Pids and BM25 of the n best documents for an FTS5 query, best first, equal ones in no order."""
        sql = (
            "SELECT rowid, -bm25(fulltext) AS score FROM fulltext WHERE fulltext MATCH ? "
            "ORDER BY score DESC LIMIT ?"
        )
        rows = self._rows(sql, [match, n])
        return np.array([p for p, _ in rows], dtype=np.int64), np.array(
            [s for _, s in rows], dtype=np.float64
        )

    def doc_ids(self, pids: Sequence[int]) -> list[str]:
        """The doc_ids of stored documents, in the order asked."""
        found: dict[int, str] = {}
        for some in _slices(pids):
            marks = ",".join("?" * len(some))
            found |= dict(self._rows(f"SELECT pid, doc_id FROM documents WHERE pid IN ({marks})", some))
        return [found[pid] for pid in pids]

    def document_frequency(self, match: str) -> int:
        """How many documents an FTS5 query finds."""
        return int(self._rows("SELECT count(*) FROM fulltext WHERE fulltext MATCH ?", [match])[0][0])

    def check(self) -> None:
        """Have SQLite check every page. Raises IndexFormatError with what it found."""
        told = self._rows("PRAGMA integrity_check(1)")[0][0]
        if told != "ok":
            raise damaged(self.path, told)

    def close(self) -> None:
        with self._lock:
            for db in (self._reader, self._writer):
                if db is not None:
                    db.close()
            self._reader = self._writer = None

    # Writing ------------------------------------------------------------------------------------------------

    def bury(self) -> None:
        """Make sure that no unfinished commit of the past can still come true.

        A writer killed at the end of a commit may have it whole in the log, and not yet in the index of the
        log that others read while any connection is open. We then see the state before it; yet once all
        have closed, SQLite rebuilds that index and finds the commit. A commit of our own takes its place in
        the log. Until then no file may be deleted, no number of a segment be used again.
        """
        db = self._writer
        assert db is not None
        with refusals(self.path), db.atomic():
            db.execute("UPDATE settings SET value = value + 1 WHERE key = 'burials'")
        self.uncertain = False

    def commit(self, change: Change) -> None:
        """The one commit point: all of `change` becomes visible, and durable, or none of it.

        Raises StorageError where the disk refuses; the next writing then begins with `bury`.
        """
        assert not self.uncertain
        self.uncertain = True  # until it has ended well
        with refusals(self.path):
            self._commit(change)
        self.uncertain = False

    def _commit(self, change: Change) -> None:
        db = self._writer
        assert db is not None
        with db.atomic():
            dead = change.deleted
            fulltext.delete_texts(db.conn, dead)
            db.conn.executemany("DELETE FROM documents WHERE pid = ?", ([pid] for pid in dead))
            db.conn.executemany("INSERT INTO tombstones (pid) VALUES (?)", ([pid] for pid in dead))
            updates = ((metadata, pid) for pid, metadata in change.metadata.items())
            db.conn.executemany("UPDATE documents SET metadata = ? WHERE pid = ?", updates)
            # Aside first, for one may take the name that another has until then. A blob is no user's name.
            aside = "UPDATE documents SET doc_id = CAST(pid AS BLOB) WHERE pid = ?"
            db.conn.executemany(aside, ([pid] for pid in change.renamed))
            updates = ((name, pid) for pid, name in change.renamed.items())
            db.conn.executemany("UPDATE documents SET doc_id = ? WHERE pid = ?", updates)
            db.table("documents").insert_all(vars(row) for row in change.documents)
            fulltext.insert_texts(db.conn, ((row.pid, row.text) for row in change.documents))
            if change.renumber_from is not None:
                self._renumber(db, change.renumber_from)
                fulltext.rebuild(db.conn)
            for segment in change.drop_segments:
                db.table("segments").delete(segment.segment_id)
                db.table("files").delete_where("path LIKE ?", [f"{segment.folder}/%"])
            if change.drop_codec is not None:
                db.table("files").delete(change.drop_codec)
            db.table("segments").insert_all(asdict(row) for row in change.add_segments)
            db.table("files").insert_all(asdict(row) for row in change.add_files)
            if change.metadata_index is not None:
                self._index_metadata(db, change.metadata_index)
            self._add_keys(db, [*(row.metadata for row in change.documents), *change.metadata.values()])
            if change.search is not None:
                self._set(db, "search", change.search)
            db.table("settings").update("state", {"value": json.dumps(asdict(change.state))})

    def _add_keys(self, db: Database, metadata: Iterable[str]) -> None:
        if self.keys is None:
            return
        keys = self.keys.union(*map(key_names, set(metadata)))
        if keys != self.keys:  # far too many: they are made from data, and no longer checked
            told = None if len(keys) > MOST_KEYS else sorted(keys)
            db.conn.execute("INSERT OR REPLACE INTO settings VALUES ('keys', ?)", [json.dumps(told)])

    def _index_metadata(self, db: Database, path: str) -> None:
        # A column, so that the filter's SQL names the indexed value without holding the path.
        column = f"metadata_{len(self.metadata_indexes) + 1}"
        [(quoted,)] = db.execute("SELECT quote(?)", [path]).fetchall()
        db.execute(f"ALTER TABLE documents ADD COLUMN {column} AS (json_extract(metadata, {quoted})) VIRTUAL")
        db.execute(f"CREATE INDEX documents_{column} ON documents ({column})")
        indexes = {**self.metadata_indexes, path: column}
        self._set(db, "metadata_indexes", indexes)

    @staticmethod
    def _set(db: Database, key: str, value: dict[str, Any]) -> None:
        # Not the library's upsert: it goes on after an error that has ended the transaction.
        db.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", [key, json.dumps(value)])

    @staticmethod
    def _renumber(db: Database, start: int) -> None:
        # New pids are all above the old ones, so no row is moved onto another.
        db.execute(
            "CREATE TEMP TABLE renumbered AS "
            "SELECT pid AS old, ? + row_number() OVER (ORDER BY pid) - 1 AS new FROM documents",
            [start],
        )
        db.execute("CREATE UNIQUE INDEX temp.renumbered_old ON renumbered (old)")
        db.execute("UPDATE documents SET pid = (SELECT new FROM renumbered WHERE old = pid)")
        db.execute("DROP TABLE temp.renumbered")
        db.execute("DELETE FROM tombstones")

    def shrink(self, *, always: bool) -> None:
        """Give the room of deleted rows back to the disk, so that their text is gone from it.

        Not always: only where whole pages are free.
        """
        assert self._writer is not None
        if not always and self._rows("PRAGMA freelist_count")[0][0] == 0:
            return
        with self._lock, refusals(self.path):
            self._reading().rollback()  # a snapshot of our own would keep the log from being cut
            try:
                self._writer.execute("VACUUM")
                # Not waiting for readers of older snapshots: the log is then cut when the last of them has gone.
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
                self._read_state()

    # Inside -------------------------------------------------------------------------------------------------

    def _reading(self) -> Database:
        if self._reader is None:
            raise ArgumentError(f"{self.path.parent} is closed; open it again by Index.open")
        return self._reader

    def _rows(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, refusals(self.path):
            rows: list[tuple[Any, ...]] = self._reading().execute(sql, list(parameters)).fetchall()
            return rows

    def _read_settings(self) -> dict[str, Any]:
        names = self._reading().table_names()
        if not names:
            raise IndexFormatError(
                f"{self.path} is empty, its creation was cut short; run Index.create again"
            )
        if "settings" not in names:
            raise IndexFormatError(f"{self.path} is not a Latewood index; pass a folder made by Index.create")
        pairs = dict(self._rows("SELECT key, value FROM settings"))
        version = json.loads(pairs.get("format_version", "null"))
        if version != FORMAT_VERSION:
            raise IndexFormatError(
                f"{self.path} has format_version {version}, this Latewood reads {FORMAT_VERSION}; "
                "upgrade Latewood, or build the index again"
            )
        settings: dict[str, Any] = json.loads(pairs["index"])
        return settings

    def _read_state(self) -> None:
        # The first read of a transaction fixes its snapshot; it then stays open.
        with self._lock:
            self._reading().execute("BEGIN")
            value = self._rows("SELECT value FROM settings WHERE key = 'state'")[0][0]
            self.state = State(**json.loads(value))
            rows = self._rows("SELECT value FROM settings WHERE key = 'metadata_indexes'")
            # JSON path → column of documents
            self.metadata_indexes: dict[str, str] = json.loads(rows[0][0]) if rows else {}
            rows = self._rows("SELECT value FROM settings WHERE key = 'keys'")
            keys = json.loads(rows[0][0]) if rows else None
            # Of metadata, as `key_names` gives them, of all that was ever stored; None where nobody knows.
            self.keys: frozenset[tuple[str, ...]] | None = (
                None if keys is None else frozenset(map(tuple, keys))
            )
            rows = self._rows("SELECT value FROM settings WHERE key = 'search'")
            self.search: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
            columns = "segment_id, kind, pid_start, n_passages, n_tokens"
            rows = self._rows(f"SELECT {columns} FROM segments ORDER BY pid_start, segment_id")
            self.segments = [SegmentRow(*row) for row in rows]
            rows = self._rows("SELECT path, bytes, sha256 FROM files ORDER BY path")
            self.files = [FileRecord(*row) for row in rows]


def _slices(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[i : i + VARIABLES] for i in range(0, len(values), VARIABLES))
