"""Small stand-ins for tests: an encoder whose vectors come from a hash of each word."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings

__all__ = ["FakeEncoder"]


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
