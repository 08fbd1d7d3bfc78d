"""The writer's lock: one process writes to an index at a time."""

import json
import os
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from encoder.errors import ArgumentError, IndexLockedError
from indexing.storage.refusals import refusals

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["WriterLock"]

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
