"""Files that survive a crash: written aside, forced to disk, then renamed into view."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexing.storage.refusals import refusals

__all__ = [
    "FileRecord",
    "fsync_folder",
    "hash_file",
    "publish_file",
    "publish_folder",
    "publish_json",
    "remove",
]

ASIDE = ".aside"  # suffix of what is not yet in view


@dataclass(frozen=True)
class FileRecord:
    """What the store keeps of a file: its path in the index folder (with /), size and checksum."""

    path: str
    bytes: int
    sha256: str


def publish_folder(root: Path, name: str, write: Callable[[Path], None]) -> list[FileRecord]:
    """Make the folder root/name with what `write(folder)` puts there. A commit shows it to readers.

    Raises StorageError where the system refuses.
    """
    final = root / name
    aside = final.with_name(final.name + ASIDE)
    # Either may be left from a failed attempt; no commit names them, or the name would not be free.
    remove(aside)
    remove(final)
    with refusals(final):
        aside.mkdir(parents=True)
        write(aside)
        records = [_settle(path, f"{name}/{path.name}") for path in sorted(aside.iterdir())]
        fsync_folder(aside)
        aside.rename(final)
        fsync_folder(final.parent)
    return records


def publish_file(root: Path, name: str, write: Callable[[Path], None]) -> FileRecord:
    """Make the file root/name with what `write(path)` puts there. Raises StorageError where the system refuses."""
    final = root / name
    aside = final.with_name(final.name + ASIDE)
    with refusals(final):
        write(aside)
        record = _settle(aside, name)
        aside.replace(final)
        fsync_folder(final.parent)
    return record


def publish_json(root: Path, name: str, values: Any) -> None:
    """As `publish_file`: readers see the values of before or these."""
    text = json.dumps(values, indent=1) + "\n"

    def written(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    publish_file(root, name, written)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Force a folder's list of names to disk, where the platform lets a folder be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there. One that is mapped may have to stay for a later sweep."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _settle(path: Path, name: str) -> FileRecord:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return FileRecord(name, path.stat().st_size, hash_file(path))
