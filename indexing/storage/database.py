"""Opening the index's SQLite file, and what to say where that fails."""

import os
import sqlite3
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["BUSY_SECONDS", "Watch", "connect", "connect_reader", "file_at", "shorten_log", "writing"]

BUSY_SECONDS = 30.0
LONG_LOG = 4 << 20  # bytes


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file with SQLite's own mode: "ro", "rw" or "rwc"."""
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )
    try:
        # FULL forces the log to disk at each commit; NORMAL may lose the last ones in a power cut.
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute(
            "SELECT name FROM sqlite_master"
        ).fetchall()  # SQLite opens the file no earlier than this
    except BaseException:
        conn.close()
        raise
    return conn


def writing(conn: sqlite3.Connection) -> "Database":
    """The same with the library's tables. Imported here: it takes a while, and pandas with it where that is installed;
    who reads does without."""
    from sqlite_utils import Database

    return Database(conn, execute_plugins=False)


def shorten_log(path: Path) -> bool:
    """Copy a long write-ahead log into the database file; whether it was long. Readers that open from then on need no
    log, so that writers may begin it anew once all older readers are gone: else it would grow as long as anyone
    reads. Where this process may not write, nothing is done."""
    log = path.with_name(path.name + "-wal")
    try:
        if log.stat().st_size < LONG_LOG:
            return False
        conn = connect(path, "rw")
    except (OSError, sqlite3.Error):
        return False
    try:
        conn.execute("PRAGMA busy_timeout = 0")
        conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error:
        return False
    finally:
        conn.close()
    return True


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a file to read, also where nothing may be written beside it."""
    try:
        return connect(path, "ro")
    except sqlite3.OperationalError:
        # A reader, too, writes SQLite's -shm file. Where none can be made, and no log tells of a writer, the
        # database file is all there is. Never otherwise: this way SQLite looks at neither log nor locks.
        log = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size > 0):
            raise
        return connect(path, "ro&immutable=1")


def file_at(path: Path) -> tuple[int, int]:
    """Which file is there: another one in its place has another answer, as long as this one is open."""
    status = path.stat()
    return status.st_dev, status.st_ino


class Watch:
    """Tells whether a file has been committed to, by a connection of its own. Closed by `close`, or when nobody has
    it."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, file_at(path)
        self._conn = connect_reader(path)
        self.close = weakref.finalize(self, self._conn.close)

    def look(self) -> object:
        """What is equal to the look before if nothing has been committed since. Raises FileNotFoundError also where
        another file has taken the place of this one."""
        now = self._path.stat()
        if (now.st_dev, now.st_ino) != self._file:
            raise FileNotFoundError(self._path)
        # SQLite counts for each connection apart. Where the file was opened as immutable it counts nothing.
        return self, now.st_mtime_ns, self._conn.execute("PRAGMA data_version").fetchone()
