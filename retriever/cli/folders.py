"""`latewood forget`: the index of a folder leaves the cache."""

from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import ArgumentError
from retriever.folders import cache_of, forget

__all__ = ["forget_command"]


def forget_command(
    folder: Annotated[Path, typer.Argument(help="A folder that was searched.")],
) -> None:
    """Remove the index of a folder from the cache. The folder itself is left alone.

    Example: latewood forget ./src
    """
    place = cache_of(folder)
    if not forget(folder):
        raise ArgumentError(f"the cache has no index of {folder} ({place}); nothing was removed")
    typer.echo(f"removed {place}")
