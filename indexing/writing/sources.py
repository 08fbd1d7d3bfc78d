"""An index that follows a folder: what changed is encoded, what is gone is dropped, what moved is renamed.

`sources.db` in the index folder remembers each file's size, time and passages. It is no part of the index: lost,
the next update reads every file again. It is ahead of the index, never behind: passages are noted before they are
stored, so that whatever interrupts an update, the next one knows of all that may be there.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlite_utils import Database

from encoder.errors import ArgumentError
from indexing.index import Index
from indexing.reading.chunking import GRAMMARS, MAX_CHARS, OVERLAP_CHARS, has_grammar
from indexing.reading.corpus import Passage, file_passages
from indexing.reading.files import MAX_FILE_BYTES, FolderReport, TextFile, head_commit, text_files
from indexing.writing.records import AddReport

__all__ = ["UpdateReport", "update_folder"]

CHANGED = -1  # size of a file whose passages may be stored in part
CHUNKING = 1  # raised when the same file would be cut otherwise
AT_ONCE = 500


@dataclass
class UpdateReport:
    """unchanged: files not even opened. changed: files read. gone: files of the last update that are no more.

    renamed: passages that kept their vectors under another doc_id. deleted: passages dropped. added: the rest.
    folder: the whole walk, its counts of passages and languages those of the files read.
    """

    folder: FolderReport = field(default_factory=FolderReport)
    added: AddReport = field(default_factory=AddReport)
    unchanged: int = 0
    changed: int = 0
    gone: int = 0
    renamed: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class _Known:
    """A row of `files`. reason: why it has no passages. how: what else decides how it is cut."""

    path: str
    size: int
    mtime_ns: int
    how: str
    reason: str
    doc_ids: list[str]


def update_folder(
    index: Index,
    folder: str | os.PathLike[str],
    *,
    exclude: Sequence[str] = (),
    max_chars: int = MAX_CHARS,
    overlap_chars: int = OVERLAP_CHARS,
    max_file_bytes: int = MAX_FILE_BYTES,
    show_progress: bool = False,
) -> UpdateReport:
    """Bring a writable index up to date with a folder, as `read_folder` reads it.

    A file of the same size and time as at the last update is not opened. Of the others a passage whose text is
    stored already, under its doc_id or under that of a passage that is gone, is not encoded: a renamed file costs
    nothing. Passages that came into the index otherwise are left alone.

    Raises ArgumentError where the index follows another folder, unless that is no more: then this one is taken
    for it, moved.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ArgumentError(f"{folder} is no folder; pass one, or index a file without --update")
    with _State(index.folder / "sources.db") as state:
        state.follow(root)
        how = json.dumps([CHUNKING, max_chars, overlap_chars, sorted(filter(has_grammar, GRAMMARS))])
        known = state.files()
        report = UpdateReport()
        changed: list[TextFile] = []
        for file in text_files(root, exclude, max_file_bytes, report.folder):
            row = known.pop(file.relative, None)
            if row is not None and (row.size, row.mtime_ns, row.how) == (file.size, file.mtime_ns, how):
                report.unchanged += 1
                if row.reason:
                    report.folder.skip(row.reason, file.relative)
            else:
                changed.append(file)
                if row is not None:
                    known[file.relative] = row
        report.changed = len(changed)
        report.gone = len(known.keys() - {file.relative for file in changed})
        if not changed and not known:
            return report

        commit = head_commit(root)

        def passages(file: TextFile, told: FolderReport) -> Iterator[Passage]:
            if (text := file.read(told)) is not None:
                yield from file_passages(file.relative, text, told, commit, max_chars, overlap_chars)

        old = [doc_id for row in known.values() for doc_id in row.doc_ids]
        new: dict[str, bytes] = {}
        noted: dict[str, list[str]] = {path: row.doc_ids for path, row in known.items()}
        for file in changed:
            own = {p["doc_id"]: _digest(p["text"]) for p in passages(file, FolderReport())}
            new |= own
            noted[file.relative] = list(dict.fromkeys([*noted.get(file.relative, []), *own]))
        state.put(_Known(path, CHANGED, 0, how, "", doc_ids) for path, doc_ids in noted.items())

        stored = {doc_id: _digest(text) for doc_id, text in _texts(index, old)}
        moves = _moves(stored, new)
        foreign = {doc_id for doc_id, _ in _texts(index, set(moves.values()) - stored.keys())}
        moves = {source: target for source, target in moves.items() if target not in foreign}
        report.deleted = index.delete(
            stored.keys() - new.keys() - moves.keys() | _in_the_way(stored, new, moves)
        )
        report.renamed = index.rename(moves)

        rows: list[_Known] = []

        def read() -> Iterator[Passage]:
            for file in changed:
                doc_ids, told = [], FolderReport()
                for passage in passages(file, told):
                    doc_ids.append(passage["doc_id"])
                    yield passage
                reason = next(iter(told.skipped), "")
                rows.append(_Known(file.relative, file.size, file.mtime_ns, how, reason, doc_ids))
                report.folder.merge(told)

        report.added = index.add(read(), show_progress=show_progress)
        state.put(rows)
        state.drop(known.keys() - {file.relative for file in changed})
        return report


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _moves(stored: Mapping[str, bytes], new: Mapping[str, bytes]) -> dict[str, str]:
    """{old doc_id: new doc_id} of texts that are stored under a doc_id that no longer has them."""
    free: defaultdict[bytes, list[str]] = defaultdict(list)
    for doc_id, digest in stored.items():
        if new.get(doc_id) != digest:
            free[digest].append(doc_id)
    return {
        free[digest].pop(): doc_id
        for doc_id, digest in new.items()
        if stored.get(doc_id) != digest and free.get(digest)
    }


