"""`latewood tune`: the fastest search settings of an index for a recall, measured, shown and stored."""

import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from encoder.arguments import as_integer
from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from encoder.options import option
from retriever.cli.flags import flags
from retriever.cli.options import AsJson
from retriever.cli.progress import told

__all__ = ["tune_command"]


@dataclass(frozen=True)
class TuneOptions:
    """What is measured, and what becomes of it."""

    recall: float = option(0.99, "Share of the exact top k to find, at least.")
    k: int = option(10, "Hits a search; the settings hold up to this k.", "-k")
    queries: Path | None = option(
        None, "A file of queries, one a line; else sentences of documents are taken."
    )
    n: int = option(100, "How many queries, at most.", "-n")
    plot: Path | None = option(None, "Draw latency against recall into this PNG.")
    dry_run: bool = option(False, "Measure and store nothing.")

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise ArgumentError(f"recall={self.recall}; pass 0 < recall <= 1")
        as_integer(self.k, "k", 1)
        as_integer(self.n, "n", 1)


@flags()
def tune_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    options: TuneOptions,
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

    if (
        options.plot is not None and importlib.util.find_spec("matplotlib") is None
    ):  # before, not after, measuring
        raise MissingDependencyError("--plot needs matplotlib; run: pip install 'latewood[plot]'")
    if options.plot is not None:
        output_folder(options.plot.resolve().parent)
    with Searcher.open(folder) as searcher:
        given = options.queries
        texts = sample_queries(searcher.snapshot, options.n) if given is None else _lines(given)[: options.n]
        trials = tune(searcher, texts, k=options.k, progress=told())
    chosen = best(trials, options.recall, options.k)
    if not options.dry_run:
        with Index.open(folder, writable=True) as index:
            index.set_tuned_search(chosen)
    if options.plot is not None:
        draw(trials, chosen, options.plot)
    if as_json:
        shown = [asdict(t.settings) | {"recall": t.recall, "seconds": t.seconds} for t in trials]
        typer.echo(json.dumps({"chosen": asdict(chosen), "trials": shown}, indent=2))
        return
    typer.echo(f"{len(texts)} queries, k={options.k}\nnprobe  ncandidates  nrerank  recall  median ms")
    picked = (chosen.nprobe, chosen.ncandidates, chosen.nrerank)
    for trial in trials:
        s = trial.settings
        mark = "  <- chosen" if (s.nprobe, s.ncandidates, s.nrerank) == picked else ""
        typer.echo(
            f"{s.nprobe:6d}  {s.ncandidates:11d}  {s.nrerank:7d}  {trial.recall:.4f}  {1e3 * trial.seconds:9.2f}{mark}"
        )
    typer.echo(
        "nothing stored"
        if options.dry_run
        else f"stored in {folder}; searches for up to {options.k} hits use it"
    )


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as text ({error}); pass a file of queries") from error
    if not lines:
        raise CorpusError(f"{path} has no query; write one a line")
    return lines
