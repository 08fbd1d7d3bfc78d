"""What an answer costs before its vectors: `add(encode=False)` against `add`, the same short texts, in one run.

python benchmarks/texts_first.py [--texts 20000]
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from encoder import Encoder
from indexing import Index

WORDS = Path(__file__).read_text(encoding="utf-8").split()


def seconds(folder: Path, encoder: Encoder, texts: list[str], encode: bool) -> float:
    """Of adding all texts to a new index."""
    with Index.create(folder, encoder) as index:
        start = time.perf_counter()
        index.add(({"doc_id": str(i), "text": text} for i, text in enumerate(texts)), encode=encode)
        return time.perf_counter() - start


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000)
    count = parser.parse_args().texts
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(WORDS, k=12)) for _ in range(count)]
    encoder = Encoder.load()
    encoder.encode_documents(texts[:8])  # What is made once is made.
    with tempfile.TemporaryDirectory() as place:
        words = seconds(Path(place, "words"), encoder, texts, False)
        print(f"add(encode=False) of {count:,} texts of 12 words: {words:.2f} s", flush=True)
        vectors = seconds(Path(place, "vectors"), encoder, texts, True)
        print(f"add: {vectors:.2f} s, {vectors / words:.1f} times as long", flush=True)


if __name__ == "__main__":
    main()
