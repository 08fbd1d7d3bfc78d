"""Scoring a query's tokens with all centroids: in bytes, by GEMM and by a FAISS HNSW graph, for several nlist.

    OMP_NUM_THREADS=1 python benchmarks/centroid_scoring.py INDEX [--nlist 4096 16384 65536] [--hnsw-up-to 65536]

INDEX is a compressed index; its decoded token vectors, drawn at random, are the centroids, and others of them with
noise the query tokens. Bytes are what search takes (`retriever/kernels/products.py`), GEMM is the same in float32. Both
give every centroid's score, which centroid interaction needs; HNSW gives the nprobe best alone, so it could take the
place of the probe only. recall: of the exact 32 best centroids of a query token. Time is the processor's, one thread,
median of 20.
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
from indexing.coding.centroids import ByteCentroids
from indexing.coding.codec import Codec
from retriever.kernels import QueryTables, probe
from retriever.kernels.products import FLOAT_LANES

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

    dim = centroids.shape[1]
    codebook, scales = np.zeros((1, 256, dim), np.float32), np.ones((256, 2), np.float32)
    codec = Codec(ByteCentroids.of(centroids), codebook, scales, np.eye(dim, dtype=np.float32))
    out = np.empty((len(centroids), lanes), np.float32)
    tables = QueryTables.of(query, codec)
    found = recall(probe(tables, NPROBE)[0])
    rows = [
        ("GEMM", seconds(lambda: np.matmul(centroids, padded, out=out)), 1.0),
        ("bytes and levels", seconds(lambda: QueryTables.of(query, codec)), found),
        ("probe of those scores", seconds(lambda: probe(tables, NPROBE)), found),
    ]
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
    with Index.open(folder) as index, index.snapshot() as snapshot:
        segment = max(snapshot.segments, key=lambda segment: segment.n_tokens)
        return unit(segment.take(random.choice(segment.n_tokens, n, replace=False), snapshot.codec))


def unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
