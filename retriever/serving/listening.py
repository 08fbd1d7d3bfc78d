"""The socket of a server, bound before anything is loaded."""

import os
import socket

from encoder.errors import ArgumentError

__all__ = ["listening"]

BACKLOG = 2048


def listening(host: str, port: int, remedy: str) -> socket.socket:
    """port: 0 takes a free one. Raises ArgumentError, which ends with the remedy, where it cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ArgumentError(f"cannot listen on {host} port {port}: {reason}; {remedy}") from None
