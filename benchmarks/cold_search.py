"""How long `latewood search INDEX QUERY` takes from nothing, beside Python that only imports numpy, numba, faiss and
tokenizers: on a flat and on a compressed index, by meaning and by words, in turns.

Run: python benchmarks/cold_search.py [--turns 7] [--texts 400]

Each is a process of its own, with the bytecode that Python keeps after a first run. What counts
is the ratio of the least times, which another program on the machine shifts
least; goals: by meaning at most 1.5 times the imports, by words at most 0.6 s.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from encoder import Encoder
from indexing import Index

IMPORTS = "import numpy, numba, faiss, tokenizers"
# Where bytecode may not be written, every start compiles the sources anew: 0.07 s.
KEEPING = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=KEEPING)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--texts", type=int, default=400)
    given = parser.parse_args()
    encoder = Encoder.load()
    with tempfile.TemporaryDirectory() as place:
        ways = {"imports": [sys.executable, "-c", IMPORTS]}
        for kind, flat_tokens in (("flat", 10**7), ("compressed", 300)):
            folder = Path(place) / kind
            with Index.create(folder, encoder, flat_tokens=flat_tokens) as index:
                index.add(
                    {"doc_id": f"d{i}", "text": f"passage {i} about hearts and banks, number {7 * i} of many"}
                    for i in range(given.texts)
                )
            for mode in ("late", "lexical"):
                command = [sys.executable, "-m", "retriever.cli", "search", str(folder), "hearts"]
                ways[f"{kind}, {mode}"] = [*command, "--mode", mode]
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(given.turns + 1):
            for way, command in ways.items():
                taken = seconds(command)
                if turn:  # the first one reads files that later ones find in memory
                    times[way].append(taken)
    for way, some in times.items():
        ratio = min(some) / min(times["imports"])
        print(f"{way:20s} least {min(some):.2f} s, median {statistics.median(some):.2f} s, {ratio:.2f} times")


if __name__ == "__main__":
    main()
