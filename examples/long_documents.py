"""Cut long documents into windows, search them, see the best window of each document.

Run: python examples/long_documents.py
"""

import tempfile
from pathlib import Path

from retriever.ranking.folding import search_documents

from encoder import Encoder
from indexing import Index
from indexing.reading.windows import Windows
from retriever import Searcher

DOCS = Path(__file__).parent.parent / "docs"


def main(folder: Path) -> list[str]:
    """The documents found, one hit each."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    encoder = Encoder.load()
    windows = Windows(encoder.tokenizer, window=128, overlap=16)
    with Index.create(folder, encoder) as index:
        index.add(windows.cut({"doc_id": name, "text": text} for name, text in texts.items()))
    with Searcher.open(folder, encoder) as searcher:
        hits = search_documents(searcher, {"q": "which characters of a filter become SQL?"}, k=3)["q"]
    for hit in hits:
        start, end = hit.metadata["span"]
        assert texts[hit.doc_id][start:end] == hit.text
        print(f"{hit.doc_id} ({hit.score:.2f}), characters {start}-{end}: {(hit.text or '')[:60]!r}")
    return [hit.doc_id for hit in hits]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "docs.index")
