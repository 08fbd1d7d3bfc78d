"""For the tests of indexes: an encoder whose vectors come from a hash of each word, and a dict as oracle."""

import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings
from indexing import Index, Snapshot
from indexing.writing.encoding import windows_of

__all__ = [
    "DIM",
    "WORDS",
    "FakeEncoder",
    "FakeTokenizer",
    "assert_equals",
    "bm25",
    "contents",
    "corpus",
    "fusion",
    "passages",
    "record",
    "stored",
    "texts_of",
]

Vectors: TypeAlias = npt.NDArray[np.float32]

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
        gives_ids: bool = False,
    ) -> None:
        """gives_ids: of tokens, as `Encoder` does."""
        self.dim = dim
        self.gives_ids = gives_ids
        self.name = name
        self.document_length = document_length
        self.query_length = 32
        self.seed = seed
        self.fingerprint = hashlib.sha256(f"{name} {dim} {seed}".encode()).hexdigest()
        self.load_arguments: dict[str, Any] = {"name": name, "document_length": document_length}
        self.encoded: list[str] = []
        if windows:
            self.tokenizer = FakeTokenizer(document_length)

    def encode_documents(self, texts: Sequence[str]) -> TokenEmbeddings:
        self.encoded += texts
        return self._encode(texts, self.document_length)

    def encode_queries(self, texts: Sequence[str]) -> TokenEmbeddings:
        return self._encode(texts, self.query_length)

    def token_id(self, word: str) -> int:
        return zlib.crc32(word.encode()) >> 1

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
        ids = [self.token_id(word) for some in words for word in some[:length]]
        given = np.array(ids, np.int32) if self.gives_ids else None
        return TokenEmbeddings(packed.vectors, packed.offsets, truncated, given)


def record(number: int, text: str, **metadata: Any) -> dict[str, Any]:
    return {"doc_id": f"d{number}", "text": text, "metadata": metadata}


def corpus(n: int, words: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [record(i, " ".join(random.choice(WORDS, words)), n=i) for i in range(n)]


def passages(index: Index | Snapshot) -> dict[str, list[tuple[tuple[int, int], Vectors]]]:
    """doc_id → span and decoded vectors of each of its passages, in the order of its text: of what is encoded, as the
    index shows it."""
    now = index if isinstance(index, Snapshot) else index._now
    parts: dict[int, list[tuple[tuple[int, int], Vectors]]] = {}
    for segment, live in zip(now.segments, now.lives, strict=True):
        for i in np.flatnonzero(live):
            vectors = segment.decode(int(segment.offsets[i]), int(segment.offsets[i + 1]), now.codec)
            start, end = segment.spans[i].tolist()
            parts.setdefault(int(segment.owners[i]), []).append(((start, end), vectors))
    names = now.doc_ids(parts)
    assert names.keys() == parts.keys()
    assert len(now) == len(parts) + now.n_unencoded
    assert now.n_tokens == sum(len(vectors) for own in parts.values() for _, vectors in own)
    assert now.n_passages == sum(map(len, parts.values()))
    return {names[number]: own for number, own in parts.items()}


def contents(index: Index | Snapshot) -> dict[str, tuple[str | None, dict[str, Any], Vectors]]:
    """doc_id → text, metadata, decoded vectors of all its passages, of what is encoded."""
    found = {
        doc_id: (index[doc_id].text, index[doc_id].metadata, np.concatenate([vectors for _, vectors in own]))
        for doc_id, own in passages(index).items()
    }
    assert {document.doc_id for document in index} == set(index.ids()) >= found.keys()
    return found


def stored(index: Index | Snapshot) -> dict[str, tuple[str | None, dict[str, Any], bool]]:
    """doc_id → text, metadata, whether it is encoded: of every document, in the order of adding."""
    encoded = passages(index).keys()
    return {d.doc_id: (d.text, d.metadata, d.doc_id in encoded) for d in index}


def texts_of(
    state: dict[str, tuple[str, dict[str, Any], bool]], encoder: FakeEncoder
) -> tuple[dict[str, tuple[str, dict[str, Any]]], FakeEncoder, list[str]]:
    """What `assert_equals` takes, of a model that also says what is encoded, as `stored` does."""
    return {k: v[:2] for k, v in state.items()}, encoder, [k for k, v in state.items() if not v[2]]


def assert_equals(
    index: Index | Snapshot,
    model: dict[str, tuple[str, dict[str, Any]]],
    encoder: FakeEncoder,
    unencoded: Iterable[str] = (),
) -> None:
    """The index holds the model's texts and metadata, and of all but `unencoded` the vectors of every window."""
    assert stored(index) == {k: (*value, k not in set(unencoded)) for k, value in model.items()}
    windows = windows_of(encoder, index.settings)
    for doc_id, own in passages(index).items():
        text = model[doc_id][0]
        assert [span for span, _ in own] == (windows.spans(text) if windows else [(0, len(text))])
        for (start, end), vectors in own:
            # Few distinct words, whose components differ by .3: a codec, too, gives each of them nearly back.
            expected = np.array([encoder.word(word) for word in text[start:end].split()]).reshape(-1, DIM)
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=5e-2)


def bm25(query: str, texts: dict[str, str]) -> dict[str, float]:
    """{doc_id: score} of the texts that have a word of the query, by Lucene's formula (k1 1.2, b 0.75)."""
    words = {doc_id: text.split() for doc_id, text in texts.items()}
    mean = sum(map(len, words.values())) / max(len(words), 1)
    scores: Counter[str] = Counter()
    for word in set(query.split()):
        having = [doc_id for doc_id in words if word in words[doc_id]]
        idf = math.log(1 + (len(words) - len(having) + 0.5) / (len(having) + 0.5))
        for doc_id in having:
            tf = words[doc_id].count(word)
            norm = 1.2 * (1 - 0.75 + 0.75 * len(words[doc_id]) / mean)
            scores[doc_id] += idf * tf * 2.2 / (tf + norm)
    return scores


def fusion(
    late: dict[str, float], lexical: dict[str, float], query: str, weights: tuple[float, float] = (1, 0.25)
) -> dict[str, float]:
    """{doc_id: score}: MaxSim and a share of the best MaxSim, weighted, words by the square root of their number too.
    Documents that late lacks count as its last."""
    best, least = max(late.values()), min(late.values())
    of_words = weights[1] * math.sqrt(len(set(query.split())) / 10)
    return {
        doc_id: weights[0] * late.get(doc_id, least)
        + of_words * abs(best) * lexical.get(doc_id, 0) / max(lexical.values(), default=1)
        for doc_id in {*late, *lexical}
    }
