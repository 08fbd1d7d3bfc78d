"""Evaluating: one system on one data set → one result, as training and notebooks call it; or many, resumed."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder import Encoder
from encoder.arguments import absolute, as_list
from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError
from encoder.progress import Told
from retriever.evaluation.datasets import EvaluationSet
from retriever.evaluation.metrics import evaluate_queries, mean
from retriever.evaluation.report import write_run
from retriever.evaluation.results import Report, environment
from retriever.evaluation.systems import Build, LateInteraction, System

__all__ = ["Outputs", "evaluate_all", "evaluate_folder", "evaluate_system"]


def evaluate_folder(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    *,
    split: str = "test",
    run_file: str | os.PathLike[str] | None = None,
    progress: Told | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Index a BEIR folder, run its queries, measure.

    options: as `LateInteraction.of` takes them. run_file: write the run there, in TREC's form. Gives
    the metrics by their names ("nDCG@10", ...), `per_query` {query id: {metric: value}}, `remarks` on the data set's
    files, and what they were measured with: dataset, split, data (a digest), model, fingerprint, settings, times in
    seconds, sizes.
    Raises CorpusError for what is no BEIR folder, ArgumentError for values that cannot be used.
    """
    system = LateInteraction.of(encoder, **options)
    data = EvaluationSet.load(folder, split)
    return evaluate_system(system, data, run_file=run_file, progress=progress)


def evaluate_system(
    system: System,
    data: EvaluationSet,
    *,
    run_file: str | os.PathLike[str] | None = None,
    must_write: bool = True,
    progress: Told | None = None,
) -> dict[str, Any]:
    """As `evaluate_folder`, for any system and a data set that is loaded.

    must_write: False puts the reason why the run could not be written under `run_error`, and goes on.
    """
    found, figures = system.run(data, progress=progress)
    run = data.drop_self_hits(found)
    try:
        if run_file is not None:
            write_run(run_file, run, tag=system.name)
    except ArgumentError as error:
        if must_write:
            raise
        figures["run_error"] = str(error)
    per_query = evaluate_queries(data.qrels, run)
    return {
        **mean(per_query),
        **_identity(system, data),
        "queries": len(data.queries),
        "remarks": list(data.remarks),
        "mode": system.search.mode if isinstance(system, LateInteraction) else system.name,
        **figures,
        "environment": environment(),
        "per_query": per_query,
    }


@dataclass(frozen=True)
class Outputs:
    """Where `evaluate_all` writes what it finds; paths stay the same when the process changes its folder.

    report_file: written after each result, so that a run that was cut off can be run again: what is in it of
    the same weights, settings and data is not run anew. What it holds of other data sets stays.
    run_folder: runs go there, as DATASET.SPLIT.SYSTEM.trec; where ids have white space, which TREC's form
    cannot hold, the result says so under `run_error`. run_file: for the first system's run instead.
    """

    report_file: Path | None = None
    run_folder: Path | None = None
    run_file: Path | None = None

    def __post_init__(self) -> None:
        for name, path in vars(self).copy().items():
            if path is not None:
                object.__setattr__(self, name, absolute(path))

    def prepare(self) -> Report:
        """The report as it is so far. Makes the folders, before hours of work."""
        report_file = self.report_file
        report = Report.load(report_file) if report_file is not None and report_file.exists() else Report()
        files = [file.resolve().parent for file in (report_file, self.run_file) if file is not None]
        for folder in (*files, self.run_folder):
            if folder is not None:
                output_folder(folder)
        return report

    def run_of(self, system: System, data: EvaluationSet, first: bool) -> Path | None:
        if self.run_folder is not None:
            return self.run_folder / f"{data.name}.{data.split}.{system.name}.trec"
        return self.run_file if first else None


def evaluate_all(
    systems: Iterable[System],
    sets: Iterable[EvaluationSet],
    outputs: Outputs = Outputs(),
    *,
    progress: Told | None = None,
    say: Callable[[dict[str, Any], bool], None] = lambda result, found: None,
) -> list[dict[str, Any]]:
    """Every system on every data set; the results in this order, as `evaluate_system` gives them.

    Late interaction in several modes shares one index a data set; each result has the seconds of building it.
    say: told each result, and whether it was in the report.
    """
    systems = as_list(systems, "systems", "systems")  # walked once for each data set
    report, must_write = outputs.prepare(), outputs.run_folder is None
    results = []
    for data in sets:
        with tempfile.TemporaryDirectory(prefix="latewood-") as place:
            for i, system in enumerate(_sharing(systems, Path(place))):
                file = outputs.run_of(system, data, i == 0)
                found = report.find(_identity(system, data))
                if found is not None and file is not None and not file.is_file() and "run_error" not in found:
                    found = None
                result = found or evaluate_system(
                    system, data, run_file=file, must_write=must_write, progress=progress
                )
                results.append(result)
                if found is None:
                    report.put(result)
                    if outputs.report_file is not None:
                        report.save(outputs.report_file)
                say(result, found is not None)
    return results


def _sharing(systems: Sequence[System], place: Path) -> list[System]:
    """Late interaction in several modes needs one index of a data set, which lasts while it is measured."""
    built: dict[Path, Build] = {}
    return [s.sharing(place, built) if isinstance(s, LateInteraction) else s for s in systems]


def _identity(system: System, data: EvaluationSet) -> dict[str, Any]:
    about = {"dataset": data.name, "split": data.split, "data": data.digest(), "system": system.name}
    return about | system.identity(data)
