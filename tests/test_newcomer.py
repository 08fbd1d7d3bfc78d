"""Ten questions of a newcomer about this repository, asked of an index of its own packages."""

from itertools import chain
from pathlib import Path

import pytest

from encoder import Encoder
from indexing import Index
from indexing.reading.corpus import read_folder
from retriever.code.search import search_code
from retriever.searcher import Searcher

ROOT = Path(__file__).parent.parent
# Question → symbols any of which answers it.
QUESTIONS = {
    "How is the score of a query and a document computed?": {"maxsim", "score_flat", "score_compressed"},
    "Where are compressed vectors turned back into floats?": {"Segment.decode", "Codec.decode"},
    "How does it make sure that only one process writes to an index?": {"WriterLock", "WriterLock.__init__"},
    "Where are .gitignore files read?": {"_Ignore", "_Ignore.read", "_ignored", "_ignores_above"},
    "How are the rankings of BM25 and of vectors merged?": {"fused"},
    "Where is a markdown document split at its headings?": {"chunk_markdown", "_headings"},
    "How is a filter expression parsed into SQL?": {"parse_filter", "_Parser", "_Parser.filter", "Filter"},
    "Which texts go together into a batch by length?": {"length_sorted_batches", "pack", "PackedBatch"},
    "Where is the k-means codec trained?": {"Codec.train", "Writer.trained"},
    "How are identifiers cut into words for full-text search?": {"split_words"},
}
K = 10
# Measured 24 November 2026 with the bundled model; a modest floor below it, for models and code change.
FLOOR = 0.2


@pytest.mark.slow
def test_a_newcomer_finds_the_way(tmp_path: Path) -> None:
    encoder = Encoder.load()
    sources = (
        ({**p, "doc_id": f"{name}/{p['doc_id']}"} for p in read_folder(ROOT / name, exclude=["models/"]))
        for name in ("encoder", "indexing", "retriever")
    )
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(chain.from_iterable(sources))
    total = 0.0
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        for question, wanted in QUESTIONS.items():
            found = [hit.symbol for hit in search_code(searcher, question, k=K)]
            rank = next((rank for rank, symbol in enumerate(found, 1) if symbol in wanted), None)
            total += 1 / rank if rank else 0
            print(f"{rank or '-':>3}  {question}  {', '.join(found[:3])}")
    print(f"MRR@{K} {total / len(QUESTIONS):.4f}")
    assert total / len(QUESTIONS) > FLOOR
