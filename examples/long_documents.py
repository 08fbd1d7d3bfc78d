"""Add long documents as they are, search them, see which part of each speaks for it.

Run: python examples/long_documents.py
"""

import tempfile
from pathlib import Path

from latewood import Encoder, Index, Searcher

DOCS = Path(__file__).parent.parent / "docs"


def main(folder: Path) -> list[str]:
    """The documents found, one hit each."""
    encoder = Encoder.load(
        document_length=512
    )  # of 8,192 that it can read; longer documents have several passages
    with Index.create(folder, encoder) as index:
        index.add(
            {"doc_id": path.name, "text": path.read_text("utf-8")}
            for path in sorted((DOCS / "guides").glob("*.md"))
        )
        print(f"{len(index)} documents in {index.n_passages} passages")
    with Searcher.open(folder, encoder) as searcher:
        hits = searcher.search("which characters of a filter become SQL?", k=3)
    for hit in hits:
        part = hit.passage
        assert part is not None  # None only for a document without a text
        print(f"{hit.doc_id} ({hit.score:.2f}), lines {part.first_line}-{part.last_line}: {part.text[:60]!r}")
    return [hit.doc_id for hit in hits]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "docs.index")
