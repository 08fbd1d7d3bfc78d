"""Scoring a query's tokens with all centroids: GEMM, int8 and a FAISS HNSW graph, for several nlist.

    OMP_NUM_THREADS=1 python benchmarks/centroid_scoring.py INDEX [--nlist 4096 16384 65536] [--hnsw-up-to 65536]

INDEX is a compressed index; its decoded token vectors, drawn at random, are the centroids, and others of them with
noise the query tokens. GEMM is what search does. Both it and int8 give every centroid's score, which centroid
interaction needs; HNSW gives the nprobe best alone, so it could take the place of the probe only, on top of a
GEMM. recall: of the exact 32 best centroids of a query token. Time is the processor's, one thread, median of 20.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from indexing import Index
from indexing.codec import Codec
from retriever.kernels import QueryTables, probe
from retriever.kernels.products import FLOAT_LANES
from retriever.kernels.tables import _products

Vectors = npt.NDArray[np.float32]
NPROBE, REPEATS = 32, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("--nlist", type=int, nargs="+", default=[4096, 16384, 65536, 131072])
    parser.add_argument("--tokens", type=int, nargs="+", default=[7, 32])
    parser.add_argument("--hnsw-up-to", type=int, default=65536, help="building the graph takes a while")
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    print("nlist | tokens | method | ms | recall@32")
    for nlist in given.nlist:
        centroids = draw(given.index, nlist, random)
        graph = None
        if nlist <= given.hnsw_up_to:
            graph = faiss.IndexHNSWFlat(centroids.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = 40
            graph.add(centroids)
        for tokens in given.tokens:
            noise = 0.05 * random.standard_normal((tokens, centroids.shape[1]), dtype=np.float32)
            query = unit(draw(given.index, tokens, random) + noise)
            for name, milliseconds, recall in compare(centroids, query, graph):
                print(f"{nlist} | {tokens} | {name} | {milliseconds:.2f} | {recall:.4f}", flush=True)


def compare(centroids: Vectors, query: Vectors, graph: Any) -> list[tuple[str, float, float]]:
    lanes = -(-len(query) // FLOAT_LANES) * FLOAT_LANES
    padded = np.zeros((centroids.shape[1], lanes), np.float32)
    padded[:, : len(query)] = query.T
    exact = np.argsort(-(centroids @ query.T), axis=0)[:NPROBE].T

    def recall(found: npt.NDArray[np.int64]) -> float:
        return float(np.mean([len(set(a) & set(b)) / NPROBE for a, b in zip(found, exact, strict=True)]))

    codec = Codec(centroids, np.zeros((1, 256, centroids.shape[1]), np.float32))
    tables = QueryTables.of(query, codec)
    rows = [
        ("GEMM", seconds(lambda: _products(centroids, padded)), 1.0),
        ("tables: GEMM and levels", seconds(lambda: QueryTables.of(query, codec)), 1.0),
        ("probe of those scores", seconds(lambda: probe(tables, NPROBE)), recall(probe(tables, NPROBE)[0])),
    ]
    small = torch.from_numpy(np.round(centroids * (127 / np.abs(centroids).max())).astype(np.int8))
    asked = torch.from_numpy(np.round(padded * (127 / np.abs(padded).max())).astype(np.int8))
    scores = torch._int_mm(small, asked)[:, : len(query)].numpy()
    found = np.argsort(-scores, axis=0)[:NPROBE].T
    rows.append(("int8 (torch._int_mm)", seconds(lambda: torch._int_mm(small, asked)), recall(found)))
    if graph is not None:
        for ef in (64, 256):
            graph.hnsw.efSearch = ef
            rows.append(
                (
                    f"HNSW, efSearch {ef}",
                    seconds(lambda: graph.search(query, NPROBE)),
                    recall(graph.search(query, NPROBE)[1]),
                )
            )
    return [(name, 1e3 * s, r) for name, s, r in rows]


def seconds(work: Callable[[], Any]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return float(np.median(times))


def draw(folder: Path, n: int, random: np.random.Generator) -> Vectors:
    """Vectors of n tokens of the index, decoded and made unit again: (n, dim)."""
    with Index.open(folder) as index:
        segment = max(index.segments, key=lambda segment: segment.n_tokens)
        return unit(segment.take(random.choice(segment.n_tokens, n, replace=False), index.codec))


def unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
