"""What is evaluated: late interaction in each of its modes, as a run over one data set with its times and sizes."""

import math
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from encoder import Encoder
from encoder.arguments import absolute
from encoder.errors import ArgumentError
from encoder.options import updated
from encoder.progress import Progress, Told
from indexing import AddReport, Index, IndexSettings
from indexing.storage.tables import is_index
from indexing.writing.encoding import windows_of
from retriever.evaluation.datasets import EvaluationSet, Run
from retriever.options import Scoring, SearchOptions
from retriever.searcher import Searcher

__all__ = ["Build", "LateInteraction", "System"]

DEFAULTS, SCORING = SearchOptions(k=100, mode="late"), Scoring()


class System(Protocol):
    """Anything that can be put in a report beside late interaction."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        """model, fingerprint (None for what has no weights) and settings: all that decides the run."""

    def run(self, data: EvaluationSet, *, progress: Told | None = None) -> tuple[Run, dict[str, Any]]:
        """Hits of every query, and figures: at least documents, index_bytes, index_seconds, search_seconds."""


@dataclass(frozen=True)
class Build:
    """How an index was made. info: `Index.info()`. added: what this run added; nothing, if it was there already.
    seconds: by the clock, cpu_seconds: of this process's threads, which other programs do not lengthen."""

    info: dict[str, Any]
    added: AddReport
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class LateInteraction:
    """Latewood's own index and search; the run holds documents, each by its best passage.

    flat: keep vectors as float16 and score all of them. index_folder: keep the index there, or use the one that is
    there; None for a temporary one. window, overlap: as in IndexSettings. built: what `sharing` sets.

    Raises ArgumentError for a window that the encoder cannot read.
    """

    encoder: Encoder
    search: SearchOptions = DEFAULTS
    scoring: Scoring = SCORING
    flat: bool = False
    index_folder: Path | None = None
    window: int | Literal["auto"] | None = "auto"
    overlap: int = 0
    built: dict[Path, Build] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.index_folder is not None:
            object.__setattr__(self, "index_folder", absolute(self.index_folder))
        if self.search.mode is None:  # one that has its name
            object.__setattr__(self, "search", replace(self.search, mode="late"))
        asked = IndexSettings.made(self.encoder, None, {"window": self.window, "overlap": self.overlap})
        windows_of(self.encoder, asked)

    @classmethod
    def of(cls, encoder: Encoder, **options: Any) -> "LateInteraction":
        """With any of the fields of this class, of SearchOptions and of Scoring by their names."""
        own: dict[str, Any] = {}
        for name, default in (("search", DEFAULTS), ("scoring", SCORING)):
            names = {f.name for f in fields(default)} & options.keys()
            own[name] = updated(default, {key: options.pop(key) for key in names})
        return updated(cls(encoder, **own), options)

    @property
    def name(self) -> str:
        parts = [
            "latewood",
            "" if self.search.mode == "late" else self.search.mode,
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
                **asdict(self.search),
                **asdict(self.scoring),
                "flat": self.flat,
                "window": self.window,
                "overlap": self.overlap,
                "query_length": encoder.query_length,
                "document_length": encoder.document_length,
                "skiplist_words": "".join(encoder.tokenizer.settings.skiplist_words),
                "precision": encoder.precision,
                "pool_factor": encoder.pool_factor,
            },
        }

    def run(self, data: EvaluationSet, *, progress: Told | None = None) -> tuple[Run, dict[str, Any]]:
        encoder = self.encoder_for(data)
        place: Any = nullcontext(self.index_folder)
        if self.index_folder is None:
            place = tempfile.TemporaryDirectory(prefix="latewood-")
        with place as folder:
            path = self.index_folder or Path(folder) / "index"
            built = {} if self.built is None else self.built
            if path not in built:
                built[path] = self._index(path, data, encoder, progress)
            build = built[path]
            with Searcher.open(path, encoder, scoring=self.scoring) as searcher:
                run, seconds = self._search(searcher, data, progress)
        info, sizes = build.info, build.info["bytes"]
        return run, {
            "kind": info["kind"],
            "documents": info["documents"],
            "passages": info["passages"],
            "tokens": info["tokens"],
            "bytes_per_token": round(info["bytes_per_token"], 3),
            "index_bytes": sum(sizes[part] for part in sizes if part != "database"),
            "index_seconds": round(build.seconds, 2),
            "index_cpu_seconds": round(build.cpu_seconds, 2),
            "encoded_tokens": build.added.tokens,
            "cut": build.added.truncated,
            "windowed": build.added.windowed,
            "search_seconds": round(seconds, 2),
            "ms_per_query": round(1000 * seconds / len(data.queries), 3),
        }

    def _index(self, path: Path, data: EvaluationSet, encoder: Encoder, progress: Told | None) -> Build:
        started, started_cpu = time.perf_counter(), time.process_time()
        if exists := is_index(path):
            opened = Index.open(path, encoder, writable=True)
        else:
            never: dict[str, Any] = {"flat_tokens": 1 << 40, "segment_tokens": 1 << 40} if self.flat else {}
            opened = Index.create(path, encoder, window=self.window, overlap=self.overlap, **never)
        title = f"{data.name}: index"
        with opened as index:
            if exists:
                _refuse_others(index, data)
                _refuse_windows(index, self)
            with Progress(data.passages(), phase=title, unit="document", told=progress) as bar:
                added = index.add(bar)
            info = index.info()
        if self.flat and info["kind"] != "flat":
            raise ArgumentError(
                f"{path} is {info['kind']}, --flat wants float16 vectors; pass another --index"
            )
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        return Build(info, added, seconds, cpu_seconds)

    def _search(self, searcher: Searcher, data: EvaluationSet, progress: Told | None) -> tuple[Run, float]:
        options = replace(self.search, k=self.search.k + data.drops_self_hits)
        first = next(iter(data.queries))
        # Loads or compiles the kernels, which is no part of a latency.
        searcher.search(data.queries[first], options)
        run: Run = {}
        started = time.perf_counter()
        title = f"{data.name}: search"
        with Progress[str](phase=title, unit="query", told=progress, total=len(data.queries)) as bar:
            for qid, hits in searcher.search_stream(data.queries, options):
                run[qid] = {hit.doc_id: hit.score for hit in hits if math.isfinite(hit.score)}
                bar.update()
        return run, time.perf_counter() - started


def _refuse_others(index: Index, data: EvaluationSet) -> None:
    """Documents that are not the collection's would take places in its rankings, and count in its frequencies."""
    own = {document["doc_id"] for document in data.passages()}
    others = [doc_id for doc_id in index.ids() if doc_id not in own]
    if others:
        raise ArgumentError(
            f"{index.folder} holds {len(others):,} documents that are not in {data.name}, first "
            f"{others[0]!r}; pass an --index of this collection alone, or of a new folder"
        )


def _refuse_windows(index: Index, system: LateInteraction) -> None:
    """An index keeps the windows that it was made with."""
    there, asked = index.settings, (system.window, system.overlap)
    if (there.window, there.overlap) != asked:
        raise ArgumentError(
            f"{index.folder} was made with window={there.window!r} and overlap={there.overlap}, not "
            f"{asked[0]!r} and {asked[1]}; pass these, or an --index of a new folder"
        )
