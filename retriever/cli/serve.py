"""`latewood serve`: indexes and folders over HTTP, with a page."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from encoder.errors import MissingDependencyError
from retriever.cli.flags import flags
from retriever.options import Scoring
from retriever.serving.settings import Limits, ServeSettings, named_folders

__all__ = ["serve_command"]


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
    from retriever.serving.running import serve

    serve(replace(settings, indexes=named_folders(folders), scoring=scoring, limits=limits), _say, _tell)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(line)


def _tell(line: str) -> None:
    typer.echo(f"note: {line}", err=True)
