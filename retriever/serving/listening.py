"""The socket of a server, bound before anything is loaded, and what answers at it."""

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from encoder.errors import ArgumentError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

__all__ = ["listening", "reserved", "server"]

BACKLOG = 2048
REMEDY = "pass another --host or --port"


def listening(host: str, port: int, remedy: str = REMEDY, *, shared: bool = False) -> socket.socket:
    """port: 0 takes a free one. shared: with other processes that say so, to whom the system deals what comes.

    Raises ArgumentError, which ends with the remedy, where it cannot be bound.
    """
    with _refusals(host, port, remedy):
        return socket.create_server((host, port), family=_family(host), backlog=BACKLOG, reuse_port=shared)


def reserved(host: str, port: int) -> socket.socket:
    """A socket at which nobody listens: while it is open its port goes to none but those who share it (`listening`).

    Raises ArgumentError as `listening` does, and where the system shares no ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ArgumentError("processes: this system deals no port to several; leave --processes out")
    held = socket.socket(_family(host))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with _refusals(host, port, REMEDY):
        held.bind((host, port))
    return held


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _refusals(host: str, port: int, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ArgumentError(f"cannot listen on {host} port {port}: {reason}; {remedy}") from None


def server(app: "FastAPI", seconds: float) -> "uvicorn.Server":
    """seconds: for what is being answered when the server is told to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=math.ceil(seconds),
    )
    return uvicorn.Server(config)
