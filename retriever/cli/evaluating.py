"""What `latewood evaluate` does, apart from its options, whose help imports nothing heavy."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError, CorpusError
from encoder.options import updated
from retriever.cli.interrupts import keeping
from retriever.cli.options import ModelOptions, WindowOptions
from retriever.cli.progress import told
from retriever.evaluation import METRICS, EvaluationSet
from retriever.evaluation.baselines import Bm25, Dense
from retriever.evaluation.datasets import beir_folders
from retriever.evaluation.plots import plot
from retriever.evaluation.published import DEFAULT_CACHE, Published, fetch, published
from retriever.evaluation.qrels import qrels_files
from retriever.evaluation.report import RunFile
from retriever.evaluation.results import markdown, side_by_side
from retriever.evaluation.runner import Outputs, evaluate_all
from retriever.evaluation.systems import LateInteraction, System
from retriever.options import Scoring, SearchOptions

if TYPE_CHECKING:
    from retriever.cli.evaluate import EvaluateOptions

__all__ = ["evaluate_and_print"]


def evaluate_and_print(
    sources: list[str],
    asked: "EvaluateOptions",
    model: ModelOptions,
    windows: WindowOptions,
    scoring: Scoring,
    search: SearchOptions,
) -> None:
    searches = [updated(search, {"mode": mode}) for mode in asked.searches]
    cache = asked.cache or DEFAULT_CACHE
    targets = _targets(sources, asked.split, cache)
    single = {"--index": asked.index_folder, "--run": asked.run_files, "--write-run": asked.written_run}
    if len(targets) > 1 and (name := next((name for name, given in single.items() if given), None)):
        raise ArgumentError(f"{name} is of one data set, here are {len(targets)}; pass --out for runs of all")
    bm25 = (
        [Bm25(search.k)] if "bm25" in asked.baselines else []
    )  # says what it lacks before a model is loaded
    systems: list[System] = []
    if searches or "dense" in asked.baselines:
        encoder = model.load(windows)
        systems += [
            LateInteraction(encoder, one, scoring, asked.flat, asked.index_folder, **model.windows(windows))
            for one in searches
        ]
    runs = [RunFile(file) for file in asked.run_files]
    systems += runs
    for name in dict.fromkeys(asked.baselines):
        systems += bm25 if name == "bm25" else [Dense(encoder, search.k)]
    out = asked.out
    done: list[dict[str, Any]] = []

    def say(result: dict[str, Any], found: bool) -> None:
        if not asked.as_json:
            _say(result, found)
        done.append(result)
        if out is not None:  # after each, so that a run of hours can be read before its end
            output_folder(out).joinpath("report.md").write_text(_tables(done), encoding="utf-8")

    report = asked.report_file if out is None else out / "report.json"

    def kept() -> str:
        if report is None:
            return "no result was kept; pass --out or --report to keep each"
        return f"{len(done)} results are in {report}; run the same again to go on"

    with keeping(kept):
        results = evaluate_all(
            systems,
            (target.load(cache) for target in targets),
            Outputs(report, None if out is None else out / "runs", asked.written_run),
            progress=told(),
            say=say,
        )
    if asked.plot_file is not None:
        plot(asked.plot_file, results)
    if asked.as_json:
        typer.echo(json.dumps(_as_json(results, len(targets), len(searches), len(runs)), indent=2))
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
        elif "/" in source and not source.startswith("mteb:"):
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
    if result["ms_per_query"] is None:
        typer.echo(
            f"{result['dataset']} ({result['split']}), {result['system']}: {result['answered']:,} of "
            f"{result['queries']:,} queries answered, {result['documents']:,} documents; {result['settings']['file']}"
        )
        return
    size = f"{result['index_bytes'] / 1e6:.1f} MB"
    if "tokens" in result:
        size = f"{result['tokens']:,} tokens, {result['kind']}, {result['bytes_per_token']:.1f} bytes/token"
    typer.echo(
        f"{result['dataset']} ({result['split']}), {result['system']}: {result['queries']:,} queries, "
        f"{result['documents']:,} documents, {size}; index {result['index_seconds']:.1f} s, search "
        f"{result['search_seconds']:.1f} s" + (" (from the report)" if found else "")
    )
    if result.get("cut"):
        typer.echo(
            f"{result['cut']:,} documents were longer than {result['settings']['document_length']} tokens and were "
            "cut; leave --document-length out, or pass --window, to keep all"
        )
    if result.get("windowed"):
        typer.echo(
            f"{result['windowed']:,} documents were longer and came in windows; the best stands for each"
        )
    if "run_error" in result:
        typer.echo(f"no run file: {result['run_error']}", err=True)


def _as_json(results: list[dict[str, Any]], n_sets: int, n_modes: int, n_runs: int) -> Any:
    """An object for one data set, a list for several; a set's further modes, runs and baselines within it."""
    plain = [{key: value for key, value in r.items() if key != "per_query"} for r in results]
    each = len(plain) // n_sets
    sets = [plain[start : start + each] for start in range(0, len(plain), each)]
    objects = []
    for some in sets:
        first = n_modes + n_runs  # of the baselines
        further = {"modes": some[1:n_modes], "runs": some[max(1, n_modes) : first], "baselines": some[first:]}
        objects.append(some[0] | {name: own for name, own in further.items() if own})
    return objects[0] if n_sets == 1 else objects
