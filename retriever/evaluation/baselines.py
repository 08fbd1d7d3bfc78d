"""What late interaction is measured against: BM25 by bm25s, and one pooled vector a passage in FAISS."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from encoder import Encoder
from encoder.errors import MissingDependencyError
from encoder.progress import Progress, Told
from retriever.evaluation.datasets import EvaluationSet, Run
from retriever.evaluation.systems import LateInteraction

__all__ = ["BASELINES", "Bm25", "Dense"]

BASELINES = ("bm25", "dense")
AT_ONCE = 256  # texts encoded together


@dataclass(frozen=True)
class Bm25:
    """bm25s with Anserini's k1 and b, Snowball stemming and English stop words. k: depth of the run.

    Raises MissingDependencyError where it cannot run, before other systems work for hours.
    """

    k: int = 100
    k1: float = 0.9
    b: float = 0.4
    name: str = "bm25"

    def __post_init__(self) -> None:
        for package in ("bm25s", "Stemmer"):
            if find_spec(package) is None:
                raise MissingDependencyError(
                    f"the BM25 baseline needs {package}; pip install 'latewood[eval]'"
                )

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        settings = {"k": self.k, "k1": self.k1, "b": self.b, "stemmer": "english", "stopwords": "en"}
        return {"model": "bm25s", "fingerprint": None, "settings": settings}

    def run(self, data: EvaluationSet, *, progress: Told | None = None) -> tuple[Run, dict[str, Any]]:
        import bm25s
        import Stemmer

        stemmer = Stemmer.Stemmer("english")

        def words(texts: list[str]) -> Any:
            return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

        started = time.perf_counter()
        ids, texts = [], []
        for passage in _bar(data.passages(), data, "BM25 index", "document", progress):
            ids.append(passage["doc_id"])
            texts.append(passage["text"])
        model = bm25s.BM25(k1=self.k1, b=self.b)
        model.index(words(texts), show_progress=False)
        indexed = time.perf_counter()
        depth = min(self.k + data.drops_self_hits, len(ids))
        run: Run = {}
        for qid, text in _bar(data.queries.items(), data, "BM25 search", "query", progress):
            found, scores = model.retrieve(words([text]), k=depth, show_progress=False)
            pairs = zip(found[0], scores[0], strict=True)
            run[qid] = {ids[i]: float(score) for i, score in pairs if score > 0}
        size = sum(array.nbytes for array in model.scores.values() if isinstance(array, np.ndarray))
        return run, _figures(data, len(ids), size, started, indexed, time.perf_counter())


@dataclass(frozen=True)
class Dense:
    """One vector a text: the mean of its token vectors, scaled to unit length; inner product, exactly.

    The encoder was not trained to be pooled: this says what is lost by it, not how good a model made for one
    vector a text would be. k: depth of the run.
    """

    encoder: Encoder
    k: int = 100
    name: str = "dense"

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        identity = LateInteraction.of(self.encoder, k=self.k).identity(data)
        kept = ("k", "query_length", "document_length", "skiplist_words", "precision", "pool_factor")
        return identity | {"settings": {key: identity["settings"][key] for key in kept}}

    def run(self, data: EvaluationSet, *, progress: Told | None = None) -> tuple[Run, dict[str, Any]]:
        import faiss

        encoder = LateInteraction(self.encoder).encoder_for(data)
        index = faiss.IndexFlatIP(encoder.dim)
        ids: list[str] = []
        started = time.perf_counter()
        passages = iter(_bar(data.passages(), data, "dense index", "document", progress))
        while some := list(itertools.islice(passages, AT_ONCE)):
            index.add(encoder.encode_documents([p["text"] for p in some]).means())
            ids += [p["doc_id"] for p in some]
        indexed = time.perf_counter()
        depth = min(self.k + data.drops_self_hits, len(ids))
        run: Run = {}
        queries = iter(_bar(data.queries.items(), data, "dense search", "query", progress))
        while pairs := list(itertools.islice(queries, AT_ONCE)):
            scores, found = index.search(encoder.encode_queries([text for _, text in pairs]).means(), depth)
            for (qid, _), rows, values in zip(pairs, found, scores, strict=True):
                run[qid] = {ids[i]: float(score) for i, score in zip(rows, values, strict=True)}
        size = len(ids) * encoder.dim * 4
        return run, _figures(data, len(ids), size, started, indexed, time.perf_counter())


def _bar(items: Iterable[Any], data: EvaluationSet, what: str, unit: str, told: Told | None) -> Iterator[Any]:
    return iter(Progress(items, phase=f"{data.name}: {what}", unit=unit, told=told))


def _figures(
    data: EvaluationSet, documents: int, size: int, started: float, indexed: float, done: float
) -> dict[str, Any]:
    return {
        "documents": documents,
        "index_bytes": size,
        "index_seconds": round(indexed - started, 2),
        "search_seconds": round(done - indexed, 2),
        "ms_per_query": round(1000 * (done - indexed) / len(data.queries), 3),
    }
