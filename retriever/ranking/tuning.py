"""The settings with which an index is searched fast and still finds enough, measured on the index itself."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from encoder.errors import ArgumentError, MissingDependencyError
from encoder.progress import Progress, Told
from indexing import Snapshot
from indexing.settings import TunedSearch
from indexing.storage.fulltext import word_spans
from retriever.ranking.knobs import SearchSettings
from retriever.searcher import Searcher

__all__ = ["Trial", "best", "plot", "sample_queries", "tune"]

NPROBE = (2, 4, 8, 16, 32, 64)
CANDIDATES = (
    (1, 1),
    (4, 2),
    (8, 2),
    (8, 4),
    (16, 4),
    (32, 8),
    (64, 16),
)  # times k, at least 16: kept, reranked
LEAST = 16
WORDS = 4  # a sentence of fewer is no query


@dataclass(frozen=True)
class Trial:
    """Settings and what they gave: recall of the exact top k, and median seconds a query, encoding left out."""

    settings: SearchSettings
    recall: float
    seconds: float


def tune(
    searcher: Searcher, queries: Sequence[str], *, k: int = 10, progress: Told | None = None
) -> list[Trial]:
    """Measure a grid of settings on queries: recall against exact MaxSim, and latency, in ascending latency.

    The last try looks at every passage, so that some setting always has recall 1. Raises ArgumentError
    where there is nothing to tune: no query, no passage, or no compressed segment.
    """
    now = searcher.snapshot
    codec = now.codec
    if codec is None or not any(segment.kind == "compressed" for segment in now.segments):
        raise ArgumentError(f"{now.folder} is flat and scored exactly; there is nothing to tune")
    if not queries:
        raise ArgumentError("there are no queries to tune with; pass some that are typical of your searches")
    vectors = list(searcher.encode(list(queries)))  # weighted, as they will be searched
    n = max(len(now), k)
    everything = SearchSettings(codec.nlist, n, n)
    search = partial(searcher.search_embeddings, k=k, sharpness=searcher.scoring.sharpness)
    exact = [search(v, **vars(everything)) for v in vectors]
    if not exact[0]:
        raise ArgumentError(f"{now.folder} has no vectors; add some documents first")
    trials = []
    for settings in Progress(_grid(k, codec.nlist, n), phase="tuning", unit="setting", told=progress):
        recalls, seconds = [], []
        for query, best_hits in zip(vectors, exact, strict=True):
            start = time.perf_counter()
            hits = search(query, **vars(settings))
            seconds.append(time.perf_counter() - start)
            # Of equal scores any will do.
            recalls.append(np.mean([hit.score >= best_hits[-1].score for hit in hits]))
        trials.append(Trial(settings, float(np.mean(recalls)), float(np.median(seconds))))
    return sorted(trials, key=lambda trial: trial.seconds)


def best(trials: Sequence[Trial], recall: float, k: int) -> TunedSearch:
    """The fastest with the recall asked for. Raises ArgumentError where none has."""
    if not 0 < recall <= 1:
        raise ArgumentError(f"recall={recall}; pass 0 < recall <= 1")
    good = [trial for trial in trials if trial.recall >= recall]
    if not good:
        reached = max(trial.recall for trial in trials)
        raise ArgumentError(
            f"recall={recall} was not reached, {reached:.4f} was; pass recall <= {reached:.4f}"
        )
    trial = min(good, key=lambda trial: trial.seconds)
    return TunedSearch(k=k, recall=round(trial.recall, 4), **vars(trial.settings))


def _grid(k: int, nlist: int, n: int) -> list[SearchSettings]:
    tried = {
        SearchSettings(min(nprobe, nlist), min(max(LEAST, kept * k), n), min(max(LEAST, reranked * k), n))
        for nprobe in NPROBE
        for kept, reranked in CANDIDATES
    }
    wanted = {s for s in tried if s.nrerank >= k} | {SearchSettings(nlist, n, n)}
    return sorted(wanted, key=lambda s: (s.nprobe, s.ncandidates, s.nrerank))


def sample_queries(snapshot: Snapshot, n: int, seed: int = 0) -> list[str]:
    """A sentence or line of each of n documents, both drawn by the seed; documents without text give none."""
    random = np.random.default_rng(seed)
    ids = list(snapshot.ids())
    chosen = [ids[i] for i in random.choice(len(ids), min(n, len(ids)), replace=False)] if ids else []
    queries = []
    for document in snapshot.get(chosen):
        text = (document.text if document is not None else None) or ""
        pieces = [piece.strip() for piece in re.split(r"(?<=[.!?])\s+|\n+", text)]
        pieces = [piece for piece in pieces if len(word_spans(piece)) >= WORDS] or [text]
        if pieces[0].strip():
            queries.append(pieces[int(random.integers(len(pieces)))])
    return queries


def plot(trials: Sequence[Trial], chosen: TunedSearch, path: Path) -> None:
    """Draw latency against recall, as a PNG. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed; run: pip install 'latewood[plot]'"
        ) from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="median ms a query, without encoding", ylabel=f"recall@{chosen.k} against exact", xscale="log"
    )
    for nprobe in sorted({trial.settings.nprobe for trial in trials}):
        some = [trial for trial in trials if trial.settings.nprobe == nprobe]
        axes.plot([1e3 * t.seconds for t in some], [t.recall for t in some], "o", label=f"nprobe {nprobe}")
    settings = SearchSettings(chosen.nprobe, chosen.ncandidates, chosen.nrerank)
    for trial in trials:
        if trial.settings == settings:
            axes.plot([1e3 * trial.seconds], [trial.recall], "kx", markersize=12, label="stored")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=150)
