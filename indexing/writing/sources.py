"""An index that follows a folder: what changed is encoded, what is gone is dropped, what moved is renamed.

`sources.db` in the index folder notes each file's size, times, hash and documents. It is ahead of the index, never
behind: documents are noted before they are stored, and a file is noted as done only after the commit that holds the
last of them. So whatever interrupts an update, the next one knows of all that may be there, and reads again what may
not be.
"""

import functools
import hashlib
import json
import os
import sqlite3
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ArgumentError, CorpusError, LatewoodError
from encoder.progress import Progress
from indexing.reading.chunking import GRAMMARS, has_grammar
from indexing.reading.corpus import Passage, file_passages
from indexing.reading.files import MAX_FILE_BYTES, UNREADABLE, VANISHED, FolderReport, TextFile, text_files
from indexing.reading.git import head_commit
from indexing.storage.database import connect
from indexing.storage.refusals import damaged, refusals
from indexing.writing.records import AddReport

if TYPE_CHECKING:
    from indexing.index import Index

__all__ = ["UpdateReport", "unchanged", "update_folder"]

CHUNKING = 2  # raised when the same file would be cut otherwise
AT_ONCE = 500


@dataclass
class UpdateReport:
    """unchanged: files as they were. changed: files read anew. gone: files of the last update that are no more.

    renamed: documents that kept their vectors under another doc_id. deleted: documents dropped. added: the rest.
    folder: the whole walk, its counts of documents and languages those of the files read anew.
    """

    folder: FolderReport = field(default_factory=FolderReport)
    added: AddReport = field(default_factory=AddReport)
    unchanged: int = 0
    changed: int = 0
    gone: int = 0
    renamed: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class _Note:
    """What is known of a file. stamp, digest: those of `indexing.reading.files.Reading`; without a stamp the file is
    read again, without a digest cut again. how: what else decides how it is cut. reason: why it has no documents."""

    path: str
    stamp: str
    digest: str
    how: str
    reason: str
    doc_ids: list[str]

    def unsure(self, doc_ids: Iterable[str] = ()) -> "_Note":
        """With documents that may soon be stored, too."""
        return replace(self, stamp="", digest="", doc_ids=list(dict.fromkeys([*self.doc_ids, *doc_ids])))


