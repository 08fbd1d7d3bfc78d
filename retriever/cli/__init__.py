"""The `latewood` command. A user's mistake is one line on standard error and exit code 2, a full disk 1."""

import importlib
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import typer
import typer.core

from encoder.errors import LatewoodError, StorageError

__all__ = ["app", "main"]

# name → where it is. Only the command that is asked for is imported: training and evaluation take seconds.
COMMANDS = {
    "index": "retriever.cli.index:index_command",
    "search": "retriever.cli.search:search_command",
    "watch": "retriever.cli.update:watch_command",
    "estimate": "retriever.cli.estimate:estimate_command",
    "compact": "retriever.cli.index:compact_command",
    "info": "retriever.cli.index:info_command",
    "tune": "retriever.cli.tune:tune_command",
    "doctor": "retriever.cli.doctor:doctor_command",
    "evaluate": "retriever.cli.evaluate:evaluate_command",
    "compare": "retriever.cli.compare:compare_command",
    "train": "retriever.cli.train_commands:app",
}


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


class _LazyGroup(typer.core.TyperGroup):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = _Commands()


app = typer.Typer(
    name="latewood",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Late-interaction retrieval: index text or code, search it by meaning, measure it.",
)


@app.callback()
def _latewood() -> None:
    """Late-interaction retrieval: index text or code, search it by meaning, measure it."""


def main() -> None:
    try:
        app()
    except LatewoodError as error:
        typer.echo(f"latewood: {error}", err=True)
        # 1: a fact about the machine, not a mistake in what was asked
        sys.exit(1 if isinstance(error, StorageError) else 2)
    except OSError as error:  # of files that are no index: a report, a run, a checkpoint
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"latewood: {where}{error.strerror or error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("latewood: interrupted; what was committed is kept", err=True)
        sys.exit(130)
