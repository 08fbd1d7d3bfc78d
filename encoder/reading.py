"""Opening what a user names: regular files only, so that nothing blocks, and the encoding that a mark declares."""

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["NOT_REGULAR", "exists", "marked_encoding", "open_regular"]

NOT_REGULAR = "not a regular file"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's, so comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes. Raises OSError, its strerror NOT_REGULAR, for a pipe, a socket or a device,
    and waits on none of them."""
    # Looked at first, for opening alone does things to some devices; and again, for it may be another by now.
    _check(path.stat(), path)
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def _check(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, NOT_REGULAR, str(path))


def exists(path: str | Path) -> bool:
    """Whether there is anything; False where one may not look, or the path is too long: pathlib raises there."""
    return os.path.exists(path)  # noqa: PTH110


def marked_encoding(data: bytes) -> str | None:
    """The codec for text that begins with a byte order mark; None where it has none."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
