"""The commands of `latewood`, by name; typer's part of them."""

import importlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
import typer.core
from typer.core import DEFAULT_MARKUP_MODE, MarkupMode

from retriever.cli.progress import with_progress
from retriever.cli.terminal import colour, plain

__all__ = ["COMMANDS", "PastTyperError", "app"]

# name → where it is, and what `latewood --help` says of it, so that help imports none of them: each takes seconds.
COMMANDS = {
    "search": ("retriever.cli.search:search_command", "Search an index, or any folder of text or code."),
    "index": ("retriever.cli.index:index_command", "Index a corpus: JSONL, a BEIR folder, or text and code."),
    "mcp": ("retriever.cli.mcp:mcp_command", "Give coding agents search over folders."),
    "watch": ("retriever.cli.update:watch_command", "Keep an index up to date with a folder."),
    "info": ("retriever.cli.index:info_command", "Say what an index holds and what it takes on disk."),
    "serve": ("retriever.cli.serve:serve_command", "Serve indexes and folders over HTTP, with a page."),
    "forget": ("retriever.cli.folders:forget_command", "Remove the index of a folder from the cache."),
    "compact": ("retriever.cli.index:compact_command", "Rewrite an index without its deleted documents."),
    "import": ("retriever.cli.exchange:import_command", "Make an index of vectors that exist."),
    "export": ("retriever.cli.exchange:export_command", "Write an index's vectors for other programs."),
    "estimate": ("retriever.cli.estimate:estimate_command", "Say what indexing would take, before it."),
    "tune": ("retriever.cli.tune:tune_command", "Measure and store fast search settings for an index."),
    "doctor": ("retriever.cli.doctor:doctor_command", "Say what a model is, and warn of known traps."),
    "evaluate": ("retriever.cli.evaluate:evaluate_command", "Measure search on test collections."),
    "compare": ("retriever.cli.compare:compare_command", "Compare two reports query by query."),
    "cluster": ("retriever.cli.cluster:app", "Build an index of shards, and serve it, on several machines."),
    "train": ("retriever.cli.train:app", "Train encoders."),
}
LONG = {
    "search",
    "index",
    "watch",
    "info",
    "compact",
    "import",
    "estimate",
    "tune",
    "evaluate",
    "cluster build",
}  # they say how far they are
# What Ctrl-C leaves, of those commands that do not say so themselves.
KEPT = dict.fromkeys(("search", "serve", "estimate", "info", "doctor", "compare"), "nothing was changed") | {
    "export": "what was written is no whole file",
    "mcp": "what was read and encoded is kept",
    "tune": "nothing was stored",
    "evaluate": "nothing was measured",
    "train": "what was saved is kept",
    "cluster": "what was committed is kept; run the same again to go on",
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
            module, _, attribute = COMMANDS[name][0].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if not isinstance(found, typer.Typer):
                alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                alone.command(name)(found)
                found = alone
            found.rich_markup_mode = MARKUP
            made = typer.main.get_command(found)
            self._made[name] = with_progress(made) if name in LONG else made
            for inner, command in getattr(made, "commands", {}).items():
                if f"{name} {inner}" in LONG:
                    with_progress(command)
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
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._listing:
            return typer.core.TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        return super().get_command(ctx, cmd_name)

    @contextmanager
    def _only_listed(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._only_listed():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._only_listed():
            return super().shell_complete(ctx, incomplete)

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
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    help="Late-interaction retrieval: index text or code, search it by meaning, measure it.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # a fiftieth of a second

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
