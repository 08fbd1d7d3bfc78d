"""For the tests of indexes: an encoder whose vectors come from a hash of each word, and a dict as oracle."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings
from indexing import Index

__all__ = ["DIM", "WORDS", "FakeEncoder", "FakeTokenizer", "assert_equals", "contents", "corpus", "record"]

DIM = 8
WORDS = [f"w{i}" for i in range(12)]


class FakeTokenizer:
    """Words are tokens, so that FakeEncoder's texts can be cut into windows."""

    n_special = 0

    def __init__(self, document_length: int) -> None:
        self.document_length = document_length

    def places(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]


class FakeEncoder:
    """One random unit vector a word, the same wherever the word stands; counts what it encodes."""

    def __init__(
        self,
        dim: int = 32,
        *,
        name: str = "fake",
        document_length: int = 64,
        seed: int = 0,
        windows: bool = False,
    ) -> None:
        self.dim = dim
        self.name = name
        self.document_length = document_length
        self.query_length = 32
        self.seed = seed
        self.fingerprint = hashlib.sha256(f"{name} {dim} {seed}".encode()).hexdigest()
        self.load_arguments: dict[str, Any] = {"name": name, "document_length": document_length}
        self.encoded: list[str] = []
        if windows:
            self.tokenizer = FakeTokenizer(document_length)

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
    """doc_id → text, metadata, decoded vectors of all its passages, by the interface that a searcher uses."""
    with index.snapshot() as now:
        parts: dict[int, list[npt.NDArray[np.float32]]] = {}
        for segment, live in zip(now.segments, now.lives, strict=True):
            for i in np.flatnonzero(live):
                vectors = segment.decode(int(segment.offsets[i]), int(segment.offsets[i + 1]), now.codec)
                parts.setdefault(int(segment.owners[i]), []).append(vectors)
        documents = now.documents(parts)
        assert documents.keys() == parts.keys()
        found = {
            documents[number].doc_id: (
                documents[number].text,
                documents[number].metadata,
                np.concatenate(vectors),
            )
            for number, vectors in parts.items()
        }
        assert len(now) == len(found) + now.n_unencoded
        assert now.n_tokens == sum(len(vectors) for _, _, vectors in found.values())
        assert now.n_passages == sum(map(len, parts.values()))
    assert {document.doc_id for document in index} == set(index.ids()) >= found.keys()
    return found


def assert_equals(index: Index, model: dict[str, tuple[str, dict[str, Any]]], encoder: FakeEncoder) -> None:
    found = contents(index)
    assert {doc_id: value[:2] for doc_id, value in found.items()} == model
    for doc_id, (text, _) in model.items():
        # Few distinct words: a codec, too, gives each of them back but for float16's rounding.
        expected = np.array([encoder.word(word) for word in text.split()]).reshape(-1, DIM)
        np.testing.assert_allclose(found[doc_id][2], expected, rtol=0, atol=5e-3)
