"""Search: latency, throughput, recall against exact MaxSim and nDCG@10, over settings.

    python benchmarks/search.py INDEX BEIR_FOLDER [--queries 100] [--threads 2]
    python benchmarks/search.py INDEX --synthetic TOKENS

INDEX is a folder that `latewood index BEIR_FOLDER INDEX` made. With --synthetic it is made here, unless it is
there, of unit vectors around 20,000 shared directions, 300 a passage, and searched with 32 noisy tokens of a
passage. Queries are encoded before the clock starts; texts and metadata are fetched while it runs.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from encoder import TokenEmbeddings
from indexing import Index
from retriever import Searcher
from retriever.evaluation import EvaluationSet, evaluate

Vectors = npt.NDArray[np.float32]

SETTINGS: list[dict[str, int]] = [
    {},
    {"nprobe": 2, "nrerank": 32},
    {"nprobe": 4, "nrerank": 64},
    {"nprobe": 8, "nrerank": 256},
    {"nprobe": 16, "nrerank": 512},
]
DIM, DIRECTIONS, LENGTH, QUERY_LENGTH = 128, 20_000, 300, 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("beir", type=Path, nargs="?")
    parser.add_argument("--synthetic", type=int, metavar="TOKENS")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("-k", type=int, default=10)
    given = parser.parse_args()
    if (given.beir is None) == (given.synthetic is None):
        parser.error("pass a BEIR folder or --synthetic TOKENS")
    torch.set_num_threads(given.threads)
    if given.synthetic and not given.index.exists():
        build(given.index, given.synthetic)
    with Searcher.open(given.index) as searcher:
        data = None if given.beir is None else EvaluationSet.load(given.beir)
        if data is None:
            queries = synthetic_queries(given.synthetic, given.queries)
        else:
            texts = dict(list(data.queries.items())[: given.queries])
            queries = dict(zip(texts, searcher.encoder.encode_queries(list(texts.values())), strict=True))
        report(searcher, queries, given.k, data)


def report(searcher: Searcher, queries: dict[str, Vectors], k: int, data: EvaluationSet | None) -> None:
    info = searcher.index.info()
    lengths = [len(q) for q in queries.values()]
    print(
        f"{info['passages']:,} passages, {info['tokens']:,} tokens, nlist {info['nlist']}, "
        f"{len(queries)} queries of {np.median(lengths):.0f} tokens (median), k={k}, "
        f"{torch.get_num_threads()} threads"
    )
    # All lists and all passages are exact MaxSim on the stored vectors.
    everything = {"nprobe": info["nlist"] or 1, "ncandidates": 1 << 40, "nrerank": 1 << 40}
    exact = {
        qid: [h.score for h in searcher.search_embeddings(q, k=k, **everything)] for qid, q in queries.items()
    }
    print("nprobe | nrerank | median ms | p95 ms | queries/s | recall | nDCG@10")
    for setting in SETTINGS:
        if setting and (setting["nprobe"] > everything["nprobe"] or setting["nrerank"] < k):
            continue
        chosen = searcher.settings(k, **setting)
        for q in list(queries.values())[:3]:  # compile, and map the files
            searcher.search_embeddings(q, k=k, **setting)
        run, recalls, times = {}, [], []
        for qid, q in queries.items():
            start = time.perf_counter()
            hits = searcher.search_embeddings(q, k=k, **setting)
            times.append(time.perf_counter() - start)
            run[qid] = {h.doc_id: h.score for h in hits}
            recalls.append(np.mean([h.score >= exact[qid][-1] for h in hits]))
        ndcg = "-"
        if data is not None:
            qrels = {qid: data.qrels[qid] for qid in queries}
            ndcg = f"{evaluate(qrels, data.drop_self_hits(run))['nDCG@10']:.4f}"
        print(
            f"{chosen.nprobe} | {chosen.nrerank} | {1e3 * np.median(times):.2f} | "
            f"{1e3 * np.percentile(times, 95):.2f} | {len(times) / sum(times):.0f} | "
            f"{np.mean(recalls):.4f} | {ndcg}",
            flush=True,
        )
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        f"peak resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"
    )


def directions() -> Vectors:
    return unit(np.random.default_rng(0).standard_normal((DIRECTIONS, DIM), dtype=np.float32))


def unit(rows: Vectors) -> Vectors:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def passage(number: int, shared: Vectors) -> Vectors:
    """(LENGTH, DIM). A passage has a subject: half of its tokens come from one range of directions."""
    random = np.random.default_rng([1, number])
    near = (random.integers(DIRECTIONS) + random.integers(0, 200, LENGTH // 2)) % DIRECTIONS
    chosen = np.concatenate([near, random.integers(0, DIRECTIONS, LENGTH - LENGTH // 2)])
    return unit(shared[chosen] + 0.05 * random.standard_normal((LENGTH, DIM), dtype=np.float32))


def build(folder: Path, tokens: int) -> None:
    shared, at_once = directions(), 2000
    started = time.perf_counter()
    with Index.create(folder, dim=DIM) as index:
        for start in range(0, tokens // LENGTH, at_once):
            numbers = range(start, min(start + at_once, tokens // LENGTH))
            vectors = TokenEmbeddings.from_list([passage(n, shared) for n in numbers], DIM)
            index.add_embeddings([str(n) for n in numbers], vectors)
    print(f"built in {time.perf_counter() - started:.0f} s")


def synthetic_queries(tokens: int, n: int) -> dict[str, Vectors]:
    shared, random = directions(), np.random.default_rng(2)
    queries = {}
    for number in random.choice(tokens // LENGTH, n, replace=False):
        some = passage(int(number), shared)[random.choice(LENGTH, QUERY_LENGTH, replace=False)]
        queries[str(number)] = unit(some + 0.05 * random.standard_normal(some.shape).astype(np.float32))
    return queries


if __name__ == "__main__":
    main()
