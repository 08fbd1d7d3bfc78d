"""What codes of each size keep: error, nDCG@10 and recall@10 against exact MaxSim with all passages, without an index.

    python benchmarks/code_size.py VECTORS [--bytes 20 32 48] [--sharpness 2.5] [--seed 0]
    python benchmarks/code_size.py --topics 600000

VECTORS is a folder that `python benchmarks/vectors.py VECTORS BEIR_FOLDER` made; token ids in it are used as an index
uses them. --topics makes vectors without ids: 2,000 words, 200 topics of 60 of them, passages of 40 tokens. A token is
the sum of its topic's direction, 0.7 of its word's and 0.5 of noise in all dimensions, scaled to unit length; a query
is 12 tokens of one passage, with noise of their own. The codec is trained as an index of these vectors trains it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import query_vectors

from encoder.maxsim import maxsim_arrays
from indexing.coding.codec import Codec
from indexing.coding.sizes import choose_m, choose_nlist
from indexing.writing.rewriting import sample
from retriever.evaluation import evaluate

K = 10
BLOCK = 1 << 16  # tokens decoded at a time
TOPICS, WORDS, LENGTH, QUERIES, ASKED, DIM = 200, 2000, 40, 200, 12, 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path, nargs="?")
    parser.add_argument("--topics", type=int, metavar="TOKENS")
    parser.add_argument("--bytes", type=int, nargs="+", default=[20, 32, 48])
    parser.add_argument("--sharpness", type=float, default=0.0, help="0 is plain MaxSim")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    given = parser.parse_args()
    if (given.vectors is None) == (given.topics is None):
        parser.error("pass VECTORS or --topics TOKENS")
    torch.set_num_threads(1)
    data = Data.read(given.vectors) if given.topics is None else Data.made(given.topics)
    exact = data.rankings(lambda start, stop: data.vectors[start:stop].astype(np.float32), given.sharpness)
    print(f"{len(data.vectors):,} tokens, {len(exact)} queries; exact vectors: nDCG@10 {data.ndcg(exact)}")
    for size in given.bytes:
        started = time.process_time()
        codec = data.codec(size, given.seed)
        trained = time.process_time()
        ids, codes = codec.encode(data.vectors, data.token_ids)
        coded = time.process_time()

        def decoded(start: int, stop: int) -> Any:
            return codec.decode(ids[start:stop], codes[start:stop])  # noqa: B023

        found = data.rankings(decoded, given.sharpness)
        recall = np.mean(
            [len({d for d, _ in a} & {d for d, _ in b}) / K for a, b in zip(found, exact, strict=True)]
        )
        some = slice(None, None, 16)
        own = None if data.token_ids is None else data.token_ids[some]
        error = codec.error(data.vectors[some], own).mean()
        print(
            f"{size} bytes (m={codec.m}, {codec.nlist:,} centroids): nDCG@10 {data.ndcg(found)}, "
            f"recall@{K} {recall:.4f}, error {error:.4f}; training {trained - started:.1f} s, "
            f"coding {coded - trained:.1f} s of processor time",
            flush=True,
        )


class Data:
    """Vectors of passages and of queries. It is what `sample` asks of a segment, too."""

    def __init__(
        self, vectors: Any, offsets: Any, token_ids: Any, queries: list[Any], info: dict[str, Any]
    ) -> None:
        self.vectors, self.offsets, self.token_ids = vectors, offsets, token_ids
        self.queries, self.info = queries, info

    @classmethod
    def read(cls, folder: Path) -> "Data":
        ids = folder / "token_ids.npy"
        return cls(
            np.load(folder / "vectors.npy"),
            np.load(folder / "offsets.npy"),
            np.load(ids) if ids.exists() else None,
            query_vectors(folder),
            json.loads((folder / "info.json").read_text()),
        )

    @classmethod
    def made(cls, tokens: int) -> "Data":
        random = np.random.default_rng(0)
        n = tokens // LENGTH

        def directions(*shape: int) -> Any:
            rows = random.standard_normal((*shape, DIM), dtype=np.float32)
            return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

        topics, words = directions(TOPICS), directions(WORDS)
        of_topic = random.integers(0, WORDS, (TOPICS, 60))
        topic = random.integers(0, TOPICS, n)
        meant = (
            topics[topic][:, None]
            + 0.7 * words[of_topic[topic[:, None], random.integers(0, 60, (n, LENGTH))]]
        )
        vectors = meant + 0.5 * directions(n, LENGTH)
        asked = random.choice(n, QUERIES, replace=False)
        queries = meant[asked, :ASKED] + 0.5 * directions(QUERIES, ASKED)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
        return cls(
            vectors.reshape(-1, DIM).astype(np.float16), np.arange(n + 1) * LENGTH, None, list(queries), {}
        )

    def codec(self, size: int, seed: int) -> Codec:
        whole: Any = Whole(self)
        n = len(self.offsets) - 1
        rows, ids = sample([whole], [np.ones(n, np.bool_)], None, np.arange(n), seed, 1 << 20)
        nlist = choose_nlist(len(self.vectors))
        return Codec.train(rows, nlist, choose_m(DIM, size, nlist), seed, ids)

    def rankings(self, rows: Callable[[int, int], Any], sharpness: float) -> list[list[tuple[int, float]]]:
        """The K best passages of each query and their scores. rows: the vectors of tokens start to stop."""
        scores = np.empty((len(self.queries), len(self.offsets) - 1), np.float32)
        first = 0
        while first < len(self.offsets) - 1:
            last = int(np.searchsorted(self.offsets, self.offsets[first] + BLOCK, "right")) - 1
            last = max(last, first + 1)
            vectors = rows(int(self.offsets[first]), int(self.offsets[last]))
            offsets = self.offsets[first : last + 1] - self.offsets[first]
            for i, query in enumerate(self.queries):
                scores[i, first:last] = maxsim_arrays(query, vectors, offsets, sharpness)
            first = last
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        return [[(int(d), float(scores[i, d])) for d in own] for i, own in enumerate(best)]

    def ndcg(self, rankings: list[list[tuple[int, float]]]) -> str:
        if "qrels" not in self.info:
            return "-"
        names, asked = self.info["doc_ids"], self.info["query_ids"]
        run = {qid: {names[d]: score for d, score in own} for qid, own in zip(asked, rankings, strict=True)}
        return f"{evaluate(self.info['qrels'], run)['nDCG@10']:.4f}"


class Whole:
    """All vectors as one segment."""

    def __init__(self, data: Data) -> None:
        self.data, self.offsets = data, data.offsets

    def take(self, tokens: Any, codec: None) -> Any:
        return self.data.vectors[tokens].astype(np.float32)

    def token_ids(self, tokens: Any, codec: None) -> Any:
        return None if self.data.token_ids is None else self.data.token_ids[tokens]


if __name__ == "__main__":
    main()
