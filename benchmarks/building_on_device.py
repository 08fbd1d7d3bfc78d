"""An index built by FAISS on the processor and one built by torch on a device: seconds, error, nDCG@10.

    python benchmarks/vectors.py VECTORS BEIR_FOLDER
    python benchmarks/building_on_device.py VECTORS WORK [--device cuda] [--passages N] [--seeds N]

Both are built from the same vectors and vocabulary ids, and both are searched by the processor. error: the mean squared
one of every 16th token. With --passages only the first N are indexed, and only their judgements count.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from shared import Info, ndcg, query_vectors

from encoder import TokenEmbeddings
from indexing import Index
from retriever import Searcher

STEP = 16


class Corpus(NamedTuple):
    embeddings: TokenEmbeddings
    queries: list[npt.NDArray[np.float32]]
    info: Info


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="make each build so many times")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    corpus, found = read(given.vectors, given.passages), []
    for seed in range(given.seeds):
        for name, device in (("faiss", None), ("torch", given.device)):
            figures = {"build": name, "seed": seed} | build(
                given.work / f"{name}.index", device, seed, corpus
            )
            print(figures, flush=True)
            found.append(figures)
    for figure in ("error", "nDCG@10"):
        for name in ("faiss", "torch"):
            own = [one[figure] for one in found if one["build"] == name]
            print(f"{figure} by {name}: {np.mean(own):.5f} ({min(own):.5f} to {max(own):.5f})")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def read(folder: Path, most: int | None) -> Corpus:
    info, offsets = json.loads((folder / "info.json").read_text()), np.load(folder / "offsets.npy")
    offsets = offsets[: len(offsets) if most is None else most + 1]
    rows = slice(0, int(offsets[-1]))
    ids = info["doc_ids"][: len(offsets) - 1]
    here = set(ids)
    judged = {q: {d: r for d, r in own.items() if d in here} for q, own in info["qrels"].items()}
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")[rows].astype(np.float32)
    token_ids = np.load(folder / "token_ids.npy")[rows]
    return Corpus(
        TokenEmbeddings(vectors, offsets, token_ids=token_ids),
        query_vectors(folder),
        info | {"doc_ids": ids, "qrels": judged},
    )


def build(folder: Path, device: str | None, seed: int, corpus: Corpus) -> dict[str, Any]:
    embeddings, queries, info = corpus
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    with Index.create(folder, dim=embeddings.vectors.shape[1], device=device, seed=seed) as index:
        index.add_embeddings(info["doc_ids"], embeddings)
        seconds = time.perf_counter() - started
        with index.snapshot() as now:
            assert now.codec is not None
            assert embeddings.token_ids is not None
            nlist = now.codec.nlist
            error = now.codec.error(embeddings.vectors[::STEP], embeddings.token_ids[::STEP]).mean()
    numbers = {doc_id: i for i, doc_id in enumerate(info["doc_ids"])}
    with Searcher.open(folder) as searcher:
        hits = [searcher.search_embeddings(query, k=100) for query in queries]
    rankings = [[(numbers[hit.doc_id], hit.score) for hit in some] for some in hits]
    return {
        "device": device or "processor",
        "nlist": nlist,
        "seconds": round(seconds, 1),
        "error": float(error),
        "nDCG@10": ndcg(info, rankings),
    }


if __name__ == "__main__":
    main()
