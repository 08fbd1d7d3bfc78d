"""Bring your own token vectors (another encoder, image patches): store them, search them.

Run: python examples/own_vectors.py
"""

import tempfile
from pathlib import Path

import numpy as np

from latewood import Index, Searcher


def main(folder: Path) -> list[str]:
    """The doc_ids found for a noisy copy of page 17."""
    random = np.random.default_rng(0)
    pages = [random.standard_normal((30, 64)).astype(np.float32) for _ in range(50)]
    pages = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in pages]
    with Index.create(folder, dim=64) as index:
        names = [f"page {i}" for i in range(len(pages))]
        index.add_embeddings(names, pages)
    with Searcher.open(folder) as searcher:
        query = pages[17][:8] + 0.1 * random.standard_normal((8, 64)).astype(np.float32)
        hits = searcher.search_embeddings(query, k=3)
    for hit in hits:
        print(f"{hit.rank} {hit.score:.2f} {hit.doc_id}")
    return [hit.doc_id for hit in hits]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "pages.index")
