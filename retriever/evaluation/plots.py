"""Quality against latency and against size, as a PNG. matplotlib is the extra `plot`, imported when called."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from encoder.errors import ArgumentError, MissingDependencyError
from retriever.evaluation.metrics import METRICS
from retriever.evaluation.results import averages, told_apart

__all__ = ["plot"]

AXES = (("ms_per_query", "milliseconds a query"), ("bytes_per_document", "bytes of index a document"))


def plot(
    path: str | os.PathLike[str], results: Sequence[Mapping[str, Any]], *, metric: str = METRICS[0]
) -> None:
    """Write a PNG: for each system its mean over data sets, large, and each data set, small.

    The means are over the data sets that every system has, so that they can be compared. Raises
    ArgumentError where there is no such set or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib; pip install 'latewood[plot]'") from error

    # The axes are logarithmic: what rounds to nothing is drawn at their least.
    points = [
        {
            **result,
            "ms_per_query": max(1e-3, result["ms_per_query"]),
            "bytes_per_document": max(1, result["index_bytes"]) / max(1, result["documents"]),
        }
        for result in told_apart(results)
        if result["ms_per_query"] is not None  # a run file has no times
    ]
    systems = list(dict.fromkeys(point["system"] for point in points))
    sets = [{(p["dataset"], p["split"]) for p in points if p["system"] == system} for system in systems]
    shared = set.intersection(*sets) if sets else set()
    if not shared:
        raise ArgumentError(
            f"no data set was evaluated with all of {', '.join(systems) or 'no system'}; evaluate one"
        )
    # Figure by itself, without pyplot: no window, no state that other code shares.
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (key, label) in zip((left, right), AXES, strict=True):
        for i, system in enumerate(systems):
            own = [p for p in points if p["system"] == system and (p["dataset"], p["split"]) in shared]
            colour = f"C{i}"
            axes.scatter([p[key] for p in own], [p[metric] for p in own], s=12, color=colour, alpha=0.5)
            means = averages(own, (metric, key))
            axes.scatter([means[key]], [means[metric]], s=90, color=colour, label=system, edgecolor="black")
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    left.set_ylabel(metric)
    right.legend()
    figure.suptitle(f"mean (large) of {len(shared)} data set{'s' * (len(shared) > 1)}")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise ArgumentError(
            f"cannot write {path}: {error.strerror}; pass a file in a folder of yours"
        ) from error
