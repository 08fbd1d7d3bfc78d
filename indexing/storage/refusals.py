"""What to say where the disk refuses: it is full, fails, is read-only, or another program holds the database."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encoder.errors import IndexFormatError, LatewoodError, StorageError

__all__ = ["damaged", "refusals", "refused"]

FULL = "free space on that disk and run the same again: it goes on from what was committed"
READ_ONLY = "change its permissions and run the same again; what was committed is kept"
FAILING = "check that disk and the room on it, then run the same again; what was committed is kept"
LOCKED = "let the other program finish and run the same again; what was committed is kept"

# EFBIG: larger than a user's limit, or than the file system can hold.
BY_ERRNO = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL, errno.EROFS: READ_ONLY}
BY_ERRNO |= dict.fromkeys((errno.EACCES, errno.EPERM), READ_ONLY)
# SQLite's own words for its codes FULL, IOERR, READONLY, CANTOPEN, BUSY and LOCKED; Python 3.10 passes on no codes.
BY_MESSAGE = {
    "database or disk is full": FULL,
    "disk I/O error": FAILING,
    "attempt to write a readonly database": READ_ONLY,
    "unable to open database file": READ_ONLY,
    "database is locked": LOCKED,
    "database table is locked": LOCKED,
    "locking protocol": LOCKED,
}


def refused(path: Path, error: BaseException) -> StorageError | None:
    """What to raise for an error of the system's; None for any other."""
    if isinstance(error, OSError):
        remedy = BY_ERRNO.get(error.errno or 0, FAILING)
        told = StorageError(f"{path} cannot be used ({error.strerror or error}); {remedy}")
        told.errno = error.errno  # strerror stays unset: with both, OSError words itself
        return told
    if isinstance(error, sqlite3.OperationalError) and str(error) in BY_MESSAGE:
        return StorageError(f"{path} cannot be used ({error}); {BY_MESSAGE[str(error)]}")
    return None


def damaged(path: Path, found: object) -> IndexFormatError:
    """What to raise for a database that SQLite cannot read, and what it said."""
    return IndexFormatError(f"{path} is damaged ({found}); restore it or build the index again")


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Raise StorageError, naming `path`, for what the system refuses within, IndexFormatError for a database that
    is damaged; a mistake in code stays what it is."""
    try:
        yield
    except LatewoodError:
        raise
    except (OSError, sqlite3.DatabaseError) as error:
        if told := refused(path, error):
            raise told from error
        if (
            type(error) is sqlite3.DatabaseError
        ):  # CORRUPT and NOTADB; SQLite's other codes have classes of their own
            raise damaged(path, error) from error
        raise
