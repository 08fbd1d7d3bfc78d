"""What benchmarks share: starting a contender, the queries of a folder of vectors, and measuring what was found."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LATEWOOD",
    "LIMITS",
    "PEERS",
    "Info",
    "add_options",
    "exact_rankings",
    "folder_bytes",
    "index_of",
    "interpreter",
    "losses",
    "ndcg",
    "query_vectors",
    "rankings",
    "recall",
    "start",
]

LATEWOOD = ("latewood", "latewood-32", "latewood-48")
LIMITS = ("faiss-flat", "faiss-pq")
LESS = {"max_points_per_centroid": 32}  # vectors to train on, as Latewood's; the peers' default is 256
PEERS: dict[str, dict[str, int]] = {  # and what they build with beside their defaults
    "fast-plaid": {},
    "fast-plaid-quick": LESS,
    "xtr-warp": {},
    "xtr-warp-quick": LESS,
    "tachiom": {},
    "tachiom-quick": {"pq_sample_size": 100_000},
}
Info = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers-python", type=Path, help="interpreter with requirements-peers.txt installed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")


def interpreter(name: str, peers_python: Path | None) -> str:
    return str(peers_python) if name in PEERS else sys.executable


def index_of(work: Path, name: str) -> Path:
    return work / f"{name}.index"


def start(name: str, what: str, job: dict[str, Any], peers_python: Path | None) -> dict[str, Any]:
    """Run contender.py to its end. Raises CalledProcessError where it fails."""
    threads = str(job["threads"])
    names = ("OMP", "MKL", "OPENBLAS", "RAYON", "NUMBA")
    environment = os.environ | {f"{n}_NUM_THREADS": threads for n in names}
    with tempfile.TemporaryDirectory() as place:
        job_file, result_file = Path(place) / "job.json", Path(place) / "result.json"
        job_file.write_text(json.dumps(job))
        script = Path(__file__).with_name("contender.py")
        command = [interpreter(name, peers_python), str(script), name, what, str(job_file), str(result_file)]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        result: dict[str, Any] = json.loads(result_file.read_text())
        return result


def exact_rankings(vectors: Path, threads: int) -> list[Any]:
    """Brute force's ranking of every query, kept beside the vectors: it is the same for every run."""
    kept = vectors / "exact.json"
    if not kept.exists():
        job = {"vectors": str(vectors), "threads": threads, "queries": None}
        kept.write_text(json.dumps(start("exact", "rank", job, None)["rankings"]))
    rankings: list[Any] = json.loads(kept.read_text())
    return rankings


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def query_vectors(vectors: Path) -> list[npt.NDArray[np.float32]]:
    """Of each query, (n_query, dim), as vectors.py wrote them."""
    rows, ends = np.load(vectors / "query_vectors.npy"), np.load(vectors / "query_offsets.npy")
    return [rows[start:stop] for start, stop in itertools.pairwise(ends)]


def losses(
    info: Info, rankings: list[list[tuple[int, float]]], exact: list[list[tuple[int, float]]]
) -> list[float]:
    """Of each query: nDCG@10 that brute force has more than the ranking; recall@10 lost where nothing is judged."""
    if "qrels" not in info:
        return [1 - share for share in shares(rankings, exact)]
    best, own = judged(info, exact[: len(rankings)]), judged(info, rankings)
    return [b - o for b, o in zip(best, own, strict=True)]


def judged(info: Info, rankings: list[list[tuple[int, float]]]) -> list[float]:
    """nDCG@10 of each of the first len(rankings) queries."""
    from retriever.evaluation import evaluate_queries

    ids = info["query_ids"][: len(rankings)]
    run = {
        qid: {info["doc_ids"][number]: score for number, score in ranking}
        for qid, ranking in zip(ids, rankings, strict=True)
    }
    found = evaluate_queries({qid: info["qrels"][qid] for qid in ids}, run)
    return [found[qid]["nDCG@10"] for qid in ids]


def ndcg(info: Info, rankings: list[list[tuple[int, float]]]) -> float | None:
    """nDCG@10 over the first len(rankings) queries; None where nothing is judged."""
    return float(np.mean(judged(info, rankings))) if "qrels" in info else None


def shares(rankings: list[list[tuple[int, float]]], exact: list[list[tuple[int, float]]]) -> list[float]:
    """Of each query, the share of the exact ranking's passages that are in the ranking."""
    pairs = zip(rankings, exact[: len(rankings)], strict=True)
    return [len({n for n, _ in r} & {n for n, _ in e}) / len(e) for r, e in pairs]


def recall(rankings: list[list[tuple[int, float]]], exact: list[list[tuple[int, float]]]) -> float:
    return float(np.mean(shares(rankings, exact)))


def rankings(blocks: Iterable[tuple[Any, Any]], queries: list[Any], k: int) -> list[list[tuple[int, float]]]:
    """The k best passages of each query, (n_query, dim), by MaxSim with all. blocks: vectors and offsets of some
    passages, none of them empty; all queries see a block together."""
    together = np.concatenate(queries)
    starts = np.cumsum([0, *map(len, queries)])[:-1]
    parts = []
    for rows, offsets in blocks:
        best = np.maximum.reduceat(together @ rows.T, offsets[:-1], axis=1)
        parts.append(np.add.reduceat(best, starts, axis=0))
    scores = np.concatenate(parts, axis=1)  # (queries, passages)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[(int(p), float(own[p])) for p in order] for own, order in zip(scores, best, strict=True)]
