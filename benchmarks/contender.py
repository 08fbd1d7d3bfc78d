"""One contender in an interpreter of its own; build.py and search.py start it, over the files of vectors.py.

    python benchmarks/contender.py NAME build JOB.json RESULT.json
    python benchmarks/contender.py NAME search JOB.json RESULT.json
    python benchmarks/contender.py exact rank JOB.json RESULT.json

NAME is latewood, latewood-32 or latewood-48 (bytes a token), exact (brute force), faiss-flat, faiss-pq, fast-plaid,
xtr-warp or tachiom; the last three need only themselves and numpy, and the first two of these torch.
"""

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from shared import LATEWOOD, LIMITS, query_vectors

try:
    import torch
except ImportError:  # in TACHIOM's environment there is none
    torch: Any = None  # type: ignore[no-redef]

K = 10
BLOCK = 1 << 16  # tokens read, or scored by brute force, at a time
IN_MEMORY = 2_000_000  # brute force keeps this many tokens in float32; of more, float16
AT_ONCE = 64  # queries
WARM_UP = 3  # queries before a setting's clock starts

Ranking = list[tuple[int, float]]  # passage number and score, best first


def main(name: str, what: str, job_file: str, result_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    if torch is not None:
        torch.set_num_threads(job["threads"])
    result = {"build": build, "search": search, "rank": rank}[what](name, job)
    result["peak_mib"] = peak_mib()
    Path(result_file).write_text(json.dumps(result))


def peak_mib() -> float:
    """Peak resident memory. VmHWM where there is one: ru_maxrss may count the parent's, from before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


# Building -----------------------------------------------------------------------------------------------


def build(name: str, job: dict[str, Any]) -> dict[str, Any]:
    builders = {
        **dict.fromkeys(LATEWOOD, build_latewood),
        "fast-plaid": build_fast_plaid,
        "xtr-warp": build_xtr_warp,
        "tachiom": build_tachiom,
        "faiss-flat": partial(build_faiss, "Flat"),
        "faiss-pq": partial(build_faiss, "PQ32"),
    }
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    figures = builders[name.removesuffix("-quick")](job)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, **figures}


def build_latewood(job: dict[str, Any]) -> dict[str, Any]:
    from encoder import TokenEmbeddings
    from indexing import Index

    options = {name: job[name] for name in ("memory", "bytes_per_token") if job.get(name) is not None}
    n, making = 0, 0.0
    with Index.create(job["index"], dim=job["dim"], **options) as index:
        blocks = blocks_of(job)
        while True:
            started = time.perf_counter()
            block = next(blocks, None)
            making += time.perf_counter() - started
            if block is None:
                break
            vectors, offsets, token_ids = block
            embeddings = TokenEmbeddings(vectors, offsets, token_ids=token_ids)
            index.add_embeddings([str(n + i) for i in range(len(offsets) - 1)], embeddings)
            n += len(offsets) - 1
        info = index.info()
    return {"source_seconds": making, "info": info}


def blocks_of(job: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Vectors, offsets and token ids: read, or made after those read, or made of nothing."""
    if "synthetic" not in job:
        return read_blocks(Path(job["vectors"]))
    if not job.get("like"):
        return made_blocks(job["synthetic"])
    from growth import Like

    return Like(Path(job["vectors"])).blocks(job["synthetic"])


def read_blocks(folder: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Vectors, offsets and token ids of about a million tokens at a time, without keeping the file mapped."""
    offsets = np.load(folder / "offsets.npy")
    token_ids = np.load(folder / "token_ids.npy") if (folder / "token_ids.npy").exists() else None
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + 16 * BLOCK, side="right")) - 1
        stop = max(stop, start + 1)
        mapped = np.load(folder / "vectors.npy", mmap_mode="r")
        yield (
            mapped[offsets[start] : offsets[stop]].astype(np.float32),
            offsets[start : stop + 1] - offsets[start],
            None if token_ids is None else token_ids[offsets[start] : offsets[stop]],
        )
        start = stop


def made_blocks(tokens: int) -> Iterator[tuple[Any, Any, Any]]:
    from vectors import synthetic_blocks

    for block in synthetic_blocks(tokens):
        yield block.reshape(-1, block.shape[-1]), np.arange(len(block) + 1) * block.shape[1], None


def passages(job: dict[str, Any]) -> list[Any]:
    """As the peers take them: float16 tensors, views of one array."""
    folder = Path(job["vectors"])
    together = torch.from_numpy(np.load(folder / "vectors.npy"))
    return list(together.split(np.diff(np.load(folder / "offsets.npy")).tolist()))


def build_fast_plaid(job: dict[str, Any]) -> dict[str, Any]:
    from fast_plaid.search import FastPlaid

    FastPlaid(index=job["index"], device="cpu").create(
        documents_embeddings=passages(job), **job["peer_options"]
    )
    return {}


def build_xtr_warp(job: dict[str, Any]) -> dict[str, Any]:
    from xtr_warp.search import XTRWarp

    XTRWarp(index=job["index"]).create(
        embeddings_source=passages(job), device="cpu", show_progress=False, **job["peer_options"]
    )
    return {}


def build_tachiom(job: dict[str, Any]) -> dict[str, Any]:
    from tachiom import Tachiom

    folder, index = Path(job["vectors"]), Path(job["index"])
    index.mkdir()
    built = Tachiom.build_from_arrays(
        np.load(folder / "vectors.npy").view(np.uint16),
        np.load(folder / "token_ids.npy").astype(np.uint32),
        np.diff(np.load(folder / "offsets.npy")).astype(np.int32),
        **job["peer_options"],
    )
    built.save(str(index / "index.bin"))
    return {}


def build_faiss(factory: str, job: dict[str, Any]) -> dict[str, Any]:
    import faiss

    vectors = np.load(Path(job["vectors"]) / "vectors.npy").astype(np.float32)
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    Path(job["index"]).mkdir()
    faiss.write_index(index, str(Path(job["index"]) / "index.faiss"))
    return {}


# Searching ----------------------------------------------------------------------------------------------


def search(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """Each setting: milliseconds and ranking of each query, one by one, then seconds for them 64 at a time.

    Both by the wall's clock and the process's, which counts all its threads. At most job["seconds"] of processor
    time one by one a setting, but 10 queries at least.
    """
    queries = read_queries(job)
    openers: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(LATEWOOD, Latewood),
        "exact": Exact,
        "fast-plaid": FastPlaidIndex,
        "xtr-warp": XTRWarpIndex,
        "tachiom": TachiomIndex,
        **dict.fromkeys(LIMITS, FaissIndex),
    }
    contender = openers[name.removesuffix("-quick")](job)
    # So that the first setting does not pay for pages of files that later ones find mapped.
    began = time.process_time()
    for query in queries:
        contender.one(query, **job["settings"][0])
        if time.process_time() - began > job["seconds"]:
            break
    rows = []
    for setting in job["settings"]:
        for query in queries[:WARM_UP]:
            contender.one(query, **setting)
        wall: list[float] = []
        cpu: list[float] = []
        rankings: list[Ranking] = []
        for query in queries:
            started = clocks()
            found = contender.one(query, **setting)
            took = clocks() - started
            wall.append(1e3 * took[0])
            cpu.append(1e3 * took[1])
            rankings.append([(int(number), float(score)) for number, score in found])
            if sum(cpu) > 1e3 * job["seconds"] and len(cpu) >= 10:
                break
        started = clocks()
        for first in range(0, len(cpu), AT_ONCE):
            contender.all(queries[first : min(first + AT_ONCE, len(cpu))], **setting)
        together = clocks() - started
        rows.append(
            {
                "setting": setting,
                "rankings": rankings,
                "wall": {"ms": wall, "batch_seconds": together[0]},
                "cpu": {"ms": cpu, "batch_seconds": together[1]},
            }
        )
        print(
            f"{name} {setting}: {np.median(wall):.2f} ms, {np.median(cpu):.2f} of processor time",
            file=sys.stderr,
            flush=True,
        )
    return {"rows": rows}


def clocks() -> Any:
    """Seconds by the wall's clock and by the process's: (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def rank(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """Brute force's ranking of every query, for others to be measured against."""
    return {"rankings": Exact(job).all(read_queries(job))}


def read_queries(job: dict[str, Any]) -> list[Any]:
    return query_vectors(Path(job["vectors"]))[: job["queries"]]


class Latewood:
    def __init__(self, job: dict[str, Any]) -> None:
        from retriever import Searcher

        self.searcher, self.threads = Searcher.open(job["index"]), job["threads"]

    def one(self, query: Any, **setting: int) -> Ranking:
        hits = self.searcher.search_embeddings(query, k=K, **setting)
        return [(int(hit.doc_id), hit.score) for hit in hits]

    def all(self, queries: list[Any], **setting: int) -> list[Ranking]:
        if self.threads == 1:
            return [self.one(query, **setting) for query in queries]
        torch.set_num_threads(1)  # a query a thread
        with ThreadPoolExecutor(self.threads) as pool:
            found = list(pool.map(lambda query: self.one(query, **setting), queries))
        torch.set_num_threads(self.threads)
        return found


class Exact:
    """Brute force: one matrix product and a maximum over each passage, a block of passages at a time."""

    def __init__(self, job: dict[str, Any]) -> None:
        folder = Path(job["vectors"])
        vectors, self.offsets = (
            np.load(folder / "vectors.npy", mmap_mode="r"),
            np.load(folder / "offsets.npy"),
        )
        assert (np.diff(self.offsets) > 0).all()  # np.maximum.reduceat knows no empty run
        self.vectors: Any = vectors.astype(np.float32) if len(vectors) <= IN_MEMORY else vectors

    def one(self, query: Any) -> Ranking:
        return self.all([query])[0]

    def all(self, queries: list[Any]) -> list[Ranking]:
        together = np.concatenate(queries)  # (query tokens, dim)
        starts = np.cumsum([0, *map(len, queries)])[:-1]
        block = max(4096, BLOCK // len(queries))
        scores = np.empty((len(queries), len(self.offsets) - 1), np.float32)
        first = 0
        while first < len(self.offsets) - 1:
            last = max(
                int(np.searchsorted(self.offsets, self.offsets[first] + block, "right")) - 1, first + 1
            )
            a, b = self.offsets[first], self.offsets[last]
            rows = self.vectors[a:b].astype(np.float32, copy=False)
            best = np.maximum.reduceat(together @ rows.T, self.offsets[first:last] - a, axis=1)
            scores[:, first:last] = np.add.reduceat(best, starts, axis=0)
            first = last
        return [self.top(row) for row in scores]

    @staticmethod
    def top(scores: Any) -> Ranking:
        best = np.argpartition(-scores, K)[:K]
        best = best[np.argsort(-scores[best], kind="stable")]
        return list(zip(best.tolist(), scores[best].tolist(), strict=True))


class FastPlaidIndex:
    def __init__(self, job: dict[str, Any]) -> None:
        from fast_plaid.search import FastPlaid

        self.index, self.threads = FastPlaid(index=job["index"], device="cpu"), job["threads"]

    def one(self, query: Any, **setting: int) -> Ranking:
        batch = torch.from_numpy(query)[None]
        return self.index.search(batch, top_k=K, show_progress=False, n_processes=1, **setting)[0]

    def all(self, queries: list[Any], **setting: int) -> list[Ranking]:
        batch = [torch.from_numpy(query) for query in queries]
        return self.index.search(batch, top_k=K, show_progress=False, n_processes=self.threads, **setting)


class XTRWarpIndex:
    def __init__(self, job: dict[str, Any]) -> None:
        from xtr_warp.search import XTRWarp

        self.index, self.threads = XTRWarp(index=job["index"]), job["threads"]
        self.index.load(device="cpu")

    def one(self, query: Any, **setting: Any) -> Ranking:
        batch = torch.from_numpy(query)[None]
        return self.index.search(batch, top_k=K, num_threads=self.threads, show_progress=False, **setting)[0]

    def all(self, queries: list[Any], **setting: Any) -> list[Ranking]:
        batch = [torch.from_numpy(query) for query in queries]  # padded with zeros by xtr-warp
        return self.index.search(batch, top_k=K, num_threads=self.threads, show_progress=False, **setting)


class TachiomIndex:
    def __init__(self, job: dict[str, Any]) -> None:
        from tachiom import Tachiom

        self.index, self.threads = Tachiom.load(str(Path(job["index"]) / "index.bin")), job["threads"]

    def one(self, query: Any, **setting: Any) -> Ranking:
        scores, numbers = self.index.search(query, K, **setting)
        return list(zip(numbers.tolist(), scores.tolist(), strict=True))

    def all(self, queries: list[Any], **setting: Any) -> list[Ranking]:
        scores, numbers = self.index.batch_search(
            np.concatenate(queries),
            len(queries),
            K,
            offsets=np.cumsum([0, *map(len, queries)], dtype=np.uint64),
            num_threads=self.threads,
            **setting,
        )
        return [list(zip(*row, strict=True)) for row in zip(numbers.tolist(), scores.tolist(), strict=True)]


class FaissIndex:
    """Each query token's nearest tokens of all. A document without one among them has the score of the last of them,
    as in XTR (Lee et al. 2023)."""

    def __init__(self, job: dict[str, Any]) -> None:
        import faiss

        faiss.omp_set_num_threads(job["threads"])
        self.index = faiss.read_index(str(Path(job["index"]) / "index.faiss"))
        offsets = np.load(Path(job["vectors"]) / "offsets.npy")
        self.owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def one(self, query: Any, tokens: int = 1000) -> Ranking:
        return self.all([query], tokens)[0]

    def all(self, queries: list[Any], tokens: int = 1000) -> list[Ranking]:
        scores, found = self.index.search(np.concatenate(queries), tokens)
        starts = np.cumsum([0, *map(len, queries)])
        return [
            self.rank(scores[a:b], self.owners[found[a:b]]) for a, b in itertools.pairwise(starts.tolist())
        ]

    def rank(self, scores: Any, owners: Any) -> Ranking:
        """scores, owners: (n_query, tokens), best first."""
        candidates, places = np.unique(owners, return_inverse=True)
        best = np.repeat(scores[:, -1:], len(candidates), axis=1)  # (n_query, candidates)
        rows = np.repeat(np.arange(len(scores)), scores.shape[1])
        np.maximum.at(best, (rows, places.ravel()), scores.ravel())
        total = best.sum(0)
        top = np.argsort(-total, kind="stable")[:K]
        return list(zip(candidates[top].tolist(), total[top].tolist(), strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
