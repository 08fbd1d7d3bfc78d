"""sentence-transformers 6: an index made, searched and reranked by a MultiVectorEncoder, passed as it is.

Run: python examples/st_model_in_index.py    (extra: st)
"""

import tempfile
from pathlib import Path

from sentence_transformers import MultiVectorEncoder

from latewood import Encoder, Index, Searcher, rerank

TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
    "wood": "Late wood forms the dark part of a tree's ring.",
}


def main(folder: Path) -> list[str]:
    """The doc_ids found for a question, and the first of a reranking."""
    Encoder.load().save(folder / "model")  # the bundled model in float32, as their library reads it
    model = MultiVectorEncoder(str(folder / "model"), device="cpu")  # or a hub name
    with Index.create(folder / "docs.index", model) as index:
        index.add({"doc_id": i, "text": t} for i, t in TEXTS.items())
    with Searcher.open(folder / "docs.index", model) as searcher:
        hits = searcher.search("who sets the cost of borrowing?", k=2)
    for hit in hits:
        print(f"{hit.rank} {hit.score:.2f} {hit.doc_id}")
    best = rerank(model, "cardiac circulation", list(TEXTS.values()), k=1)[0]
    print(list(TEXTS)[best.index])
    return [*(hit.doc_id for hit in hits), list(TEXTS)[best.index]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
