"""Whether an index finds what the source of its vectors finds: by queries of the source's own tokens."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexing.writing.given import VectorBatch

__all__ = ["Queries"]

TOKENS = 16  # a query
K = 10


class Queries:
    """n queries: some tokens of a document each, of documents drawn at random from a stream."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n, self.documents, self.tokens = n, 0, 0
        self.vectors: list[npt.NDArray[np.float32]] = []
        self._random = np.random.default_rng(seed)

    def drawn(self, batches: Iterable[VectorBatch]) -> Iterator[VectorBatch]:
        """The same batches; on the way each document has the same chance to be drawn (Vitter's reservoir)."""
        for batch in batches:
            self.tokens += len(batch.embeddings.vectors)
            rows = batch.embeddings.offsets[batch.starts]
            for start, stop in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True):
                if start == stop:
                    continue
                self.documents += 1
                at = (
                    int(self._random.integers(self.documents))
                    if self.documents > self.n
                    else len(self.vectors)
                )
                if at < self.n:
                    some = self._random.permutation(stop - start)[:TOKENS] + start
                    self.vectors[at : at + 1] = [batch.embeddings.vectors[np.sort(some)]]
            yield batch

    def recall(self, batches: Iterable[VectorBatch], index: Path) -> float | None:
        """Of the ten documents of the best MaxSim on the batches' vectors, how many a search of the index finds as it
        is set by default: from 0 to 1. None where there is no query."""
        if not self.vectors:
            return None
        from retriever.searcher import Searcher

        best = self.best(batches)
        with Searcher.open(index) as searcher:
            found = [searcher.search_embeddings(query, k=K) for query in self.vectors]
        shared = [
            sum(hit.doc_id in dict(own) for hit in hits) / len(own)
            for own, hits in zip(best, found, strict=True)
        ]
        return float(np.mean(shared))

    def best(self, batches: Iterable[VectorBatch], k: int = K) -> list[list[tuple[str, float]]]:
        """The k best documents of each query and their scores, by brute force; a document by its best passage."""
        queries = np.concatenate(self.vectors)
        starts = np.cumsum([0, *map(len, self.vectors)])[:-1]
        top: list[list[tuple[str, float]]] = [[] for _ in self.vectors]
        for batch in batches:
            embeddings = batch.embeddings
            lengths = embeddings.lengths
            full = np.flatnonzero(lengths)
            if not len(full):
                continue
            of_tokens = queries @ embeddings.vectors.T  # (query tokens, tokens)
            of_passages = np.maximum.reduceat(of_tokens, embeddings.offsets[full], axis=1)
            scores = np.add.reduceat(of_passages, starts, axis=0)  # (queries, passages)
            owners = np.searchsorted(batch.starts, full, side="right") - 1
            first = np.flatnonzero(np.diff(owners, prepend=-1))
            best: Any = np.maximum.reduceat(scores, first, axis=1)  # (queries, documents)
            for own, row in zip(top, best, strict=True):
                for i in np.argsort(-row, kind="stable")[:k].tolist():
                    own.append((batch.doc_ids[owners[first[i]]], float(row[i])))
                own[:] = sorted(own, key=lambda pair: -pair[1])[:k]
        return top
