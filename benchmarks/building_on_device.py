"""An index built by FAISS on the processor and one built by torch on a device: seconds, error, nDCG@10.

    python benchmarks/vectors.py VECTORS BEIR_FOLDER
    python benchmarks/building_on_device.py VECTORS WORK [--device cuda] [--passages N]

Both are built from the same vectors and vocabulary ids, and both are searched by the processor. error: the mean squared
one of every 16th token. With --passages only the first N are indexed, and only their judgements count.
"""

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from shared import ndcg

from encoder import TokenEmbeddings
from indexing import Index
from retriever import Searcher

STEP = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    info, offsets = (
        json.loads((given.vectors / "info.json").read_text()),
        np.load(given.vectors / "offsets.npy"),
    )
    n = min(given.passages or len(offsets) - 1, len(offsets) - 1)
    rows = slice(0, int(offsets[n]))
    vectors = np.load(given.vectors / "vectors.npy", mmap_mode="r")[rows]
    token_ids = np.load(given.vectors / "token_ids.npy")[rows]
    here = set(info["doc_ids"][:n])
    judged = {q: {d: r for d, r in own.items() if d in here} for q, own in info["qrels"].items()}
    info |= {"doc_ids": info["doc_ids"][:n], "qrels": judged}
    embeddings = TokenEmbeddings(vectors.astype(np.float32), offsets[: n + 1], token_ids=token_ids)
    found = [
        build(given, name, device, embeddings, info)
        for name, device in (("faiss", None), ("torch", given.device))
    ]
    error, torch_error = (one["error"] for one in found)
    print(
        f"error {torch_error / error - 1:+.2%}, nDCG@10 {found[1]['nDCG@10'] - found[0]['nDCG@10']:+.4f} by torch"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def build(
    given: argparse.Namespace,
    name: str,
    device: str | None,
    embeddings: TokenEmbeddings,
    info: dict[str, Any],
) -> dict[str, Any]:
    folder = given.work / f"{name}.index"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    with Index.create(folder, dim=embeddings.vectors.shape[1], device=device) as index:
        index.add_embeddings(info["doc_ids"], embeddings)
        seconds = time.perf_counter() - started
        with index.snapshot() as now:
            assert now.codec is not None
            assert embeddings.token_ids is not None
            error = now.codec.error(embeddings.vectors[::STEP], embeddings.token_ids[::STEP])
            figures = {
                "build": name,
                "device": device or "processor",
                "nlist": now.codec.nlist,
                "seconds": seconds,
            }
    at, queries = np.load(given.vectors / "query_offsets.npy"), np.load(given.vectors / "query_vectors.npy")
    rankings: list[list[tuple[int, float]]] = []
    numbers = {doc_id: i for i, doc_id in enumerate(info["doc_ids"])}
    with Searcher.open(folder) as searcher:
        for start, stop in itertools.pairwise(at):
            hits = searcher.search_embeddings(queries[start:stop], k=100)
            rankings.append([(numbers[hit.doc_id], hit.score) for hit in hits])
    figures |= {"error": float(error.mean()), "nDCG@10": ndcg(info, rankings)}
    print(figures, flush=True)
    return figures


if __name__ == "__main__":
    main()
