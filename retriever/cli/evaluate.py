"""`latewood evaluate`: index test collections, run their queries, measure; by folder or by published name."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder import Encoder
from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError, CorpusError
from encoder.maxsim import SHARPNESS
from retriever.cli.interrupts import keeping
from retriever.cli.options import (
    AsJson,
    DocumentLength,
    Idf,
    Model,
    Overlap,
    PoolFactor,
    Precision,
    Sharpness,
    Window,
    Workers,
    encoder_arguments,
    search_mode,
    windows_argument,
)
from retriever.evaluation import METRICS, EvaluationSet
from retriever.evaluation.baselines import BASELINES, baseline
from retriever.evaluation.datasets import beir_folders
from retriever.evaluation.plots import plot
from retriever.evaluation.published import DEFAULT_CACHE, Published, fetch, published
from retriever.evaluation.qrels import qrels_files
from retriever.evaluation.results import markdown, side_by_side
from retriever.evaluation.runner import evaluate_all
from retriever.evaluation.systems import LateInteraction, System

__all__ = ["evaluate_command"]


def evaluate_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|NAME...",
            help="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/), a folder of such folders, or a name: beir, "
            "nanobeir, mldr, longembed, coir, codesearchnet, or one set, as scifact or mldr-de.",
        ),
    ],
    model: Model = "bundled",
    split: Annotated[
        str | None,
        typer.Option(help="Which qrels/SPLIT.tsv; test (else dev), or what a named set is measured on."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=10, help="Depth of the run; R@100 needs 100.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.json, report.md and runs/. Run again, it does only what is not there."
        ),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Only the JSON report, here; resumed likewise.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Quality against latency and size, as PNG.")
    ] = None,
    baselines: Annotated[
        list[str] | None, typer.Option("--baseline", help="Also bm25, or dense (mean pooling); repeatable.")
    ] = None,
    index_folder: Annotated[
        Path | None,
        typer.Option("--index", help="Keep the index here, or use the one that is here (one data set)."),
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Write the run here, in TREC form (one data set).")
    ] = None,
    document_length: DocumentLength = None,
    pool_factor: PoolFactor = 1,
    precision: Precision = None,
    workers: Workers = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="Keep vectors as float16 and score all, exactly.")
    ] = False,
    nprobe: Annotated[int | None, typer.Option(min=1, help="Centroids looked up a query token.")] = None,
    nrerank: Annotated[int | None, typer.Option(min=1, help="Passages scored on their residuals.")] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option(
            "--mode", help="late (the default), lexical or hybrid; repeatable, with one index for all."
        ),
    ] = None,
    window: Window = None,
    overlap: Overlap = 0,
    idf: Idf = True,
    sharpness: Sharpness = SHARPNESS,
    cache: Annotated[Path, typer.Option(help="Where named data sets are kept.")] = DEFAULT_CACHE,
    as_json: AsJson = False,
) -> None:
    """Index test collections, run their queries, print nDCG@10, R@100 and RR@10.

    Documents longer than the model reads come in windows, as by `latewood index`, of which the best stands for its
    document. With --document-length they are cut there, as results are published; --window cuts shorter ones too.

    Example: latewood evaluate ./nfcorpus scifact --out results --baseline bm25
    """
    chosen_modes = [search_mode(mode) for mode in dict.fromkeys(modes or ["late"])]
    if unknown := [name for name in baselines or () if name not in BASELINES]:
        raise ArgumentError(f"baseline {unknown[0]!r} is not known; pass one of {', '.join(BASELINES)}")
    if out is not None and report_file is not None:
        raise ArgumentError("--out writes the report too; pass --out or --report, not both")
    if plot_file is not None:
        output_folder(plot_file.resolve().parent)  # before hours of work, not after
    targets = _targets(sources, split, cache)
    if len(targets) > 1 and (index_folder or run_file):
        option = "--index" if index_folder else "--run"
        raise ArgumentError(
            f"{option} is of one data set, here are {len(targets)}; pass --out for runs of all"
        )
    windows = windows_argument(window, document_length)
    encoder = Encoder.load(
        model, **encoder_arguments(document_length, pool_factor, precision, workers, window)
    )
    systems: list[System] = [
        LateInteraction(
            encoder, k, mode, flat, nprobe, nrerank, index_folder, idf, sharpness, windows, overlap
        )
        for mode in chosen_modes
    ]
    systems += [baseline(name, encoder, k) for name in dict.fromkeys(baselines or ())]
    done: list[dict[str, Any]] = []

    def say(result: dict[str, Any], found: bool) -> None:
        if not as_json:
            _say(result, found)
        done.append(result)
        if out is not None:  # after each, so that a run of hours can be read before its end
            output_folder(out).joinpath("report.md").write_text(_tables(done), encoding="utf-8")

    report = report_file if out is None else out / "report.json"

    def kept() -> str:
        if report is None:
            return "no result was kept; pass --out or --report to keep each"
        return f"{len(done)} results are in {report}; run the same again to go on"

    with keeping(kept):
        results = evaluate_all(
            systems,
            (target.load(cache) for target in targets),
            report_file=report,
            run_folder=None if out is None else out / "runs",
            run_file=run_file,
            show_progress=True,
            say=say,
        )
    if plot_file is not None:
        plot(plot_file, results)
    if as_json:
        typer.echo(json.dumps(_as_json(results, len(targets), len(chosen_modes)), indent=2))
    elif len(results) > 1:
        typer.echo("\n" + _tables(results), nl=False)


def _tables(results: list[dict[str, Any]]) -> str:
    several = len({result["system"] for result in results}) > 1
    return (side_by_side(results) + "\n" if several else "") + markdown(results)


@dataclass(frozen=True)
class _Target:
    """A folder, or a published data set that may have to be fetched first."""

    source: Path | Published
    split: str
    loaded: list[EvaluationSet] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        return self.source.name if isinstance(self.source, Published) else self.source.resolve().name

    def load(self, cache: Path) -> EvaluationSet:
        """Read once; what is remarkable in its files is said then."""
        if not self.loaded:
            source = self.source
            data = (
                fetch(source, cache)
                if isinstance(source, Published)
                else EvaluationSet.load(source, self.split)
            )
            self.loaded.append(data)
            for remark in data.remarks:
                typer.echo(f"note: {remark}", err=True)
        return self.loaded[0]


def _targets(sources: list[str], split: str | None, cache: Path) -> list[_Target]:
    """What the arguments name, each once. A folder's mistakes are found here, before an hour of encoding."""
    targets: dict[_Target, None] = {}
    for source in sources:
        if Path(source).is_dir():
            if not (folders := beir_folders(source)):
                raise CorpusError(f"{source} is no BEIR folder and holds none; pass one with corpus.jsonl")
            targets |= {_Target(folder, split or _split(folder)): None for folder in folders}
        elif "/" in source.removeprefix("mteb:") and not source.startswith("mteb:"):
            raise CorpusError(f"{source} does not exist; pass a BEIR folder, or the name of a data set")
        else:
            sets = [replace(one, split=split or one.split) for one in published(source)]
            targets |= {_Target(one, one.split): None for one in sets}
    names = [(target.name, target.split) for target in targets]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ArgumentError(f"two data sets are called {twice[0][0]}; evaluate them in two commands")
    for target in targets:
        if isinstance(target.source, Path):
            target.load(cache)
    return list(targets)


