"""One run of a command: what it raises becomes a line and an exit code."""

import errno
import os
import sys

from retriever.cli.terminal import complain, open_standard_streams, reader_has_gone, silence

__all__ = ["run"]


def run() -> int:
    """The exit code. KeyboardInterrupt comes through, with what was kept as its text."""
    open_standard_streams()
    if os.environ.get("TERM") == "dumb":
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; ours are lines there
    # Its plugins are looked for in the metadata of all that is installed; typer, which takes it, has none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from encoder.errors import LatewoodError
    from retriever.cli.commands import PastTyperError, app

    try:
        try:
            app()
        except SystemExit as ended:
            sys.stdout.flush()  # what fails here must not fail at the end of Python, where it is a traceback
            return int(ended.code or 0)
        except PastTyperError as passed:
            raise passed.error from None
    except (LatewoodError, OSError, EOFError) as error:
        return _ended_by(error)
    return 0


def _ended_by(error: BaseException) -> int:
    from encoder.errors import LatewoodError, StorageError

    if isinstance(error, BrokenPipeError) and reader_has_gone():
        silence(sys.stdout)
        silence(sys.stderr)
        return 128 + 13  # as a shell says of a tool that SIGPIPE ended
    if isinstance(error, EOFError):
        complain(f"{error or 'a file ends too early'}; get the file anew")
        return 2
    if isinstance(error, LatewoodError):
        complain(str(error))
        # 1: a fact about the machine, not a mistake in what was asked
        return 1 if isinstance(error, StorageError) else 2
    assert isinstance(error, OSError)  # of files that are no index: a report, a run, a checkpoint
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.EBADF and not where:
        where = "standard output: "
        silence(sys.stdout)
    complain(f"{where}{error.strerror or error}")
    return 1
