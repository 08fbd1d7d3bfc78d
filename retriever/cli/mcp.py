"""`latewood mcp`: folders as a search tool for coding agents."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from encoder.closing import Closing
from encoder.errors import ArgumentError, MissingDependencyError
from encoder.hiding import hidden
from encoder.options import option
from retriever.cli.flags import flags

__all__ = ["mcp_command"]

KEPT = "what was read and encoded is kept"
BY_HAND = (
    "latewood mcp waits for an agent on standard input; docs/guides/agents.md says how an agent starts it. "
    "To ask by hand: latewood search FOLDER QUESTION. Ctrl-C ends this"
)


@dataclass(frozen=True)
class Transport:
    """How clients reach the tools."""

    http: bool = option(False, "Over HTTP on this machine's loopback, in place of standard input and output.")
    port: int = option(8765, "Of --http; 0 for any that is free.", least=0, most=65535)


@flags()
def mcp_command(
    transport: Transport,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="What to search; by default this folder."),
    ] = None,
) -> None:
    """Give coding agents search over folders of code or text, by the Model Context Protocol (extra `mcp`). An agent
    starts it by itself: docs/guides/agents.md has the lines for each. What changed is read before each answer.

    Example: latewood mcp ./src
    """
    here = Path.cwd()
    if not folders and here in (Path.home(), Path(here.anchor)):
        raise ArgumentError(f"{here} is everything you have; pass the folders to search")
    try:
        import mcp.server  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "the tool for agents needs mcp, which is not installed; pip install 'latewood[mcp]'"
        ) from error
    from retriever.serving.kept import KeptFolders
    from retriever.serving.mcp import create_server, serve_http

    kept = KeptFolders(folders or [here])
    server = create_server(kept)
    with hidden("scipy", "pandas"):  # as `latewood search`
        if transport.http:
            serve_http(
                server, transport.port, lambda address: typer.echo(f"listening on {address}", err=True)
            )
        else:
            # A thread that nothing interrupts reads standard input, so that Ctrl-C would wait for its next line.
            signal.signal(signal.SIGINT, lambda number, frame: _leave(kept))
            if sys.stdin.isatty():
                typer.echo(BY_HAND, err=True)
            server.run("stdio")


def _leave(folders: Closing) -> None:
    folders.close()
    typer.echo(f"latewood: interrupted; {KEPT}", err=True)
    os._exit(130)
