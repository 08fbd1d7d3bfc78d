"""The report: results as JSON, in which finished ones are found again, and as a Markdown table."""

import datetime
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from encoder.arguments import absolute
from encoder.errors import CorpusError
from indexing.storage.durable import publish_json
from retriever.evaluation.metrics import METRICS

__all__ = ["Report", "averages", "environment", "markdown", "side_by_side", "told_apart"]

FORMAT = 1
IDENTITY = (
    "system",
    "dataset",
    "split",
    "data",
    "fingerprint",
    "settings",
)  # the same in these: the same run
PACKAGES = ("latewood", "torch", "numpy", "faiss-cpu", "faiss-gpu", "tokenizers", "ir_measures", "bm25s")


@dataclass
class Report:
    """Results of `evaluate_system`, one for each data set, split and system, in the order they were put."""

    results: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a report that `save` wrote. Raises CorpusError for what is none."""
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CorpusError(f"cannot read {path}: {error}; pass a report of `latewood evaluate`") from error
        results = read.get("results") if isinstance(read, dict) and read.get("format") == FORMAT else None
        if not isinstance(results, list) or not all(_is_result(result) for result in results):
            raise CorpusError(f"{path} is no report of format {FORMAT}; make one by `latewood evaluate`")
        return cls(results)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, aside and renamed: a crash leaves the one before."""
        target = absolute(path).resolve()  # a link stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        publish_json(target.parent, target.name, {"format": FORMAT, "results": self.results})

    def find(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of the same system, weights, settings and data, if it is here."""
        return next((r for r in self.results if all(r.get(k) == wanted.get(k) for k in IDENTITY)), None)

    def put(self, result: dict[str, Any]) -> None:
        """Add a result; it takes the place of one of the same data set, split, system, model and
        settings."""
        for i, old in enumerate(self.results):
            same = all(old[key] == result[key] for key in ("dataset", "split", "system"))
            if same and _configuration(old) == _configuration(result):
                self.results[i] = result
                return
        self.results.append(result)

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(r["system"] for r in told_apart(self.results)))


def told_apart(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results with systems of one name and several configurations named apart: the first keeps the name, others
    are called by what they do not share with it, as `latewood (k 20)`."""
    first: dict[str, Mapping[str, Any]] = {}
    told = []
    for result in results:
        usual, own = (_configuration(r) for r in (first.setdefault(result["system"], result), result))
        other = [f"{key} {value}" for key, value in own.items() if value != usual.get(key)]
        name = f"{result['system']} ({', '.join(other)})" if other else result["system"]
        told.append({**result, "system": name})
    return told


def _configuration(result: Mapping[str, Any]) -> dict[str, Any]:
    # A data set's own query length is no choice of the user's.
    settings = {key: value for key, value in result.get("settings", {}).items() if key != "query_length"}
    return {"model": result.get("model"), **settings}


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("per_query"), dict):
        return False
    return all(isinstance(result.get(key), str) for key in ("system", "dataset", "split", "data"))


def environment() -> dict[str, Any]:
    """Date, versions of what decides a result, and the machine that its times are of."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "cpu": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def averages(results: Sequence[Mapping[str, Any]], keys: Iterable[str] = METRICS) -> dict[str, float]:
    """Mean of each key over data sets. The twelve forums of cqadupstack count as one set, as BEIR has it."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        name = result["dataset"]
        groups.setdefault("cqadupstack" if name.startswith("cqadupstack") else name, []).append(result)
    return {key: _mean(_mean(r[key] for r in group) for group in groups.values()) for key in keys}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def side_by_side(results: Sequence[Mapping[str, Any]], metric: str = METRICS[0]) -> str:
    """A Markdown table of one metric: a row for each data set, a column for each system, the row's best in bold.

    The last row has the means over the data sets that every system has.
    """
    results = told_apart(results)
    systems = list(dict.fromkeys(r["system"] for r in results))
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for r in results:
        rows.setdefault(_set_name(r), {})[r["system"]] = r
    lines = [f"| {metric} | " + " | ".join(systems) + " |", "|" + "---|" * (1 + len(systems))]
    values = {name: {s: float(r[metric]) for s, r in row.items()} for name, row in rows.items()}
    shared = [name for name, row in rows.items() if len(row) == len(systems)]
    if len(shared) > 1:
        label = f"mean of {len(shared)}"
        values[label] = {s: averages([rows[n][s] for n in shared], [metric])[metric] for s in systems}
    for name, row in values.items():
        shown = {system: f"{value:.4f}" for system, value in row.items()}
        best = max(shown.values())
        cells = [f"**{v}**" if (v := shown.get(s, "")) == best else v for s in systems]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _set_name(result: Mapping[str, Any]) -> str:
    return result["dataset"] if result["split"] == "test" else f"{result['dataset']} ({result['split']})"


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each data set and system, means below, and what it was measured with."""
    results = told_apart(results)
    columns = ["data set", "system", *METRICS, "ms/query", "index MB", "index s", "queries", "documents"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for r in results:
        cells = [_set_name(r), r["system"], *(f"{r[metric]:.4f}" for metric in METRICS)]
        size = None if r["index_bytes"] is None else r["index_bytes"] / 1e6
        cells += ["" if n is None else f"{n:.1f}" for n in (r["ms_per_query"], size, r["index_seconds"])]
        cells += [f"{r['queries']:,}", f"{r['documents']:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    for system in dict.fromkeys(r["system"] for r in results):
        own = [r for r in results if r["system"] == system]
        if len(own) > 1:
            timed = all(r["ms_per_query"] is not None for r in own)
            means = averages(own, (*METRICS, *(["ms_per_query"] if timed else [])))
            cells = [f"**mean of {len(own)}**", system, *(f"**{means[metric]:.4f}**" for metric in METRICS)]
            cells += [f"{means['ms_per_query']:.1f}" if timed else "", "", "", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    notes = dict.fromkeys(_note(r) for r in results)
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _note(result: Mapping[str, Any]) -> str:
    """How a system was set up and where it ran; one line for all results that agree in it."""
    shown = {k: v for k, v in result["settings"].items() if v is not None and k != "skiplist_words"}
    settings = ", ".join(f"{key} {value}" for key, value in shown.items())
    weights = f" ({result['fingerprint'][:12]})" if result["fingerprint"] else ""
    measured = result["environment"]
    machine = measured["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"{result['system']}: model {result['model']}{weights}; {settings}; {measured['date'][:10]}, "
        f"{machine['cpu']}, {machine['threads']} threads; {versions}."
    )
