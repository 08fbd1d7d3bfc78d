"""Texts scored against a query, and token vectors of texts, as the encoder of an index makes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import anyio.from_thread
import numpy as np
import numpy.typing as npt

from encoder.arguments import did_you_mean, shown
from encoder.embeddings import TokenEmbeddings
from encoder.others import as_encoder
from encoder.tokenizer import LateTokenizer
from retriever.reranking import rerank_embeddings
from retriever.serving.errors import ProblemError
from retriever.serving.indexes import Served, Serving

__all__ = ["Scored", "encoded", "model_of", "scored", "shortened"]

AT_ONCE = 16  # texts that are encoded before it is asked whether anybody still waits


@dataclass(frozen=True)
class Scored:
    """A text by its place in what was given. score: as a search of the index gives. relevance: of the most that the
    query could get, 0 to 1."""

    index: int
    score: float
    relevance: float


class _TextEncoder(Protocol):
    tokenizer: LateTokenizer

    def encode_documents(self, texts: list[str], /) -> TokenEmbeddings: ...

    def encode_queries(self, texts: list[str], /) -> TokenEmbeddings: ...


def model_of(serving: Serving, name: str | None) -> Served:
    """The index whose encoder a client means: by the index's name or the encoder's; the first one if it names none."""
    for served in serving.values():
        if name in (None, served.name, served.snapshot.settings.encoder_name):
            return served
    known = {
        one
        for served in serving.values()
        for one in (served.name, served.snapshot.settings.encoder_name)
        if one
    }
    raise ProblemError(404, f"there is no model {shown(name)}; {did_you_mean(str(name), known)}")


def scored(served: Served, query: str, texts: Sequence[str]) -> tuple[list[Scored], int]:
    """All texts, best first, equal ones in the order given; and how many vectors that took. In a thread."""
    [vectors] = served.searcher.encode([query])
    most = float(np.linalg.norm(vectors, axis=1).sum())
    scores, tokens = np.zeros(len(texts), np.float64), len(vectors)
    for start, packed in _batches(served, texts, queries=False):
        tokens += len(packed.vectors)
        for one in rerank_embeddings(vectors, packed, sharpness=served.searcher.scoring.sharpness):
            scores[start + one.index] = max(
                one.score, -most
            )  # one without tokens has -inf, which JSON has not
    order = np.argsort(-scores, kind="stable")
    shares = np.clip(scores / (most or 1.0), 0.0, 1.0)
    return [Scored(int(i), float(scores[i]), float(shares[i])) for i in order], tokens


def encoded(served: Served, texts: Sequence[str], *, queries: bool) -> list[npt.NDArray[np.float32]]:
    """Token vectors of each text: (n_tokens, dim), of unit length. In a thread."""
    return [vectors for _, packed in _batches(served, texts, queries=queries) for vectors in packed]


def shortened(served: Served, texts: Sequence[str], tokens: int) -> list[str]:
    """Texts cut after so many tokens, markers not counted."""
    tokenizer = _encoder(served).tokenizer
    places = [tokenizer.places(text) for text in texts]
    return [
        text[: where[tokens - 1][1]] if len(where) > tokens else text
        for text, where in zip(texts, places, strict=True)
    ]


def _encoder(served: Served) -> _TextEncoder:
    return cast(_TextEncoder, as_encoder(served.searcher.encoder, "encode_documents", "encode_queries"))


def _batches(served: Served, texts: Sequence[str], *, queries: bool) -> Iterator[tuple[int, TokenEmbeddings]]:
    encoder = _encoder(served)
    encode = encoder.encode_queries if queries else encoder.encode_documents
    for start in range(0, len(texts), AT_ONCE):
        anyio.from_thread.check_cancelled()
        yield start, encode(list(texts[start : start + AT_ONCE]))
