"""Folders that are asked again and again: kept open, looked at before each question, and left by no path."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from encoder.closing import Closing
from encoder.errors import ArgumentError
from encoder.progress import Step, Told
from indexing import Snapshot
from indexing.reading.files import MAX_FILE_BYTES, FolderReport, TextFile, text_files
from indexing.storage.tables import identity, is_index
from retriever.code.search import holds_code
from retriever.folders import Folder, cache_of

__all__ = ["Kept", "KeptFolders"]

# A file changed so short a time ago may change again and keep its size and times, which are its stamp.
YOUNG_NS = 2_000_000_000
CLOSING = 2.0  # seconds to wait for an answer nobody waits for any more
PATIENCE = 20.0  # seconds to wait for a process that makes the index at first


class Kept:
    """One folder. name: what paths in it begin with where several folders are kept, else empty.

    files: what may be shown, by its path in the folder: all that is read, but for links that lead out of it, which are
    in `outside`.
    behind: whether another process writes the index, so that what changed last was not read. step: how far the work is
    that is being done, None while nothing is.
    """

    def __init__(self, source: Path, name: str = "") -> None:
        self.source = source
        self.name = name
        self.files: Mapping[str, TextFile] = {}
        self.outside: Sequence[str] = ()
        self.behind = False
        self.step: Step | None = None
        self._lock = threading.Lock()
        self._folder: Folder | None = None
        self._seen: dict[str, str] | None = None
        self._index_file: tuple[int, int] | None = None
        self._code: tuple[object, bool] = None, False  # moment
        self._told: list[str] = []

    @contextmanager
    def asked(self, progress: Told) -> Iterator[Folder]:
        """The folder as it is now, brought up to date first, for one question at a time.

        progress: what ends the waiting and the work by raising. Raises what `Folder.open` does.
        """

        def told(step: Step) -> None:
            self.step = step
            progress(step)

        self._wait(progress)
        try:
            yield self._now(told)
        finally:
            self.step = None
            self._lock.release()

    def _wait(self, progress: Told) -> None:
        began = time.monotonic()
        while not self._lock.acquire(timeout=0.1):
            progress(self.step or Step("waiting", "question", 0, None, began, time.monotonic()))

    def _now(self, told: Told) -> Folder:
        found = list(text_files(self.source, (), MAX_FILE_BYTES, FolderReport()))
        stamps = {file.relative: file.stamp for file in found}
        if self._folder is not None and self._index_file != identity(cache_of(self.source)):
            self._let_go()  # `latewood forget`, or an index made anew
        if self._folder is None:
            self._told = []
            self._folder = Folder.kept(self.source, self._told.append, progress=told, patience=PATIENCE)
            self._index_file = identity(cache_of(self.source))
            self.behind = self._folder.report is None
        elif stamps == self._seen:
            self._folder.searcher.reload()  # to what another process has stored or encoded
            return self._folder
        else:
            self.behind = not self._folder.refresh(told)
        young = time.time_ns() - YOUNG_NS
        sure = all(int(time) < young for stamp in stamps.values() for time in stamp.split()[1:])
        self._seen = stamps if sure and not self.behind else None
        self.files = {file.relative: file for file in found if self._inside(file.path)}
        self.outside = [file.relative for file in found if file.relative not in self.files]
        return self._folder

    def _inside(self, path: Path) -> bool:
        return not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(self.source)

    @property
    def notes(self) -> list[str]:
        """What is not as usual."""
        if not self.behind:
            return self._told
        return [
            "Another process is reading this folder: what changed last may be missing; ask again in a moment."
        ]

    @property
    def now(self) -> Snapshot | None:
        """What is searched; None before the first question."""
        return None if self._folder is None else self._folder.searcher.snapshot

    def holds_code(self, folder: Folder) -> bool:
        """Whether its documents are definitions of code."""
        snapshot = folder.searcher.snapshot
        if self._code[0] != snapshot.moment:
            self._code = snapshot.moment, holds_code(snapshot)
        return self._code[1]

    def shown(self, relative: str) -> str:
        """A path as answers have it."""
        return f"{self.name}/{relative}" if self.name else relative

    def close(self) -> None:
        """After the question that is being answered, if that ends soon."""
        held = self._lock.acquire(timeout=CLOSING)
        self._let_go()
        if held:
            self._lock.release()

    def _let_go(self) -> None:
        if self._folder is not None:
            self._folder.close()
        self._folder, self._seen = None, None


class KeptFolders(Closing):
    """Several folders, and the paths of files in them, which lead out of none."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        """Raises ArgumentError for what is no folder."""
        sources = list(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))
        for given in folders:
            if not Path(given).is_dir():
                raise ArgumentError(f"{given} is no folder; pass one that has text or code")
            if is_index(Path(given)):
                raise ArgumentError(f"{given} is an index; pass the folder that it was made of")
        self._all = [Kept(source, name) for source, name in zip(sources, _names(sources), strict=True)]

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def find(self, path: str) -> tuple[Kept, str]:
        """The folder that a path lies in, and the path there: as answers have it, in a folder, or absolute.

        Raises ArgumentError for one that lies in none, also by a link or `..`.
        """
        for kept, place in self._meant(path):
            # As it is written; where it leads must be in the folder too.
            if place.is_relative_to(kept.source) and _real(place).is_relative_to(kept.source):
                if not place.exists():
                    continue
                relative = place.relative_to(kept.source).as_posix()
                return kept, "" if relative == "." else relative
        lies = "does not exist in" if self._could_be(path) else "lies outside of"
        folders = ", ".join(kept.name or str(kept.source) for kept in self)
        raise ArgumentError(f"{path!r} {lies} {folders}; pass a path as search gives it")

    def _meant(self, path: str) -> Iterator[tuple[Kept, Path]]:
        if "\0" in path:
            return
        for kept in self:
            if kept.name and (path == kept.name or path.startswith(f"{kept.name}/")):
                yield kept, Path(os.path.normpath(kept.source / path.removeprefix(kept.name).lstrip("/")))
        for kept in self:
            given = Path(os.path.normpath(kept.source / path))
            # An absolute path may have been written by way of a link to the folder.
            yield (
                kept,
                given if given.is_relative_to(kept.source) or not Path(path).is_absolute() else _real(given),
            )

    def _could_be(self, path: str) -> bool:
        return any(_real(place).is_relative_to(kept.source) for kept, place in self._meant(path))

    def close(self) -> None:
        for kept in self:
            kept.close()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _names(sources: Sequence[Path]) -> list[str]:
    """What tells folders apart: their names, with as many of the folders above as that takes; none for a single one."""
    if len(sources) == 1:
        return [""]
    depth, names = 1, [source.name for source in sources]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(source.parts[-depth:]) for source in sources]
    return names
