"""`latewood tune`: the fastest search settings of an index for a recall, measured, shown and stored."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from retriever.cli.options import AsJson

__all__ = ["tune_command"]


def tune_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    recall: Annotated[float, typer.Option(help="Share of the exact top k to find, at least.")] = 0.99,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits a search; the settings hold up to this k.")] = 10,
    queries: Annotated[
        Path | None, typer.Option(help="A file of queries, one a line; else sentences of passages are taken.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many queries, at most.")] = 100,
    plot: Annotated[Path | None, typer.Option(help="Draw latency against recall into this PNG.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and store nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure search settings on an index, and store the fastest that finds enough.

    Example: latewood tune src.index --recall 0.99
    """
    from encoder.checkpoints.folder import output_folder
    from indexing import Index
    from retriever.ranking.tuning import best, sample_queries, tune
    from retriever.ranking.tuning import plot as draw
    from retriever.searcher import Searcher

    if not 0 < recall <= 1:
        raise ArgumentError(f"recall={recall}; pass 0 < recall <= 1")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:  # before, not after, measuring
        raise MissingDependencyError("--plot needs matplotlib; run: pip install 'latewood[plot]'")
    if plot is not None:
        output_folder(plot.resolve().parent)
    with Searcher.open(folder) as searcher:
        texts = sample_queries(searcher.snapshot, n) if queries is None else _lines(queries)[:n]
        trials = tune(searcher, texts, k=k, show_progress=True)
    chosen = best(trials, recall, k)
    if not dry_run:
        with Index.open(folder, writable=True) as index:
            index.set_tuned_search(chosen)
    if plot is not None:
        draw(trials, chosen, plot)
    if as_json:
        shown = [asdict(t.settings) | {"recall": t.recall, "seconds": t.seconds} for t in trials]
        typer.echo(json.dumps({"chosen": asdict(chosen), "trials": shown}, indent=2))
        return
    typer.echo(f"{len(texts)} queries, k={k}\nnprobe  ncandidates  nrerank  recall  median ms")
    picked = (chosen.nprobe, chosen.ncandidates, chosen.nrerank)
    for trial in trials:
        s = trial.settings
        mark = "  <- chosen" if (s.nprobe, s.ncandidates, s.nrerank) == picked else ""
        typer.echo(
            f"{s.nprobe:6d}  {s.ncandidates:11d}  {s.nrerank:7d}  {trial.recall:.4f}  {1e3 * trial.seconds:9.2f}{mark}"
        )
    typer.echo("nothing stored" if dry_run else f"stored in {folder}; searches for up to {k} hits use it")


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as text ({error}); pass a file of queries") from error
    if not lines:
        raise CorpusError(f"{path} has no query; write one a line")
    return lines
