"""Whether an index finds what the source of its vectors finds: by queries of the source's own tokens."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexing.writing.given import VectorBatch

__all__ = ["Queries"]

TOKENS = 16  # a query
K = 10
AHEAD = 1 << 16  # tokens of the first documents, from which queries are drawn; all at once in memory


class Queries:
    """n queries, some tokens of a document each, and the k best documents of each by brute force.

    vectors: of each query, (n_query, dim). best: of each query (doc_id, MaxSim), best first; a document counts by its
    best passage.
    """

    def __init__(self, n: int, k: int = K, seed: int = 0) -> None:
        self.n, self.k = n, k
        self.vectors: list[npt.NDArray[np.float32]] = []
        self.best: list[list[tuple[str, float]]] = []
        self._random = np.random.default_rng(seed)

    def passing(self, batches: Iterable[VectorBatch]) -> Iterator[VectorBatch]:
        """The same batches, each read once: queries are drawn from the first, and all are scored on their way."""
        left = iter(batches)
        ahead, tokens = list[VectorBatch](), 0
        while tokens < AHEAD and (batch := next(left, None)) is not None:
            ahead.append(batch)
            tokens += len(batch.embeddings.vectors)
        self._draw(ahead)
        while ahead:
            self.score(ahead[0])
            yield ahead.pop(0)
        for batch in left:
            self.score(batch)
            yield batch

    def _draw(self, batches: Iterable[VectorBatch]) -> None:
        documents = [
            (batch.embeddings.vectors, start, stop)
            for batch in batches
            for start, stop in itertools.pairwise(batch.embeddings.offsets[batch.starts].tolist())
            if start < stop
        ]
        for i in self._random.permutation(len(documents))[: self.n].tolist():
            vectors, start, stop = documents[i]
            some = self._random.permutation(stop - start)[:TOKENS] + start
            self.vectors.append(vectors[np.sort(some)])

    def score(self, batch: VectorBatch) -> None:
        """Put a batch's documents among the best of each query."""
        self.best = self.best or [[] for _ in self.vectors]
        embeddings = batch.embeddings
        full = np.flatnonzero(embeddings.lengths)
        if not self.vectors or not len(full):
            return
        of_tokens = np.concatenate(self.vectors) @ embeddings.vectors.T  # (query tokens, tokens)
        of_passages = np.maximum.reduceat(of_tokens, embeddings.offsets[full], axis=1)
        starts = np.cumsum([0, *map(len, self.vectors)])[:-1]
        scores = np.add.reduceat(of_passages, starts, axis=0)  # (queries, passages)
        owners = np.searchsorted(batch.starts, full, side="right") - 1
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        of_documents: Any = np.maximum.reduceat(scores, first, axis=1)  # (queries, documents)
        for own, row in zip(self.best, of_documents, strict=True):
            for i in np.argsort(-row, kind="stable")[: self.k].tolist():
                own.append((batch.doc_ids[owners[first[i]]], float(row[i])))
            own[:] = sorted(own, key=lambda pair: -pair[1])[: self.k]

    def recall(self, index: Path) -> float | None:
        """Of the best documents of each query, how many a search of the index finds as it is set by default: from 0
        to 1. None where there is no query."""
        if not self.vectors:
            return None
        from retriever.searcher import Searcher

        with Searcher.open(index) as searcher:
            found = [searcher.search_embeddings(query, k=self.k) for query in self.vectors]
        shared = [
            sum(hit.doc_id in dict(own) for hit in hits) / len(own)
            for own, hits in zip(self.best, found, strict=True)
        ]
        return float(np.mean(shared))
