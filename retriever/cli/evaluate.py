"""`latewood evaluate`: index test collections, run their queries, measure; by folder or by published name."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError
from encoder.options import option
from retriever.cli.flags import flags
from retriever.cli.options import ModelOptions, WindowOptions
from retriever.options import Scoring, SearchOptions

__all__ = ["EvaluateOptions", "evaluate_command"]


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and where what was found goes."""

    split: str | None = option(
        None, "Which qrels/SPLIT.tsv; test (else dev), or what a named set is measured on."
    )
    modes: tuple[str, ...] = option(
        (), "late (the default), lexical or hybrid; repeatable, with one index for all.", "--mode"
    )
    baselines: tuple[str, ...] = option((), "Also bm25, or dense (mean pooling); repeatable.", "--baseline")
    flat: bool = option(False, "Keep vectors as float16 and score all, exactly.")
    out: Path | None = option(
        None, "Folder for report.json, report.md and runs/. Run again, it does only what is not there."
    )
    report_file: Path | None = option(None, "Only the JSON report, here; resumed likewise.", "--report")
    plot_file: Path | None = option(None, "Quality against latency and size, as PNG.", "--plot")
    index_folder: Path | None = option(
        None, "Keep the index here, or use the one that is here (one data set).", "--index"
    )
    run_files: tuple[Path, ...] = option(
        (),
        "Measure this run of any system, in TREC form, and not a search; repeatable (one data set).",
        "--run",
    )
    written_run: Path | None = option(None, "Write the run here, in TREC form (one data set).", "--write-run")
    cache: Path | None = option(
        None, "Where named data sets are kept; ~/.cache/latewood/datasets if not given."
    )
    as_json: bool = option(False, "Print JSON.", "--json")

    def __post_init__(self) -> None:
        from retriever.evaluation.baselines import BASELINES

        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise ArgumentError(f"baseline {unknown[0]!r} is not known; pass one of {', '.join(BASELINES)}")
        if self.out is not None and self.report_file is not None:
            raise ArgumentError("--out writes the report too; pass --out or --report, not both")
        names = [file.stem for file in self.run_files]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ArgumentError(f"two runs are called {twice[0]}; give their files different names")
        if self.run_files and not self.searches and (self.index_folder or self.written_run):
            raise ArgumentError("--run measures what has been searched; pass --mode late to search as well")
        if self.plot_file is not None:
            output_folder(self.plot_file.resolve().parent)  # before hours of work, not after

    @property
    def searches(self) -> tuple[str, ...]:
        """Modes of our own search that are measured; none where runs are, unless they are asked for."""
        return tuple(dict.fromkeys(self.modes or (() if self.run_files else ("late",))))


@flags("by", "mode", "weights", "filter", "ncandidates")
def evaluate_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|NAME...",
            help="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/), a folder of such folders, or a name: beir, "
            "nanobeir, mldr, longembed, coir, codesearchnet, or one set, as scifact or mldr-de.",
        ),
    ],
    asked: EvaluateOptions,
    model: ModelOptions,
    windows: WindowOptions,
    scoring: Scoring,
    search: SearchOptions = SearchOptions(k=100),  # noqa: B008  (frozen)
) -> None:
    """Index test collections, run their queries, print nDCG@10, R@100 and RR@10.

    Documents longer than the model reads come in windows, as by `latewood index`, of which the best stands for its
    document. With --document-length they are cut there, as results are published; --window cuts shorter ones too.

    Example: latewood evaluate ./nfcorpus --out results --baseline bm25
    """
    from retriever.cli.evaluating import evaluate_and_print  # imports torch, which help does without

    evaluate_and_print(sources, asked, model, windows, scoring, search)
