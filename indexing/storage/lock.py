"""The writer's lock: one process writes to an index at a time. And one for threads that share a snapshot."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from encoder.errors import ArgumentError, IndexLockedError
from indexing.storage.refusals import refusals

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["SnapshotLock", "WriterLock"]

# On Windows a locked byte cannot be read by others, so the lock sits beyond the text that names the holder.
LOCK_BYTE = 1 << 20


class WriterLock:
    """Holds `path` locked until `release`. The system lets go of it when the process ends, kill -9 included.

    Raises IndexLockedError, naming the holder's process, machine and time, when another writer has it; StorageError
    where its own name cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ArgumentError(
                f"{path.parent} cannot be written ({error.strerror}); change its permissions or only read it"
            ) from error
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            holder = file.read(1000)
            file.close()
            raise IndexLockedError(
                f"{path.parent} is being written by {_describe(holder)}; wait for it, or only read"
            ) from error
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now})
        try:
            with refusals(path):
                file.truncate(0)
                os.write(file.fileno(), holder.encode())
        except BaseException:
            file.close()
            raise
        self._file: IO[str] | None = file

    def release(self) -> None:
        # The file stays: deleting it would let two writers hold locks on two files of one name.
        if self._file is not None:
            self._file.close()
            self._file = None


class SnapshotLock:
    """Any number of threads read, or one moves what they read. Who waits to move goes before readers yet to come, so
    reading within reading may wait for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reading = self._moving = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._moving)
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    @contextmanager
    def moving(self) -> Iterator[None]:
        with self._changed:
            self._moving += 1
            try:
                self._changed.wait_for(lambda: not self._reading)
                yield  # with the condition's own lock held
            finally:
                self._moving -= 1
                self._changed.notify_all()


def _lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        file.seek(LOCK_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe(holder: str) -> str:
    try:
        told = json.loads(holder)
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