def update_folder(
    index: "Index",
    folder: str | os.PathLike[str],
    *,
    exclude: Sequence[str] = (),
    allow_empty: bool = False,
    tell: Callable[[str], None] | None = None,
    **adding: Any,
) -> UpdateReport:
    """Bring a writable index up to date with a folder, as `read_folder` reads it.

    A file of the same size and times as at the last update is not opened. Of the others a document whose text is
    stored already, under its doc_id or under that of one that is gone, is not encoded: a renamed file costs
    nothing. Documents that came into the index otherwise are left alone, and so are those of files and folders that
    cannot be read now.

    tell: is called with a line before more than half of the index is deleted. allow_empty: take a folder that has
    nothing to read for one whose files were all deleted. adding: of `Index.add`, encode and
    progress.

    Raises CorpusError for a folder with nothing to read, unless allow_empty: its disk may not be mounted;
    ArgumentError where the index follows another folder, unless that is no more: then this one is taken for it,
    moved; IndexFormatError for a damaged sources.db; StorageError for a full disk.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ArgumentError(f"{folder} is no folder; pass one, for a file is not followed")
    report = UpdateReport()
    with _Notes(index.folder / "sources.db") as notes, _Spool(index.folder) as spool:
        notes.follow(root)
        known = notes.read()
        files = list(text_files(root, exclude, MAX_FILE_BYTES, report.folder))
        if not (files or report.folder.unreadable or allow_empty):
            n = sum(len(note.doc_ids) for note in known.values())
            raise CorpusError(
                f"{root} holds no text or code to index: {report.folder}; see that its disk is mounted, or allow it "
                f"to be empty (--allow-empty), which deletes the {n:,} documents that the index has of it"
            )
        with Progress(files, phase="reading", unit="file", told=adding.get("progress")) as bar:
            same, new, digests = _read(root, bar, known, report, spool)
        gone = _gone(files, known, report.folder)
        report.gone = len(gone)
        if not new and not gone:
            notes.put(same)
            return report

        old = {path: known[path] for path in [*(note.path for note in new), *gone] if path in known}
        unsure = {path: note.unsure() for path, note in old.items()}
        unsure |= {note.path: old.get(note.path, note).unsure(note.doc_ids) for note in new}
        notes.put([*same, *unsure.values()])

        stored = {d: _digest(text) for d, text in _texts(index, (d for n in old.values() for d in n.doc_ids))}
        moves = _moves(stored, digests)
        foreign = {doc_id for doc_id, _ in _texts(index, set(moves.values()) - stored.keys())}
        moves = {source: target for source, target in moves.items() if target not in foreign}
        dropped = stored.keys() - digests.keys() - moves.keys() | _in_the_way(stored, moves)
        if tell is not None and 2 * len(dropped) > len(index):
            tell(f"deletes {len(dropped):,} of {len(index):,} documents, whose files are gone or changed")
        report.deleted = index.delete(dropped)
        report.renamed = index.rename(moves)

        ends = list(accumulate(len(note.doc_ids) for note in new))
        done = 0

        def committed(n: int) -> None:
            nonlocal done
            before, done = done, bisect_right(ends, n)
            notes.put(new[before:done])

        report.added = index.add(_Sized(iter(spool), len(digests)), committed=committed, **adding)
        notes.drop(gone)
        return report


def unchanged(index_folder: Path, folder: Path) -> UpdateReport | None:
    """What `update_folder` would report where it found nothing to do: all files as they were, none new and none gone.
    None where it may find something, which it alone can tell. Writes nothing."""
    path, report = index_folder / "sources.db", UpdateReport()
    try:
        with closing(connect(path, "ro")) as db:
            [(root,)] = db.execute("SELECT root FROM source").fetchall()
            known = {path: rest for path, *rest in db.execute("SELECT path, stamp, how, reason FROM files")}
    except (sqlite3.Error, ValueError):  # not there yet, of another form, of no folder
        return None
    if os.fsdecode(root) != str(folder):
        return None
    how = _how()
    for file in text_files(folder, (), MAX_FILE_BYTES, report.folder):
        stamp, its_how, reason = known.pop(file.relative, ("", "", ""))
        if (stamp, its_how) != (file.stamp, how):
            return None
        report.unchanged += 1
        if reason:
            report.folder.skip(reason, file.relative)
    return report if report.unchanged and not (known or report.folder.unreadable) else None


def _how() -> str:
    """What decides how files are cut, beside their text."""
    return json.dumps([CHUNKING, sorted(filter(has_grammar, GRAMMARS))])


def _read(
    root: Path, files: Iterable[TextFile], known: Mapping[str, _Note], report: UpdateReport, spool: "_Spool"
) -> tuple[list[_Note], list[_Note], dict[str, bytes]]:
    """Read what may have changed. Notes of files found unchanged by their hash; notes of the others, whose documents
    are in the spool in this order; and {doc_id: digest of its text} of these."""
    how = _how()
    commit = functools.cache(lambda: head_commit(root))  # git, where a file has changed
    same: list[_Note] = []
    new: list[_Note] = []
    digests: dict[str, bytes] = {}
    for file in files:
        note = known.get(file.relative)
        if note is not None and note.how == how and note.stamp == file.stamp:
            report.unchanged += 1
            if note.reason:
                report.folder.skip(note.reason, file.relative)
            continue
        reading = file.read()
        if reading.reason:
            report.folder.skip(reading.reason, file.relative)
        if reading.reason in (UNREADABLE, VANISHED):
            continue
        fresh = _Note(file.relative, reading.stamp, reading.digest, how, reading.reason, [])
        if note is not None and note.how == how and note.digest == reading.digest:
            report.unchanged += 1
            same.append(replace(fresh, doc_ids=note.doc_ids))
            continue
        if not reading.reason:
            for passage in file_passages(file.relative, reading.text, report.folder, commit()):
                spool.put(passage)
                digests[passage["doc_id"]] = _digest(passage["text"])
                fresh.doc_ids.append(passage["doc_id"])
        new.append(fresh)
    report.changed = len(new)
    return same, new, digests


def _gone(files: Iterable[TextFile], known: Mapping[str, _Note], walked: FolderReport) -> set[str]:
    """Files of the last update that are no more. Of what cannot be read nobody knows whether it is there."""
    vanished = walked.vanished
    there = {file.relative for file in files} - vanished
    lost = walked.unreadable
    folders = tuple(path for path in lost if path.endswith("/"))
    return {path for path in known.keys() - there - set(lost) if not path.startswith(folders)}


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


def _in_the_way(stored: Mapping[str, bytes], moves: Mapping[str, str]) -> set[str]:
    """Those under a doc_id that another moves to, and that have nowhere to go themselves."""
    return {doc_id for doc_id in moves.values() if doc_id in stored and doc_id not in moves}


def _texts(index: "Index", doc_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of those that are stored."""
    wanted = iter(doc_ids)
    while some := list(islice(wanted, AT_ONCE)):
        for document in index.get(some):
            if document is not None:
                yield document.doc_id, document.text or ""


