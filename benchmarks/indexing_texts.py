"""Indexing texts against encoding the same texts with the same model: seconds by the wall and of processor time.

    python benchmarks/indexing_texts.py BEIR_FOLDER [--documents 1500] [--threads 2] [--turns 2]

Both in one process, turn about, with the bundled model and an index's defaults; the first 64 texts are encoded before
the clock starts. Prints each turn, then encoding's time over indexing's: what indexing keeps of the encoder's speed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from encoder import Encoder
from indexing import Index
from indexing.reading.corpus import read_source


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    documents = list(islice(read_source(given.source), given.documents))
    texts = [str(document["text"]) for document in documents]
    encoder = Encoder.load()
    encoder.encode_documents(texts[:64])

    def index() -> int:
        with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder) / "x", encoder) as made:
            made.add(documents)
            return made.n_tokens

    rows = []
    for _ in range(given.turns):
        own, tokens = timed(lambda: len(encoder.encode_documents(texts).vectors))
        whole, _ = timed(index)
        rows.append(own / whole)
        print(
            f"{tokens:,} tokens: encoding {own[0]:.1f} s ({own[1]:.1f} of processor time), "
            f"indexing {whole[0]:.1f} s ({whole[1]:.1f})",
            flush=True,
        )
    wall, cpu = np.median(rows, axis=0)
    print(f"indexing runs at {wall:.3f} of the encoder's own speed by the wall, {cpu:.3f} by processor time")


def timed(work: Callable[[], int]) -> tuple[np.ndarray, int]:
    started = np.array([time.perf_counter(), time.process_time()])
    found = work()
    return np.array([time.perf_counter(), time.process_time()]) - started, found


if __name__ == "__main__":
    main()
