"""What a build and a search cost as the tokens grow, with the exponents that fit.

    python benchmarks/vectors.py VECTORS BEIR_FOLDER
    python benchmarks/growth.py VECTORS WORK [--tokens 100000 1000000 10000000] [--threads 1] [--json OUT.json]

Passages are made after those in VECTORS while the index is built, so nothing but the index is on disk: see `Like`.
Queries are the real ones. Building and searching run in processes of their own, each with its peak memory; what it
takes to make vectors is taken off. Recall is of MaxSim of the vectors as made, over all passages; "codec's" is that
of the codes over all passages, which no setting of a search passes but by luck. A search is counted at the cheapest
of SETTINGS whose recall is SHARE of the codec's. Sizes that OUT.json has are not measured again, and an index is
deleted once it is measured. Exponents are over compressed indexes: float16 vectors are scored exactly.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import folder_bytes, index_of, query_vectors, rankings, recall, start

K = 10
SHARE = 0.95
KEPT = 0.5  # of the variance within an id: the real token's own
PASSAGES = 500  # a block
SETTINGS: list[dict[str, int]] = [
    {"nprobe": 2, "nrerank": 32},
    {},
    {"nprobe": 16, "nrerank": 256},
    {"nprobe": 32, "ncandidates": 4096, "nrerank": 1024},
    {"nprobe": 64, "ncandidates": 16384, "nrerank": 4096},
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--json", type=Path, help="read what is there, and write all figures")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    done = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    rows: list[dict[str, Any]] = list(done)
    for tokens in given.tokens:
        if all(row["tokens"] != tokens for row in rows):
            rows = sorted([*rows, measure(tokens, given)], key=lambda row: int(row["tokens"]))
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


class Like:
    """Passages after real ones, without end.

    Each takes the vocabulary ids of a real passage. A token is its id's mean plus a rest whose size and covariance
    are the real ones: KEPT of its variance is the real token's rest, the other part is noise, of which as large a share
    is common to the passage as it is in the real ones. Then it is scaled to unit length. From fixed seeds.
    """

    def __init__(self, folder: Path) -> None:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.offsets, self.ids = np.load(folder / "offsets.npy"), np.load(folder / "token_ids.npy")
        self.dim = vectors.shape[1]
        _, self.groups, counts = np.unique(self.ids, return_inverse=True, return_counts=True)
        sums = np.zeros((len(counts), self.dim))
        for rows in slices(self.offsets):
            np.add.at(sums, self.groups[rows], vectors[rows].astype(np.float32))
        self.means = (sums / counts[:, None]).astype(np.float32)
        squares = np.zeros(len(counts))
        moment, between, self.vectors = np.zeros((self.dim, self.dim)), 0.0, vectors
        for rows in slices(self.offsets):
            rest = self.rests(rows)
            squares += np.bincount(self.groups[rows], np.square(rest).sum(axis=1), len(counts))
            moment += rest.T @ rest
        self.sizes = np.sqrt(squares / counts).astype(np.float32)
        lengths = np.diff(self.offsets)
        for first, last in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            size = self.sizes[self.groups[first:last], None]
            rest = np.divide(
                self.rests(slice(first, last)), size, where=size > 0, out=np.zeros((last - first, self.dim))
            )
            # Of a sum of n rests, what is common counts n * n times and what is not n times.
            between += float(np.square(rest.sum(axis=0)).sum() - np.square(rest).sum())
        self.common = max(between / float((lengths * (lengths - 1)).sum()), 0.0)
        self.turn = np.linalg.cholesky(moment / np.trace(moment) + 1e-9 * np.eye(self.dim)).T.astype(
            np.float32
        )

    def rests(self, rows: slice) -> Any:
        """(n, dim): what the means of their ids leave of vectors."""
        return self.vectors[rows].astype(np.float32) - self.means[self.groups[rows]]

    def blocks(self, tokens: int) -> Iterator[tuple[Any, Any, Any]]:
        """Vectors, offsets and token ids of PASSAGES passages at a time: `tokens` of them, but for the last passage's
        end."""
        made, number = 0, 0
        while made < tokens:
            random = np.random.default_rng([3, number])
            drawn = random.integers(0, len(self.offsets) - 1, PASSAGES)
            lengths = (self.offsets[1:] - self.offsets[:-1])[drawn]
            drawn, lengths = drawn[lengths > 0], lengths[lengths > 0]
            # The last passage is cut where the tokens end.
            stops = np.minimum(np.cumsum(lengths), tokens - made)
            n = int(np.searchsorted(stops, stops[-1])) + 1
            offsets = np.concatenate([[0], stops[:n]])
            at = np.concatenate([np.arange(self.offsets[p], self.offsets[p + 1]) for p in drawn[:n]])[
                : stops[n - 1]
            ]
            yield self.like(at, offsets, random), offsets, self.ids[at].astype(np.int32)
            made, number = made + int(offsets[-1]), number + 1

    def like(self, at: Any, offsets: Any, random: np.random.Generator) -> Any:
        own = random.standard_normal((len(at), self.dim), dtype=np.float32)
        shared = random.standard_normal((len(offsets) - 1, self.dim), dtype=np.float32)
        shared = np.repeat(shared, np.diff(offsets), axis=0)
        noise = (np.sqrt(self.common) * shared + np.sqrt(1 - self.common) * own) @ self.turn
        group = self.groups[at]
        order = np.argsort(at, kind="stable")
        real = np.empty_like(own)
        real[order] = self.vectors[at[order]]
        real -= self.means[group]
        rows = self.means[group] + np.sqrt(KEPT) * real + np.sqrt(1 - KEPT) * self.sizes[group, None] * noise
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slices(offsets: Any) -> Iterator[slice]:
    for first in range(0, int(offsets[-1]), 1 << 16):
        yield slice(first, min(first + (1 << 16), int(offsets[-1])))


def measure(tokens: int, given: argparse.Namespace) -> dict[str, Any]:
    index = index_of(given.work, f"growth-{tokens}")
    shutil.rmtree(index, ignore_errors=True)
    like, queries = Like(given.vectors), query_vectors(given.vectors)[: given.queries]
    exact = rankings(((rows, offsets) for rows, offsets, _ in like.blocks(tokens)), queries, K)
    common = {"index": str(index), "threads": given.threads, "vectors": str(given.vectors)}
    job = {**common, "dim": like.dim, "synthetic": tokens, "like": True}
    built = start("latewood", "build", job, None)
    job = {**common, "settings": SETTINGS, "queries": given.queries, "seconds": 1e9}
    searched = start("latewood", "search", job, None)
    allowed = recall(rankings(decoded(index), queries, K), exact)
    found = [
        {
            "setting": row["setting"],
            "recall": recall(row["rankings"], exact),
            "ms": float(np.median(row["wall"]["ms"])),
            "cpu_ms": float(np.median(row["cpu"]["ms"])),
        }
        for row in searched["rows"]
    ]
    size = folder_bytes(index)
    shutil.rmtree(index)
    return {
        "tokens": tokens,
        "seconds": built["seconds"] - built["source_seconds"],
        "build_mib": built["peak_mib"],
        "bytes": size,
        "nlist": built["info"]["nlist"],
        "search_mib": searched["peak_mib"],
        "codec_recall": allowed,
        "searches": found,
    }


def decoded(index: Path) -> Iterator[tuple[Any, Any]]:
    """Vectors as the codes have them, and offsets, in the order in which passages were added."""
    from indexing import Index

    with Index.open(index) as opened, opened.snapshot() as now:
        for segment in now.segments:
            for first in range(0, segment.n_passages, PASSAGES):
                offsets = segment.offsets[first : first + PASSAGES + 1]
                yield segment.decode(int(offsets[0]), int(offsets[-1]), now.codec), offsets - offsets[0]


def enough(row: dict[str, Any]) -> dict[str, Any] | None:
    """The cheapest search whose recall is SHARE of what the codec allows."""
    good = [one for one in row["searches"] if one["recall"] >= SHARE * row["codec_recall"]]
    return min(good, key=lambda one: float(one["ms"]), default=None)


def defaults(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in row["searches"] if not one["setting"])
    return found


FITTED: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "build, seconds": lambda row: row["seconds"],
    "build, peak memory": lambda row: row["build_mib"],
    "bytes on disk": lambda row: row["bytes"],
    "search, median at the defaults": lambda row: defaults(row)["ms"],
    "search, median of the cheapest": lambda row: None if (found := enough(row)) is None else found["ms"],
    "search, peak memory": lambda row: row["search_mib"],
}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| tokens | build s | peak MiB | bytes a token | centroids | codec's recall@10 | defaults: recall@10, ms | "
        f"cheapest with {SHARE:.0%} of the codec's | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain, good = defaults(row), enough(row)
        best = (
            "none" if good is None else f"{good['recall']:.3f}, {good['ms']:.2f} ({named(good['setting'])})"
        )
        lines.append(
            f"| {row['tokens']:,} | {row['seconds']:.1f} | {row['build_mib']:,.0f} | "
            f"{row['bytes'] / row['tokens']:.2f} | {row['nlist'] or '-'} | {row['codec_recall']:.3f} | "
            f"{plain['recall']:.3f}, {plain['ms']:.2f} | {best} | {row['search_mib']:,.0f} |"
        )
    compressed = [row for row in rows if row["nlist"]]
    lines += ["", "Exponents, by least squares of logarithms, of compressed indexes:"]
    for name, figure in FITTED.items():
        points = [(row["tokens"], value) for row in compressed if (value := figure(row)) is not None]
        if len(points) > 1:
            slope = np.polyfit(*np.log(np.array(points, float)).T, 1)[0]
            lines.append(f"- {name}: {slope:.2f}")
    return "\n".join(lines)


def named(setting: dict[str, int]) -> str:
    return ", ".join(f"{key}={value}" for key, value in setting.items()) or "defaults"


if __name__ == "__main__":
    main()
