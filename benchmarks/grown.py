"""Does an index that grew answer as well as one built at once? nDCG@10, code error and size of both.

    python benchmarks/grown.py VECTORS [--steps 20] [--passages N] [--even] [--compact]

VECTORS is a folder that `python benchmarks/vectors.py VECTORS BEIR_FOLDER` made. The first index gets all passages
in one call; the second the first 10 and then the rest in `--steps` calls, each about as many times larger than the
one before (`--even`: equally large), as documents come in over time. Both are searched with default settings.
The error is the mean of |v - decoded v|^2 over all tokens.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shared import query_vectors

from encoder import TokenEmbeddings
from indexing import Index
from retriever import Searcher
from retriever.evaluation import evaluate

START = 10  # passages of the first call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--passages", type=int, help="only the first of them")
    parser.add_argument("--flat-tokens", type=int, help="tokens from which a codec is trained")
    parser.add_argument("--even", action="store_true", help="steps of one size")
    parser.add_argument("--shuffle", action="store_true", help="passages in random order")
    parser.add_argument("--seed", type=int, default=0, help="of the codec's training")
    parser.add_argument("--compact", action="store_true", help="compact the grown index at the end")
    given = parser.parse_args()
    data = Data(given.vectors, given.passages, given.shuffle)
    n = len(data.doc_ids)
    cut = np.linspace if given.even else np.geomspace
    ends = np.unique(cut(START, n, given.steps + 1).astype(np.int64))
    settings = {} if given.flat_tokens is None else {"flat_tokens": given.flat_tokens}
    print(f"{data.name}: {n:,} passages, {data.offsets[-1]:,} tokens, steps end at {ends.tolist()}")
    found = []
    for name, stops in (("at once", [n]), ("grown", ends.tolist())):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "docs.index"
            with Index.create(path, dim=data.dim, seed=given.seed, **settings) as index:
                for start, stop in zip([0, *stops], stops, strict=False):
                    index.add_embeddings(data.doc_ids[start:stop], data.part(start, stop))
                if given.compact:
                    index.compact()
            found.append(measure(path, data))
        print(f"{name:8s} " + "  ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    print(f"nDCG@10, grown less at once: {found[1]['nDCG@10'] - found[0]['nDCG@10']:+.4f}")


class Data:
    """What vectors.py wrote, without the judgements and vectors of passages that are left out."""

    def __init__(self, folder: Path, passages: int | None, shuffle: bool) -> None:
        info: dict[str, Any] = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        self.name = info["name"]
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        lengths = np.diff(np.load(folder / "offsets.npy"))
        order = np.arange(len(lengths))
        if shuffle:
            np.random.default_rng(0).shuffle(order)
        self.order = order[:passages]
        self.starts = (np.cumsum(lengths) - lengths)[self.order]
        self.lengths = lengths[self.order]
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.doc_ids = [info["doc_ids"][i] for i in self.order]
        self.dim = self.vectors.shape[1]
        known = set(self.doc_ids)
        kept = {qid: {d: g for d, g in docs.items() if d in known} for qid, docs in info["qrels"].items()}
        self.qrels = {qid: docs for qid, docs in kept.items() if any(docs.values())}
        queries = zip(info["query_ids"], query_vectors(folder), strict=True)
        self.queries = {qid: rows for qid, rows in queries if qid in self.qrels}

    def passage(self, i: int) -> npt.NDArray[np.float32]:
        rows: npt.NDArray[np.float32] = self.vectors[self.starts[i] : self.starts[i] + self.lengths[i]]
        return rows.astype(np.float32)

    def part(self, start: int, stop: int) -> TokenEmbeddings:
        return TokenEmbeddings.from_list([self.passage(i) for i in range(start, stop)], self.dim)


def measure(path: Path, data: Data) -> dict[str, Any]:
    places = {doc_id: i for i, doc_id in enumerate(data.doc_ids)}
    with Searcher.open(path) as searcher:
        run = {
            qid: {hit.doc_id: hit.score for hit in searcher.search_embeddings(rows, k=100)}
            for qid, rows in data.queries.items()
        }
        now, error = searcher.snapshot, 0.0
        names = now.doc_ids(number for segment in now.segments for number in segment.owners.tolist())
        for segment in now.segments:
            for i, owner in enumerate(segment.owners.tolist()):
                rows = segment.decode(int(segment.offsets[i]), int(segment.offsets[i + 1]), now.codec)
                error += float(np.square(rows - data.passage(places[names[owner]])).sum())
    with Index.open(path) as index:
        info = index.info()
    return {
        "nDCG@10": round(evaluate(data.qrels, run)["nDCG@10"], 4),
        "error": round(error / info["tokens"], 4),
        "kind": info["kind"],
        "nlist": info["nlist"],
        "segments": info["segments"],
        "bytes/token": round(info["bytes_per_token"], 1),
        "MB": round(sum(info["bytes"].values()) / 1e6, 1),
    }


if __name__ == "__main__":
    main()