def _in_the_way(stored: Mapping[str, bytes], new: Mapping[str, bytes], moves: Mapping[str, str]) -> set[str]:
    """Those under a doc_id that another moves to, and that have nowhere to go themselves."""
    return {doc_id for doc_id in moves.values() if doc_id in stored and doc_id not in moves}


def _texts(index: Index, doc_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of those that are stored."""
    wanted = list(doc_ids)
    for start in range(0, len(wanted), AT_ONCE):
        quoted = ", ".join("'" + d.replace("'", "''") + "'" for d in wanted[start : start + AT_ONCE])
        for segment, bitmap in zip(index.segments, index.matching(f"doc_id in ({quoted})"), strict=True):
            for document in index.documents((segment.pid_start + np.flatnonzero(bitmap)).tolist()):
                yield document.doc_id, document.text or ""


class _State:
    """The file `sources.db`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_State":
        self.db = Database(self.path)
        self.db.execute("CREATE TABLE IF NOT EXISTS source (root TEXT)")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
            "how TEXT, reason TEXT, doc_ids TEXT)"
        )
        return self

    def __exit__(self, *exception: Any) -> None:
        self.db.close()

    def follow(self, root: Path) -> None:
        rows = self.db.execute("SELECT root FROM source").fetchall()
        if rows and rows[0][0] != str(root) and Path(rows[0][0]).exists():
            raise ArgumentError(
                f"{self.path.parent} follows {rows[0][0]}; use an index of its own for {root}, "
                "or add it without --update"
            )
        with self.db.atomic():
            self.db.execute("DELETE FROM source")
            self.db.execute("INSERT INTO source VALUES (?)", [str(root)])

    def files(self) -> dict[str, _Known]:
        rows = self.db.execute("SELECT path, size, mtime_ns, how, reason, doc_ids FROM files").fetchall()
        return {
            path: _Known(path, size, mtime_ns, how, reason, json.loads(doc_ids))
            for path, size, mtime_ns, how, reason, doc_ids in rows
        }

    def put(self, rows: Iterable[_Known]) -> None:
        with self.db.atomic():
            self.db.conn.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                ((r.path, r.size, r.mtime_ns, r.how, r.reason, json.dumps(r.doc_ids)) for r in rows),
            )

    def drop(self, paths: Iterable[str]) -> None:
        with self.db.atomic():
            self.db.conn.executemany("DELETE FROM files WHERE path = ?", ([path] for path in paths))
