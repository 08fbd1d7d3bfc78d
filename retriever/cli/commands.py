"""The commands of `latewood`, by name; typer's part of them."""

import importlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, Any

import typer
import typer.core
from typer.core import DEFAULT_MARKUP_MODE, MarkupMode

from retriever.cli.terminal import colour, plain

__all__ = ["COMMANDS", "PastTyperError", "app"]

# name → where it is. Only the command that is asked for is imported: training and evaluation take seconds.
COMMANDS = {
    "index": "retriever.cli.index:index_command",
    "search": "retriever.cli.search:search_command",
    "watch": "retriever.cli.update:watch_command",
    "forget": "retriever.cli.folders:forget_command",
    "estimate": "retriever.cli.estimate:estimate_command",
    "compact": "retriever.cli.index:compact_command",
    "info": "retriever.cli.index:info_command",
    "tune": "retriever.cli.tune:tune_command",
    "doctor": "retriever.cli.doctor:doctor_command",
    "evaluate": "retriever.cli.evaluate:evaluate_command",
    "compare": "retriever.cli.compare:compare_command",
    "train": "retriever.cli.train:app",
}
# What Ctrl-C leaves, of those commands that do not say so themselves.
KEPT = dict.fromkeys(("search", "estimate", "info", "doctor", "compare"), "nothing was changed") | {
    "tune": "nothing was stored",
    "evaluate": "nothing was measured",
    "train": "what was saved is kept",
}

MARKUP: MarkupMode = (
    None if plain() else DEFAULT_MARKUP_MODE
)  # None: help and errors without frames and colours


class _Commands(MutableMapping[str, Any]):
    """Commands by name, made when looked at."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, attribute = COMMANDS[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if not isinstance(found, typer.Typer):
                alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                alone.command(name)(found)
                found = alone
            found.rich_markup_mode = MARKUP
            self._made[name] = typer.main.get_command(found)
            self._made[name].name = name
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class PastTyperError(Exception):
    """Carries what typer would end the program with in its own way: Ctrl-C, a file cut short, a reader gone."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@contextmanager
def _past_typer(context: typer.Context | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        # None while the command is still imported.
        name = None if context is None else context.invoked_subcommand
        kept = "nothing was begun" if name is None else KEPT.get(name, "what was committed is kept")
        raise PastTyperError(KeyboardInterrupt(str(stop) or kept)) from None
    except (EOFError, BrokenPipeError) as error:
        raise PastTyperError(error) from error


class _LazyGroup(typer.core.TyperGroup):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = _Commands()

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with _past_typer(None):
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _past_typer(ctx):
            return super().invoke(ctx)


app = typer.Typer(
    name="latewood",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    help="Late-interaction retrieval: index text or code, search it by meaning, measure it.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latewood {metadata.version('latewood')}")
        raise typer.Exit


@app.callback()
def _latewood(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Late-interaction retrieval: index text or code, search it by meaning, measure it."""
    context.color = colour()  # of all that the commands print
