"""The vectors that all contenders of build.py and search.py share, made once.

    python benchmarks/vectors.py OUT BEIR_FOLDER [--document-length 256] [--no-idf]
    python benchmarks/vectors.py OUT --synthetic TOKENS [--queries 100]

OUT gets vectors.npy (tokens, 128) float16, offsets.npy (passages + 1,), token_ids.npy (tokens,), query_vectors.npy,
query_offsets.npy and info.json. A BEIR folder is encoded with the bundled model, and its query vectors are multiplied
by their tokens' IDF weights, as Searcher does (MaxSim is linear in them: every contender's scores are weighted).
Synthetic passages are 300 unit vectors around 20,000 shared directions, without token ids; a query is 32 noisy tokens
of one passage. All from fixed seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DIM", "synthetic_blocks"]

Vectors = npt.NDArray[np.float32]

DIM, DIRECTIONS, LENGTH, QUERY_LENGTH = 128, 20_000, 300, 32
NOISE = 0.05  # of each component: two tokens of one direction have a cosine of about 0.76
AT_ONCE = 500  # passages a block


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("beir", type=Path, nargs="?")
    parser.add_argument(
        "--document-length", type=int, help="tokens of a document that are read; the model's if left out"
    )
    parser.add_argument("--no-idf", action="store_true", help="query vectors of unit length")
    parser.add_argument("--synthetic", type=int, metavar="TOKENS")
    parser.add_argument("--queries", type=int, default=100, help="synthetic ones")
    given = parser.parse_args()
    if (given.beir is None) == (given.synthetic is None):
        parser.error("pass a BEIR folder or --synthetic TOKENS")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.beir is None:
        synthetic(given.out, given.synthetic, given.queries)
    else:
        encode(given.out, given.beir, given.document_length, idf=not given.no_idf)


def encode(out: Path, beir: Path, document_length: int | None, idf: bool) -> None:
    from encoder import Encoder
    from encoder.progress import progress_shown
    from retriever.evaluation import EvaluationSet

    data = EvaluationSet.load(beir)
    encoder = Encoder.load(document_length=document_length)
    passages = list(data.passages())
    documents = encoder.encode_documents([p["text"] for p in passages], progress=progress_shown())
    texts = list(data.queries.values())
    queries = list(encoder.encode_queries(texts))
    if idf:
        weights = query_weights(encoder, texts, passages)
        queries = [query * own[:, None] for query, own in zip(queries, weights, strict=True)]
    np.save(out / "vectors.npy", documents.vectors.astype(np.float16))
    np.save(out / "offsets.npy", documents.offsets)
    if documents.token_ids is not None:
        np.save(out / "token_ids.npy", documents.token_ids)
    save_queries(out, queries)
    info = {
        "name": f"{data.name}, documents cut at {encoder.document_length} tokens",
        "idf": idf,
        "doc_ids": [p["doc_id"] for p in passages],
        "query_ids": list(data.queries),
        "qrels": data.qrels,
    }
    (out / "info.json").write_text(json.dumps(info), encoding="utf-8")


def query_weights(encoder: Any, texts: list[str], passages: list[Any]) -> list[Vectors]:
    """Weights of each query's tokens, by an index that holds the passages' texts and a vector each."""
    from encoder import TokenEmbeddings
    from indexing import Index
    from retriever.ranking.weighting import idf_weights

    one_each = TokenEmbeddings(np.ones((len(passages), 8), np.float32), np.arange(len(passages) + 1))
    with tempfile.TemporaryDirectory() as place, Index.create(Path(place) / "index", dim=8) as index:
        index.add_embeddings([p["doc_id"] for p in passages], one_each, texts=[p["text"] for p in passages])
        with index.snapshot() as now:
            return [
                idf_weights(text, encoder.query_tokens(text), len(now), now.document_frequencies)
                for text in texts
            ]


def synthetic(out: Path, tokens: int, n_queries: int) -> None:
    n = tokens // LENGTH
    vectors = np.lib.format.open_memmap(
        out / "vectors.npy", mode="w+", dtype=np.float16, shape=(n * LENGTH, DIM)
    )
    start = 0
    for block in synthetic_blocks(tokens):
        vectors[start : start + block.size // DIM] = block.reshape(-1, DIM)
        start += block.size // DIM
    vectors.flush()
    np.save(out / "offsets.npy", np.arange(n + 1, dtype=np.int64) * LENGTH)
    random = np.random.default_rng(2)
    queries = []
    for number in random.choice(n, n_queries, replace=False):
        at = number * LENGTH + np.sort(random.choice(LENGTH, QUERY_LENGTH, replace=False))
        some = vectors[at].astype(np.float32)
        queries.append(unit(some + NOISE * random.standard_normal(some.shape).astype(np.float32)))
    save_queries(out, queries)
    info = {"name": f"synthetic, {n * LENGTH:,} tokens"}
    (out / "info.json").write_text(json.dumps(info), encoding="utf-8")


def synthetic_blocks(tokens: int) -> Iterator[Vectors]:
    """Blocks of passages, (some, LENGTH, DIM), in all tokens // LENGTH passages.

    A passage has a subject: half of its tokens come from 200 neighbouring directions, the rest from anywhere.
    """
    shared = unit(np.random.default_rng(0).standard_normal((DIRECTIONS, DIM), dtype=np.float32))
    n = tokens // LENGTH
    for start in range(0, n, AT_ONCE):
        random, some = np.random.default_rng([1, start]), min(AT_ONCE, n - start)
        subject = random.integers(0, DIRECTIONS, (some, 1))
        near = (subject + random.integers(0, 200, (some, LENGTH // 2))) % DIRECTIONS
        chosen = np.concatenate([near, random.integers(0, DIRECTIONS, (some, LENGTH - LENGTH // 2))], axis=1)
        yield unit(shared[chosen] + NOISE * random.standard_normal((some, LENGTH, DIM), dtype=np.float32))


def unit(rows: Vectors) -> Vectors:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def save_queries(out: Path, queries: list[Vectors]) -> None:
    np.save(out / "query_vectors.npy", np.concatenate(queries).astype(np.float32))
    np.save(out / "query_offsets.npy", np.cumsum([0, *map(len, queries)], dtype=np.int64))


if __name__ == "__main__":
    main()
