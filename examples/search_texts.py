"""Index a few texts, search them, replace one, delete one.

Run: python examples/search_texts.py
"""

import tempfile
from pathlib import Path

from latewood import Encoder, Index, Searcher

TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates to slow inflation.",
    "compiler": "A compiler translates source code into machine code.",
}


def main(folder: Path) -> list[str]:
    """The best document for each question, before and after the index changes."""
    encoder = Encoder.load()
    answers = []
    with Index.create(folder, encoder) as index:
        index.add({"doc_id": i, "text": t, "metadata": {"words": len(t.split())}} for i, t in TEXTS.items())
    with Searcher.open(folder, encoder) as searcher:
        for question in ("cardiac circulation", "monetary policy"):
            hit = searcher.search(question, k=1)[0]
            answers.append(hit.doc_id)
            print(f"{question}: {hit.doc_id} ({hit.score:.2f}) {hit.text} {hit.metadata}")
    with Index.open(folder, encoder, writable=True) as index:
        index.add([{"doc_id": "heart", "text": "The heart of the matter is trust."}])  # replaces
        index.delete(["bank"])
    with Searcher.open(folder, encoder) as searcher:
        hits = searcher.search("monetary policy", k=10)
        answers += [hit.doc_id for hit in hits]
        print("after the changes:", ", ".join(hit.doc_id for hit in hits))
    return answers


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "texts.index")
