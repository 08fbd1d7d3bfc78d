"""`latewood serve`: indexes and folders over HTTP, with a page."""

import ctypes
import gc
import signal
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

import typer

from encoder.errors import MissingDependencyError
from encoder.threads import numpy_libraries
from retriever.cli.flags import flags
from retriever.options import Scoring
from retriever.serving.listening import listening, server
from retriever.serving.settings import Limits, ServeSettings, named_folders

__all__ = ["serve_command"]

M_ARENA_MAX = -8  # of malloc.h


@flags()
def serve_command(
    folders: Annotated[
        list[str], typer.Argument(metavar="[NAME=]DIR", help="An index, or any folder of text or code.")
    ],
    settings: ServeSettings,
    scoring: Scoring,
    limits: Limits,
) -> None:
    """Serve indexes and folders over HTTP, with a page to search them: on this machine alone, and only to be read,
    unless told otherwise. Ctrl-C or SIGTERM ends it when what runs is answered.

    Example: latewood serve docs.index
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"serve needs {error.name}, which is not installed; pip install 'latewood[serve]'"
        ) from error
    _share_memory()
    # Batches are side by side; numpy's threads would only wait for each other, by spinning.
    numpy_libraries().limit(limits=1, user_api="blas")
    from retriever.serving.app import create_app
    from retriever.serving.indexes import open_indexes

    settings = replace(settings, indexes=named_folders(folders), scoring=scoring, limits=limits)
    bound = listening(settings.host, settings.port, "pass another --host or --port")
    with bound, open_indexes(settings, _tell) as serving:
        app = create_app(settings, serving, ready=_leave_alone)
        for name, served in serving.items():
            typer.echo(f"{name}: {len(served.snapshot):,} documents")
        host, port = bound.getsockname()[:2]
        typer.echo(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it")
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn ends at it, and raises it again when it has
        server(app, limits.timeout).run(sockets=[bound])


def _share_memory() -> None:
    """Two of glibc's arenas for all threads: of one each, each keeps what the arrays of a batch once took, and the
    process grows by a third or more."""
    with suppress(OSError, AttributeError, TypeError):  # another libc, or none
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _leave_alone() -> None:
    """Have Python's collector of garbage pass over all that is loaded, code of libraries for the most part: else it
    goes through that for tenths of a second, again and again."""
    gc.collect()
    gc.freeze()


def _tell(line: str) -> None:
    typer.echo(f"note: {line}", err=True)
