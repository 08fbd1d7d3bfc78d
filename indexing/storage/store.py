"""Store: the writing half of the index's SQLite file, with the one commit point."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import StorageError
from indexing.coding.vocabulary import owners_file
from indexing.storage import fulltext
from indexing.storage.database import BUSY_SECONDS, connect, file_at, writing
from indexing.storage.filters import MOST_KEYS, key_names
from indexing.storage.refusals import damaged, refusals, refused
from indexing.storage.tables import Change

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["Store"]


class Store:
    """A connection that commits. Reading is `Reader`'s."""

    def __init__(self, path: Path) -> None:
        """Raises IndexFormatError for a damaged file, StorageError where the system refuses."""
        self.path = path
        self.uncertain = True  # whether a commit, ours or of a killed writer, may have half happened
        try:
            self._file = file_at(path)
            self._conn = connect(path, "rw")
        except sqlite3.DatabaseError as error:
            raise (refused(path, error) or damaged(path, error)) from error
        fulltext.define_function(self._conn)

    def check_place(self) -> None:
        """Raises StorageError where the file is there no more, or another one is: what is committed here would be
        lost."""
        try:
            there = file_at(self.path) == self._file
        except FileNotFoundError:
            there = False
        if not there:
            raise StorageError(
                f"{self.path.parent} was moved, deleted or replaced after it was opened to write; nothing more is "
                "written there; open it again"
            )

    @cached_property
    def _db(self) -> "Database":
        return writing(self._conn)

    def close(self) -> None:
        self._conn.close()

    def bury(self) -> None:
        """Make sure that no unfinished commit of the past can still come true.

        A writer killed at the end of a commit may have it whole in the log, and not yet in the index of the
        log that others read while any connection is open. We then see the state before it; yet once all
        have closed, SQLite rebuilds that index and finds the commit. A commit of our own takes its place in
        the log. Until then no file may be deleted, no number of a segment be used again.
        """
        with refusals(self.path), self._db.atomic():
            self._db.execute("UPDATE settings SET value = value + 1 WHERE key = 'burials'")
        self.uncertain = False

    def commit(self, change: Change) -> None:
        """The one commit point: all of `change` becomes visible, and durable, or none of it.

        Raises StorageError where the disk refuses; the next writing then begins with `bury`.
        """
        assert not self.uncertain
        self.check_place()
        self.uncertain = True  # until it has ended well
        with refusals(self.path):
            self._commit(change)
        self.uncertain = False

    def _commit(self, change: Change) -> None:
        db = self._db
        with db.atomic():
            many = self._conn.executemany
            dead = [(document,) for document in change.deleted]
            fulltext.delete_texts(self._conn, change.deleted)
            many("DELETE FROM documents WHERE document = ?", dead)
            # What was never encoded has no passage that a tombstone would have to hide.
            waiting = "(SELECT document FROM unencoded)"
            many(f"INSERT INTO tombstones SELECT ?1 WHERE ?1 NOT IN {waiting}", dead)
            many("DELETE FROM unencoded WHERE document = ?", [*dead, *((d,) for d in change.encoded)])
            many("DELETE FROM tombstones WHERE document = ?", ([d] for d in change.forgotten))
            updates = ((metadata, document) for document, metadata in change.metadata.items())
            many("UPDATE documents SET metadata = ? WHERE document = ?", updates)
            # Aside first, for one may take the name that another has until then.
            aside = "UPDATE documents SET doc_id = CAST(document AS BLOB) WHERE document = ?"
            many(aside, ([d] for d in change.renamed))
            renamed = ((doc_id, document) for document, doc_id in change.renamed.items())
            many("UPDATE documents SET doc_id = ? WHERE document = ?", renamed)
            db.table("documents").insert_all(vars(row) for row in change.documents)
            many("INSERT INTO unencoded VALUES (?)", ([d] for d in change.unencoded))
            if change.rebuild_words:
                fulltext.rebuild(self._conn)
            else:
                fulltext.insert_texts(self._conn, ((row.document, row.text) for row in change.documents))
            for segment in change.drop_segments:
                db.table("segments").delete(segment.segment_id)
                db.table("files").delete_where("path LIKE ?", [f"{segment.folder}/%"])
            if change.drop_codec is not None:
                names = [change.drop_codec, owners_file(change.drop_codec)]
                db.table("files").delete_where("path in (?, ?)", names)
            db.table("segments").insert_all(asdict(row) for row in change.add_segments)
            db.table("files").insert_all(asdict(row) for row in change.add_files)
            if change.metadata_index is not None:
                self._index_metadata(change.metadata_index)
            self._add_keys([*(row.metadata for row in change.documents), *change.metadata.values()])
            if change.search is not None:
                self._set("search", change.search)
            db.table("settings").update("state", {"value": json.dumps(asdict(change.state))})

    def _add_keys(self, metadata: Iterable[str]) -> None:
        [(stored,)] = self._db.execute("SELECT value FROM settings WHERE key = 'keys'").fetchall()
        if (known := json.loads(stored)) is None:
            return
        keys = set(map(tuple, known)).union(*map(key_names, set(metadata)))
        if len(keys) > len(known):  # far too many: they are made from data, and no longer checked
            self._set("keys", None if len(keys) > MOST_KEYS else sorted(keys))

    def _index_metadata(self, path: str) -> None:
        # A column, so that the filter's SQL names the indexed value without holding the path.
        db = self._db
        stored = db.execute("SELECT value FROM settings WHERE key = 'metadata_indexes'").fetchone()
        indexes = {} if stored is None else json.loads(stored[0])
        column = f"metadata_{len(indexes) + 1}"
        [(quoted,)] = db.execute("SELECT quote(?)", [path]).fetchall()
        db.execute(f"ALTER TABLE documents ADD COLUMN {column} AS (json_extract(metadata, {quoted})) VIRTUAL")
        db.execute(f"CREATE INDEX documents_{column} ON documents ({column})")
        self._set("metadata_indexes", {**indexes, path: column})

    def _set(self, key: str, value: Any) -> None:
        # Not the library's upsert: it goes on after an error that has ended the transaction.
        sql = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)"
        self._db.execute(sql, [key, json.dumps(value)])

    def shrink(self, *, always: bool) -> None:
        """Give the room of deleted rows back to the disk, so that their text is gone from it.

        Not always: only where whole pages are free. No reader of ours may hold a transaction meanwhile, for that
        would keep the log from being cut.
        """
        with refusals(self.path):
            if not always and self._db.execute("PRAGMA freelist_count").fetchone()[0] == 0:
                return
            try:
                self._db.execute("VACUUM")
                # Not waiting for readers of older snapshots: the log is then cut when the last of them has gone.
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
