"""What `Searcher.memory` counts, against every array that can be reached from a searcher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.light import LightEncoder
from indexing import Index
from retriever import Searcher
from tests.helpers.fakes import FakeEncoder


def held(root: Any) -> int:
    """Bytes of the arrays that belong to objects under root and to no mapped file, each counted once."""
    seen: set[int] = set()
    arrays: dict[int, int] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, str | int | float | type | Path):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            whole = one
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            if not isinstance(whole, np.memmap) and isinstance(
                whole.base, bytes | bytearray | memoryview | None
            ):
                arrays[id(whole)] = whole.nbytes
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif type(one).__module__.split(".")[0] in ("indexing", "retriever", "encoder"):
            waiting += vars(one).values() if hasattr(one, "__dict__") else ()
    return sum(arrays.values())


@pytest.mark.slow
def test_memory_counts_every_array_that_is_held(tmp_path: Path) -> None:
    encoder = FakeEncoder(dim=32, gives_ids=True)
    words = [f"word{i}" for i in range(400)]
    random = np.random.default_rng(0)
    with Index.create(tmp_path / "x", encoder, flat_tokens=5000) as index:
        index.add({"doc_id": str(i), "text": " ".join(random.choice(words, 40))} for i in range(200))
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        before = searcher.memory()
        counted = sum(before.values()) - before["word counts"]
        assert abs(counted - held(searcher.snapshot)) <= 0.02 * counted
        assert searcher.search("word1 word2")
        after = searcher.memory()
        counted = sum(after.values()) - after["word counts"]
        assert abs(counted - held(searcher.snapshot)) <= 0.02 * counted
        searcher.snapshot.document_frequencies(words)
        assert searcher.memory()["word counts"] > before["word counts"] + 400 * 50
    assert set(before) == {
        "centroids",
        "vocabulary ids",
        "codec",
        "live passages",
        "lists",
        "word counts",
        "words",
        "encoder",
    }
    # A search needs the centroids in bytes, as they are stored and side by side; no more.
    numbers = searcher.snapshot.codec.byte_centroids.numbers.nbytes
    assert before["live passages"] == 0 < after["live passages"]
    assert 2 * numbers <= after["centroids"] < 2.5 * numbers


@pytest.mark.slow
def test_weights_of_the_encoder_are_counted() -> None:
    encoder = LightEncoder.load()
    assert abs(encoder.nbytes - held(encoder.model)) <= 0.01 * encoder.nbytes
    table = encoder.model.weights["embeddings.tok_embeddings.weight"]
    assert table.dtype == np.float16  # as in the file
    assert encoder.nbytes < 1.5 * (encoder.model.weights["embeddings.tok_embeddings.weight"].nbytes * 2)