@dataclass(frozen=True)
class _Sized:
    """What progress is counted by."""

    documents: Iterator[Passage]
    n: int

    def __iter__(self) -> Iterator[Passage]:
        return self.documents

    def __len__(self) -> int:
        return self.n


class _Spool:
    """Documents between their one reading and the time that they are stored: a file without a name in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with refusals(folder):
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # a full disk once more
            self.file.close()

    def put(self, passage: Passage) -> None:
        with refusals(self.folder):
            self.file.write(json.dumps(passage).encode() + b"\n")

    def __iter__(self) -> Iterator[Passage]:
        with refusals(self.folder):
            self.file.seek(0)
        return map(json.loads, self.file)


class _Notes:
    """The file `sources.db`. Raises IndexFormatError where it is damaged, StorageError where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Notes":
        with self._told():
            self.db = connect(self.path, "rwc")
        try:
            self._make_tables()
        except BaseException:
            self.db.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.db.close()

    def _make_tables(self) -> None:
        with self._told(), self.db:
            # The name of a folder is bytes, which need not be UTF-8; a time may be beyond what an INTEGER holds.
            self.db.execute("CREATE TABLE IF NOT EXISTS source (root BLOB)")
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS files "
                "(path TEXT PRIMARY KEY, stamp TEXT, digest TEXT, how TEXT, reason TEXT, doc_ids TEXT)"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with refusals(self.path):
                yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            if isinstance(error, LatewoodError):
                raise
            raise damaged(self.path, error) from error

    def follow(self, root: Path) -> None:
        with self._told():
            rows = self.db.execute("SELECT root FROM source").fetchall()
            before = Path(os.fsdecode(rows[0][0])) if rows else root
        if before != root and before.exists():
            raise ArgumentError(
                f"{self.path.parent} follows {before}; use an index of its own for {root}, or add it without --update"
            )
        if not rows or before != root:
            with self._told(), self.db:
                self.db.execute("DELETE FROM source")
                self.db.execute("INSERT INTO source VALUES (?)", [os.fsencode(root)])

    def read(self) -> dict[str, _Note]:
        with self._told():
            rows = self.db.execute("SELECT path, stamp, digest, how, reason, doc_ids FROM files").fetchall()
            return {path: _Note(path, *rest, json.loads(doc_ids)) for path, *rest, doc_ids in rows}  # type: ignore[call-arg]

    def put(self, notes: Iterable[_Note]) -> None:
        with self._told(), self.db:
            rows = ((n.path, n.stamp, n.digest, n.how, n.reason, json.dumps(n.doc_ids)) for n in notes)
            self.db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)

    def drop(self, paths: Iterable[str]) -> None:
        with self._told(), self.db:
            self.db.executemany("DELETE FROM files WHERE path = ?", ([path] for path in paths))
