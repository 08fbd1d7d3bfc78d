"""What is evaluated: late interaction in each of its modes, as a run over one data set with its times and sizes."""

import math
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from encoder import Encoder
from encoder.arguments import absolute
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS, check_sharpness
from encoder.progress import Progress
from indexing import Index
from indexing.reading.windows import Windows
from indexing.writing.records import AddReport
from retriever.evaluation.datasets import EvaluationSet, Run
from retriever.ranking.folding import document_of, search_documents
from retriever.searcher import Mode, Searcher

__all__ = ["Build", "LateInteraction", "System"]

QUERIES_AT_ONCE = 64  # as in Searcher.search_many, so that a bar can move between them


class System(Protocol):
    """Anything that can be put in a report beside late interaction."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        """model, fingerprint (None for what has no weights) and settings: all that decides the run."""

    def run(self, data: EvaluationSet, *, show_progress: bool = False) -> tuple[Run, dict[str, Any]]:
        """Hits of every query, and figures: at least passages, index_bytes, index_seconds, search_seconds."""


@dataclass(frozen=True)
class Build:
    """How an index was made. info: `Index.info()`. added: what this run added; nothing, if it was there already.
    windowed: how many documents came in windows. seconds: by the clock, cpu_seconds: of this process's threads,
    which other programs do not lengthen."""

    info: dict[str, Any]
    added: AddReport
    windowed: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class LateInteraction:
    """Latewood's own index and search.

    k: depth of the run. flat: keep vectors as float16 and score all of them. index_folder: keep the index
    there, or use the one that is there; None for a temporary one. nprobe, nrerank: as in `Searcher.search`.
    idf, sharpness: as in `Searcher`.
    window, overlap: cut documents longer than window into windows, as `latewood index` does; the run holds
    documents, each by its best window. "auto" is for documents longer than the encoder reads, None cuts these off
    (`Windows.chosen`). built: what `sharing` sets.

    Raises ArgumentError for a window that the encoder cannot read, an overlap without one, or no such sharpness.
    """

    encoder: Encoder
    k: int = 100
    mode: Mode = "late"
    flat: bool = False
    nprobe: int | None = None
    nrerank: int | None = None
    index_folder: Path | None = None
    idf: bool = True
    sharpness: float = SHARPNESS
    window: int | Literal["auto"] | None = "auto"
    overlap: int = 0
    built: dict[Path, Build] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.index_folder is not None:
            object.__setattr__(self, "index_folder", absolute(self.index_folder))
        Windows.chosen(self.encoder.tokenizer, self.window, self.overlap)
        check_sharpness(self.sharpness)
        if self.index_folder is not None:
            object.__setattr__(self, "index_folder", absolute(self.index_folder))

    @property
    def name(self) -> str:
        parts = [
            "latewood",
            "" if self.mode == "late" else self.mode,
            "flat" if self.flat else "",
            f"w{self.window}" if isinstance(self.window, int) else "",
        ]
        return "-".join(part for part in parts if part)

    def sharing(self, place: Path, built: dict[Path, Build]) -> "LateInteraction":
        """The same with its index in place, for all that search the same vectors of one data set: the first to
        run builds it, and puts into `built` what that took."""
        name = f"{id(self.encoder)}-{self.flat}-{self.window}-{self.overlap}"
        return replace(self, index_folder=self.index_folder or place / name, built=built)

    def encoder_for(self, data: EvaluationSet) -> Encoder:
        """The encoder with the query length that results on this data set are published with.

        BEIR's query lengths are for models that expand queries to that very length. Without expansion a
        length only cuts, so the longer of the two is meant.
        """
        settings = self.encoder.tokenizer.settings
        if settings.do_query_expansion or data.query_length > settings.query_length:
            return self.encoder.with_query_length(data.query_length)
        return self.encoder

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        encoder = self.encoder_for(data)
        return {
            "model": encoder.name,
            "fingerprint": encoder.fingerprint,
            "settings": {
                "k": self.k,
                "mode": self.mode,
                "flat": self.flat,
                "nprobe": self.nprobe,
                "nrerank": self.nrerank,
                "idf": self.idf,
                "sharpness": self.sharpness,
                "window": self.window,
                "overlap": self.overlap,
                "query_length": encoder.query_length,
                "document_length": encoder.document_length,
                "skiplist_words": "".join(encoder.tokenizer.settings.skiplist_words),
                "precision": encoder.precision,
                "pool_factor": encoder.pool_factor,
            },
        }

    def run(self, data: EvaluationSet, *, show_progress: bool = False) -> tuple[Run, dict[str, Any]]:
        encoder = self.encoder_for(data)
        place: Any = nullcontext(self.index_folder)
        if self.index_folder is None:
            place = tempfile.TemporaryDirectory(prefix="latewood-")
        with place as folder:
            path = self.index_folder or Path(folder) / "index"
            built = {} if self.built is None else self.built
            if path not in built:
                built[path] = self._index(path, data, encoder, show_progress)
            build = built[path]
            with Searcher.open(path, encoder, idf=self.idf, sharpness=self.sharpness) as searcher:
                run, seconds = self._search(searcher, data, show_progress)
        info, sizes = build.info, build.info["bytes"]
        return run, {
            "kind": info["kind"],
            "passages": info["passages"],
            "tokens": info["tokens"],
            "bytes_per_token": round(info["bytes_per_token"], 3),
            "index_bytes": sum(sizes[part] for part in sizes if part != "database"),
            "index_seconds": round(build.seconds, 2),
            "index_cpu_seconds": round(build.cpu_seconds, 2),
            "encoded_tokens": build.added.tokens,
            "cut": build.added.truncated,
            "windowed": build.windowed,
            "search_seconds": round(seconds, 2),
            "ms_per_query": round(1000 * seconds / len(data.queries), 3),
        }

    def _index(self, path: Path, data: EvaluationSet, encoder: Encoder, show_progress: bool) -> Build:
        started, started_cpu = time.perf_counter(), time.process_time()
        windows = Windows.chosen(encoder.tokenizer, self.window, self.overlap)
        if exists := (path / "index.db").is_file():
            opened = Index.open(path, encoder, writable=True)
        else:
            never = {"flat_tokens": 1 << 40, "segment_tokens": 1 << 40} if self.flat else {}
            opened = Index.create(path, encoder, **never)
        title = f"{data.name}: index"
        with opened as index:
            if exists:
                _refuse_others(index, data)
            with Progress(data.passages(), desc=title, unit="passage", show=show_progress) as bar:
                added = index.add(bar if windows is None else windows.cut(bar))
            if windows is not None and exists:
                windows.drop_stale(index)
            info = index.info()
        if self.flat and info["kind"] != "flat":
            raise ArgumentError(
                f"{path} is {info['kind']}, --flat wants float16 vectors; pass another --index"
            )
        windowed = 0 if windows is None else windows.n_cut
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        return Build(info, added, windowed, seconds, cpu_seconds)

    def _search(self, searcher: Searcher, data: EvaluationSet, show_progress: bool) -> tuple[Run, float]:
        def hits(queries: dict[str, str]) -> Run:
            found = search_documents(
                searcher,
                queries,
                k=self.k + data.drops_self_hits,
                mode=self.mode,
                nprobe=self.nprobe,
                nrerank=self.nrerank,
            )
            return {
                qid: {h.doc_id: h.score for h in some if math.isfinite(h.score)}
                for qid, some in found.items()
            }

        ids = list(data.queries)
        hits({ids[0]: data.queries[ids[0]]})  # loads or compiles the kernels, which is no part of a latency
        run: Run = {}
        started = time.perf_counter()
        title = f"{data.name}: search"
        with Progress[str](desc=title, unit="query", show=show_progress, total=len(ids)) as bar:
            for start in range(0, len(ids), QUERIES_AT_ONCE):
                some = ids[start : start + QUERIES_AT_ONCE]
                run |= hits({qid: data.queries[qid] for qid in some})
                bar.update(len(some))
        return run, time.perf_counter() - started


def _refuse_others(index: Index, data: EvaluationSet) -> None:
    """Documents that are not the collection's would take places in its rankings, and count in its frequencies."""
    own = {passage["doc_id"] for passage in data.passages()}
    others = {name: None for name in map(document_of, index.scan()) if name not in own}
    if others:
        raise ArgumentError(
            f"{index.folder} holds {len(others):,} documents that are not in {data.name}, first "
            f"{next(iter(others))!r}; pass an --index of this collection alone, or of a new folder"
        )
