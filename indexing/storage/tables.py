"""The tables of an index's SQLite file: what a row of each holds, and how they are made."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from encoder.errors import IndexFormatError
from indexing.storage import fulltext
from indexing.storage.database import connect, file_at, writing
from indexing.storage.durable import FileRecord, publish_file, remove

__all__ = [
    "BUILD",
    "DATABASE",
    "FORMAT_VERSION",
    "LOCK",
    "MANIFEST",
    "Change",
    "DocumentRow",
    "SegmentRow",
    "State",
    "create",
    "exists",
    "identity",
    "index_file",
    "is_index",
    "no_index",
]

DATABASE = "index.db"
LOCK = "index.lock"
MANIFEST = "shards.json"  # of a folder of indexes that are one
BUILD = "build.json"  # there while `latewood cluster build` is not done
FORMAT_VERSION = 4


@dataclass(frozen=True)
class DocumentRow:
    """A row of `documents`. document: its number, never used twice. metadata: JSON text. text: None where it came as
    bare vectors, and where a row is read without it."""

    document: int
    doc_id: str
    content_hash: str
    metadata: str
    text: str | None = None


@dataclass(frozen=True)
class SegmentRow:
    """A row of `segments`: an immutable run of passages, in a folder of its own."""

    segment_id: int
    kind: str
    n_passages: int
    n_tokens: int

    @property
    def folder(self) -> str:
        return f"segments/{self.segment_id:06d}"


@dataclass(frozen=True)
class State:
    """What moves with each commit. first_document: of a shard, whose numbers begin where no other's reach. codec: file
    name, or None while nothing is trained. codec_error: mean squared error of the vectors that it was trained on."""

    generation: int = 0
    first_document: int = 0
    next_document: int = 0
    next_segment: int = 1
    next_codec: int = 1
    codec: str | None = None
    codec_error: float = 0.0


@dataclass
class Change:
    """All that one commit does.

    documents: new rows. unencoded, encoded: documents whose vectors are still to come, and those whose vectors come
    with this commit. deleted: documents that go. metadata, renamed: document to its new JSON or doc_id. forgotten:
    tombstones that no passage needs any more. metadata_index: JSON path to index. search: tuned settings.
    rebuild_words: make the full text anew, so that nothing of what was deleted stays in it.
    """

    state: State
    documents: list[DocumentRow] = field(default_factory=list)
    unencoded: list[int] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    metadata: dict[int, str] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)
    forgotten: list[int] = field(default_factory=list)
    add_segments: list[SegmentRow] = field(default_factory=list)
    drop_segments: list[SegmentRow] = field(default_factory=list)
    add_files: list[FileRecord] = field(default_factory=list)
    drop_codec: str | None = None
    metadata_index: str | None = None
    search: dict[str, Any] | None = None
    rebuild_words: bool = False


def index_file(folder: Path) -> Path:
    """The file that makes a folder an index, whether or not it is there."""
    manifest = folder / MANIFEST
    return manifest if manifest.is_file() else folder / DATABASE


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index, of shards or not."""
    return index_file(folder).is_file()


def identity(folder: Path) -> tuple[int, int] | None:
    """Which file the index in a folder is (`file_at`); None where there is none."""
    try:
        return file_at(index_file(folder))
    except OSError:
        return None


def no_index(folder: Path) -> IndexFormatError:
    """What to raise where a folder holds none."""
    made = "`latewood index` or Index.create makes one"
    if not folder.exists():
        return IndexFormatError(f"{folder} does not exist; pass the folder of an index: {made}")
    return IndexFormatError(f"{folder} is not an index (it has no {DATABASE}); {made}")


def create(folder: Path, settings: dict[str, Any], first_document: int = 0) -> None:
    """Make the database of an index. Others see it whole or not at all; after a crash it may be tried again."""

    def written(aside: Path) -> None:
        for left in folder.glob(f"{DATABASE}?*"):  # by a crash, or of a database that is gone
            remove(left)
        _write(aside, settings, first_document)

    publish_file(folder, DATABASE, written)


def _write(path: Path, settings: dict[str, Any], first_document: int) -> None:
    with closing(connect(path, "rwc")) as conn:
        db = writing(conn)
        db.execute("PRAGMA journal_mode = WAL")
        with db.atomic():
            db.table("settings").create({"key": str, "value": str}, pk="key")
            documents = db.table("documents").create(
                # The text last: what comes after a long one is slow to read.
                {"document": int, "doc_id": str, "content_hash": str, "metadata": str, "text": str},
                pk="document",
                not_null={"doc_id", "metadata", "content_hash"},
            )
            documents.create_index(["doc_id"], unique=True)
            fulltext.create_table(db.conn)
            for name in ("unencoded", "tombstones"):
                db.table(name).create({"document": int}, pk="document")
            db.table("segments").create(
                {"segment_id": int, "kind": str, "n_passages": int, "n_tokens": int}, pk="segment_id"
            )
            db.table("files").create({"path": str, "bytes": int, "sha256": str}, pk="path")
            pairs = {
                "format_version": FORMAT_VERSION,
                "index": settings,
                "state": asdict(State(first_document=first_document, next_document=first_document)),
                "burials": 0,
                "keys": [],
            }
            db.table("settings").insert_all({"key": k, "value": json.dumps(v)} for k, v in pairs.items())


def exists(path: Path) -> bool:
    """Whether `path` is a database with tables in it, or anything else that must not be overwritten."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    try:
        conn = connect(path, "ro")
    except sqlite3.DatabaseError:
        return True
    with closing(conn):
        return bool(conn.execute("SELECT name FROM sqlite_master").fetchall())
