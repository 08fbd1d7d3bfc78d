"""LightEncoder (numpy) beside Encoder (torch) on one thread: tokens a second, ms a query, the largest difference.

    OMP_NUM_THREADS=1 python benchmarks/light.py [--pairs 7]

Turn by turn in one process, medians; the model is the bundled one, texts are random words of its vocabulary.
"""

import argparse
import random
import statistics
import time

import numpy as np

from encoder import Encoder
from encoder.light import LightEncoder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    settings = {"document_length": "max", "skiplist_words": ()}
    encoders = {"numpy": LightEncoder.load(**settings), "torch": Encoder.load(**settings, device="cpu")}
    words = [w for w in sorted(encoders["torch"].tokenizer.tokenizer.get_vocab()) if w.isalpha()]
    rng = random.Random(1)

    def texts(n: int, length: int) -> list[str]:
        return [" ".join(rng.choices(words, k=2 * length)) for _ in range(n)]

    cases = {"queries of 8 words, each alone": (texts(1, 4), 20)}
    for length, n in ((32, 128), (200, 40), (2048, 2), (8192, 1)):
        cases[f"documents of {length} tokens"] = texts(n, length), 1
    for name, (some, repeats) in cases.items():
        queries = name.startswith("queries")
        length = None if queries else int(name.split()[2])
        took: dict[str, list[float]] = {kind: [] for kind in encoders}
        vectors = {}
        for _ in range(pairs + 1):
            for kind, encoder in encoders.items():
                tokenizer = encoder.tokenizer
                if length is not None:
                    object.__setattr__(tokenizer.settings, "document_length", length)
                encode = encoder.encode_queries if queries else encoder.encode_documents
                start = time.perf_counter()
                for _ in range(repeats):
                    vectors[kind] = encode(some).vectors
                took[kind].append((time.perf_counter() - start) / repeats)
        best = {kind: statistics.median(times[1:]) for kind, times in took.items()}
        apart = np.abs(vectors["numpy"] - vectors["torch"]).max()
        if queries:
            shown = ", ".join(f"{kind} {1000 * t:.1f} ms" for kind, t in best.items())
        else:
            shown = ", ".join(f"{kind} {len(vectors[kind]) / t:,.0f} tokens/s" for kind, t in best.items())
        ratio = statistics.median(a / b for a, b in zip(took["torch"][1:], took["numpy"][1:], strict=True))
        print(f"{name}: {shown}; numpy at {ratio:.2f} of torch's speed, {apart:.1e} apart", flush=True)


if __name__ == "__main__":
    main()
