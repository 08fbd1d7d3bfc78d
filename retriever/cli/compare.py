"""`latewood compare`: two reports, query by query, with significance tests."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError, CorpusError
from retriever.cli.options import AsJson

__all__ = ["compare_command"]

_SIDE = "A report of `latewood evaluate`; FILE:SYSTEM picks one of its systems, as report.json:bm25."


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A.json[:SYSTEM]", help=_SIDE)],
    b: Annotated[str, typer.Argument(metavar="B.json[:SYSTEM]", help="What is compared with it.")],
    test: Annotated[str, typer.Option(help="t-test or randomisation, both paired.")] = "t-test",
    out: Annotated[Path | None, typer.Option(help="Write the Markdown here too.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Both, quality against latency and size, as PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two reports query by query, on the data sets that both have. Prints Markdown.

    Example: latewood compare before.json after.json
    """
    # These import torch, which help does without.
    from retriever.evaluation.comparing import Test, compare, comparison_markdown
    from retriever.evaluation.plots import plot

    chosen = next((name for name in get_args(Test) if name == test), None)
    if chosen is None:
        raise ArgumentError(f"test={test!r}; pass one of {', '.join(get_args(Test))}")
    for file in (out, plot_file):
        if file is not None:
            output_folder(file.resolve().parent)
    (name_a, results_a), (name_b, results_b) = _side(a), _side(b)
    comparisons = compare(results_a, results_b, test=chosen)
    text = comparison_markdown(comparisons, name_a, name_b, chosen)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if plot_file is not None:
        both = [("A", name_a, results_a), ("B", name_b, results_b)]
        plot(plot_file, [{**r, "system": f"{side}: {name}"} for side, name, some in both for r in some])
    if as_json:
        rows = [asdict(c) | {"difference": c.difference} for c in comparisons]
        typer.echo(json.dumps({"a": name_a, "b": name_b, "test": test, "comparisons": rows}, indent=2))
    else:
        typer.echo(text, nl=False)


def _side(argument: str) -> tuple[str, list[dict[str, Any]]]:
    """What to call one side, and the results of its one system."""
    from retriever.evaluation.baselines import BASELINES
    from retriever.evaluation.results import Report, told_apart

    path, system = argument, ""
    if not Path(argument).exists() and ":" in argument:
        path, _, system = argument.rpartition(":")
    report = Report.load(path)
    if not system:
        own = [name for name in report.systems if name not in BASELINES] or report.systems
        if len(own) != 1:
            raise ArgumentError(f"{path} holds {', '.join(own) or 'no result'}; pass {path}:SYSTEM")
        system = own[0]
    if system not in report.systems:
        raise CorpusError(f"{path} has no system {system!r}; it has {', '.join(report.systems)}")
    return f"{Path(path).name}, {system}", [r for r in told_apart(report.results) if r["system"] == system]