def _split(folder: Path) -> str:
    """test, but dev where a folder has that and no test, as msmarco has."""
    named = qrels_files(folder)
    return "dev" if "dev" in named and "test" not in named else "test"


def _say(result: dict[str, Any], found: bool) -> None:
    for name in METRICS:
        typer.echo(f"{name:8s} {result[name]:.4f}")
    size = f"{result['index_bytes'] / 1e6:.1f} MB"
    if "tokens" in result:
        size = f"{result['tokens']:,} tokens, {result['kind']}, {result['bytes_per_token']:.1f} bytes/token"
    typer.echo(
        f"{result['dataset']} ({result['split']}), {result['system']}: {result['queries']:,} queries, "
        f"{result['passages']:,} passages, {size}; index {result['index_seconds']:.1f} s, search "
        f"{result['search_seconds']:.1f} s" + (" (from the report)" if found else "")
    )
    if result.get("cut"):
        typer.echo(
            f"{result['cut']:,} passages were longer than {result['settings']['document_length']} tokens and were "
            "cut; leave --document-length out, or pass --window, to keep all"
        )
    if result.get("windowed"):
        typer.echo(
            f"{result['windowed']:,} documents were longer and came in windows; the best stands for each"
        )
    if "run_error" in result:
        typer.echo(f"no run file: {result['run_error']}", err=True)


def _as_json(results: list[dict[str, Any]], n_sets: int, n_modes: int) -> Any:
    """An object for one data set, a list for several; a set's further modes and baselines within it."""
    plain = [{key: value for key, value in r.items() if key != "per_query"} for r in results]
    each = len(plain) // n_sets
    sets = [plain[start : start + each] for start in range(0, len(plain), each)]
    objects = []
    for some in sets:
        further = {"modes": some[1:n_modes], "baselines": some[n_modes:]}
        objects.append(some[0] | {name: own for name, own in further.items() if own})
    return objects[0] if n_sets == 1 else objects
