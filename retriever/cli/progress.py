"""`--progress` and `--quiet`, which every long command has."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from encoder.errors import ArgumentError
from encoder.progress import Told, progress_as_json, progress_shown

__all__ = ["told", "with_progress"]

_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)
_options = typer.Typer(add_completion=False)


@_options.command()
def _asked(
    progress: Annotated[
        str, typer.Option(metavar="auto|json", help="Progress as suits the terminal, or as JSON lines.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    if progress not in ("auto", "json"):
        raise ArgumentError(f"progress={progress!r}; pass auto or json")
    if quiet and progress == "json":
        raise ArgumentError("--quiet shows no progress; leave it out, or --progress json")
    _TOLD.set(None if quiet else progress_as_json() if progress == "json" else progress_shown())


def told() -> Told | None:
    """What the command under way tells its progress to."""
    return _TOLD.get()


def with_progress(command: Any) -> Any:
    """A command of typer's with both options more."""
    call: Callable[..., Any] = command.callback

    def run(progress: str, quiet: bool, **values: Any) -> Any:
        _asked(progress, quiet)
        return call(**values)

    command.params += typer.main.get_command(_options).params
    command.callback = run
    return command
