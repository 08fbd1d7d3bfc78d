"""The `latewood` command. A user's mistake is one line on standard error and exit code 2."""

import sys

import typer

from encoder import LatewoodError
from retriever.cli.compare import compare_command
from retriever.cli.doctor import doctor_command
from retriever.cli.evaluate import evaluate_command
from retriever.cli.index import index_command, info_command
from retriever.cli.search import search_command
from retriever.cli.train import app as train_app
from retriever.cli.update import watch_command

__all__ = ["app", "main"]

app = typer.Typer(
    name="latewood",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Late-interaction retrieval: index text or code, search it by meaning, measure it.",
)
app.command("index")(index_command)
app.command("search")(search_command)
app.command("watch")(watch_command)
app.command("info")(info_command)
app.command("doctor")(doctor_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.add_typer(train_app, name="train")


def main() -> None:
    try:
        app()
    except LatewoodError as error:
        typer.echo(f"latewood: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing permission: a fact about the machine, not a bug
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"latewood: {where}{error.strerror or error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("latewood: interrupted; what was committed is kept", err=True)
        sys.exit(130)
