"""Standard streams: which can be written to, which may have colours."""

import os
import re
import select
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["colour", "complain", "open_standard_streams", "plain", "reader_has_gone", "silence", "visible"]

# What moves a terminal's cursor, writes to its clipboard or turns the direction of its text; a tab does no harm.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A line of somebody's text or path with its control characters written out, as `\\x1b`."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def plain() -> bool:
    """Whether the user wants no colours (no-color.org), or the terminal knows no control sequences."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def colour() -> bool:
    return sys.stdout.isatty() and not plain()


def open_standard_streams() -> None:
    """Give streams that were closed (`>&-`) a file, lest the next file opened become standard output.

    What is written to such an output fails with EBADF, as in other tools; for it is opened for reading.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)  # takes the lowest free number
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def reader_has_gone() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # no stream, or none with a number
            poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def silence(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python writes it out at its end, and tells of the failure."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def complain(line: str) -> None:
    try:
        print(f"latewood: {visible(line)}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it
        silence(sys.stderr)
