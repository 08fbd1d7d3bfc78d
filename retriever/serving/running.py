"""What answers until it is told to end: one process, or several at one port, each with a lock of its own."""

import ctypes
import gc
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TypeAlias

from encoder.errors import ArgumentError, LatewoodError
from encoder.threads import end_with_parent, numpy_libraries
from indexing.storage.tables import is_index
from retriever.serving.listening import listening, reserved, server
from retriever.serving.settings import ServeSettings

__all__ = ["serve"]

M_ARENA_MAX = -8  # of malloc.h

Say: TypeAlias = Callable[[Sequence[str]], object]


def serve(settings: ServeSettings, say: Say, tell: Callable[[str], None]) -> None:
    """Answer until SIGTERM or Ctrl-C, and then what is under way.

    say: is called with lines about what is served, and where, once it is. tell: with what is not as usual.
    Raises ArgumentError, IndexFormatError and CorpusError; LatewoodError where one of several processes ends early.
    """
    if settings.processes == 1:
        _answer(settings, listening(settings.host, settings.port), say, tell)
        return
    for place in settings.indexes.values():
        if not is_index(place):
            raise ArgumentError(
                f"{place} is no index, which alone several processes serve; index it (latewood index), or leave "
                "--processes out"
            )
    _answer_together(settings, say)


def _answer(settings: ServeSettings, bound: socket.socket, say: Say, tell: Callable[[str], None]) -> None:
    _share_memory()
    # Batches are side by side; numpy's threads would only wait for each other, by spinning.
    numpy_libraries().limit(limits=1, user_api="blas")
    from retriever.serving.app import create_app
    from retriever.serving.indexes import open_indexes

    with bound, open_indexes(settings, tell) as serving:
        app = create_app(settings, serving, ready=_leave_alone)
        host, port = bound.getsockname()[:2]
        say(
            [
                *(f"{name}: {len(served.snapshot):,} documents" for name, served in serving.items()),
                f"serving on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it",
            ]
        )
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn ends at it, and raises it again when it has
        server(app, settings.limits.timeout).run(sockets=[bound])


def _share_memory() -> None:
    """Have glibc keep freed memory in two places, not in one for each thread, eight times the processors: under load
    the process held a tenth more, some tens of megabytes."""
    with suppress(AttributeError, OSError, TypeError):  # where there is no glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _leave_alone() -> None:
    """Have Python's collector of garbage pass over all that is loaded, code of libraries for the most part: else it
    goes through that for tenths of a second, again and again."""
    gc.collect()
    gc.freeze()


# Several ----------------------------------------------------------------------------------------------------


def _answer_together(settings: ServeSettings, say: Say) -> None:
    with listening(settings.host, settings.port):
        pass  # nobody else is there, with whom the port would be shared
    context, count = multiprocessing.get_context("spawn"), settings.processes
    with reserved(settings.host, settings.port) as held:
        own = replace(settings, port=held.getsockname()[1])
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        processes = [context.Process(target=_one, args=(own, theirs), daemon=True) for _, theirs in pipes]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            for process in processes:
                process.start()
            for _, theirs in pipes:
                theirs.close()  # so that its end is noticed
            lines = [_begun(ours) for ours, _ in pipes]  # of all
            say(lines[0])
            wait([process.sentinel for process in processes])
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        code = next((process.exitcode for process in processes if process.exitcode), 0)
        raise LatewoodError(f"one of {count} processes that serve ended with {code}; start the server again")


def _begun(ours: Connection) -> Sequence[str]:
    try:
        found: Sequence[str] | LatewoodError = ours.recv()
    except EOFError:
        raise LatewoodError("a process that serves ended at its start; start the server again") from None
    if isinstance(found, LatewoodError):
        raise found
    return found


def _one(settings: ServeSettings, theirs: Connection) -> None:
    """One of the processes."""
    end_with_parent()
    with suppress(KeyboardInterrupt):  # the first process says that it was stopped
        try:
            bound = listening(settings.host, settings.port, shared=True)
            _answer(settings, bound, theirs.send, lambda line: None)
        except LatewoodError as error:
            theirs.send(error)
