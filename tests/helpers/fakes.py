"""For the tests of indexes: an encoder whose vectors come from a hash of each word, and a dict as oracle."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings
from indexing import Index

__all__ = ["DIM", "WORDS", "FakeEncoder", "assert_equals", "contents", "corpus", "record"]

DIM = 8
WORDS = [f"w{i}" for i in range(12)]


class FakeEncoder:
    """One random unit vector a word, the same wherever the word stands; counts what it encodes."""

    def __init__(
        self, dim: int = 32, *, name: str = "fake", document_length: int = 64, seed: int = 0
    ) -> None:
        self.dim = dim
        self.name = name
        self.document_length = document_length
        self.query_length = 32
        self.seed = seed
        self.fingerprint = hashlib.sha256(f"{name} {dim} {seed}".encode()).hexdigest()
        self.load_arguments: dict[str, Any] = {"name": name, "document_length": document_length}
        self.encoded: list[str] = []

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> TokenEmbeddings:
        self.encoded += texts
        return self._encode(texts, self.document_length)

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> TokenEmbeddings:
        return self._encode(texts, self.query_length)

    def word(self, word: str) -> npt.NDArray[np.float32]:
        """Vector of one word: (dim,), of unit length."""
        digest = hashlib.sha256(f"{self.seed} {word}".encode()).digest()
        vector = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def _encode(self, texts: Sequence[str], length: int) -> TokenEmbeddings:
        words = [text.split() for text in texts]
        packed = TokenEmbeddings.from_list(
            [np.array([self.word(w) for w in some[:length]]).reshape(-1, self.dim) for some in words],
            self.dim,
        )
        truncated = sum(len(some) > length for some in words)
        return TokenEmbeddings(packed.vectors, packed.offsets, truncated)


def record(number: int, text: str, **metadata: Any) -> dict[str, Any]:
    return {"doc_id": f"d{number}", "text": text, "metadata": metadata}


def corpus(n: int, words: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [record(i, " ".join(random.choice(WORDS, words)), n=i) for i in range(n)]


def contents(index: Index) -> dict[str, tuple[str | None, dict[str, Any], npt.NDArray[np.float32]]]:
    """doc_id → text, metadata, decoded vectors, by the interface that a searcher uses."""
    found = {}
    for segment in index.segments:
        local = np.flatnonzero(index.live(segment))
        for i, document in zip(
            local, index._store.documents([segment.pid_start + int(i) for i in local]), strict=True
        ):
            vectors = segment.decode(int(segment.offsets[i]), int(segment.offsets[i + 1]), index.codec)
            assert document.doc_id not in found
            found[document.doc_id] = (document.text, document.metadata, vectors)
    assert len(index) == len(found)
    assert index.n_tokens == sum(len(vectors) for _, _, vectors in found.values())
    return found


def assert_equals(index: Index, model: dict[str, tuple[str, dict[str, Any]]], encoder: FakeEncoder) -> None:
    found = contents(index)
    assert {doc_id: value[:2] for doc_id, value in found.items()} == model
    for doc_id, (text, _) in model.items():
        # Few distinct words: a codec, too, gives each of them back but for float16's rounding.
        expected = np.array([encoder.word(word) for word in text.split()]).reshape(-1, DIM)
        np.testing.assert_allclose(found[doc_id][2], expected, rtol=0, atol=5e-3)
