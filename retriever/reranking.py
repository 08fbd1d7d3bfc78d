"""Ranking of candidates that the user brings: texts, or token vectors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_integer, as_strings, as_vectors, known_keywords
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS, check_sharpness, maxsim_arrays
from encoder.others import as_encoder

__all__ = ["Ranked", "rerank", "rerank_embeddings"]


class TextEncoder(Protocol):
    """What reranking asks of an encoder; `encoder.Encoder` is one."""

    def encode_queries(self, texts: list[str], /) -> TokenEmbeddings: ...

    def encode_documents(self, texts: list[str], /) -> TokenEmbeddings: ...


@dataclass(frozen=True)
class Ranked:
    """A candidate: its index in what was given, and its score."""

    index: int
    score: float


@known_keywords
def rerank(
    encoder: TextEncoder,
    query: str,
    texts: Iterable[str],
    *,
    k: int | None = None,
    sharpness: float = SHARPNESS,
) -> list[Ranked]:
    """Texts by MaxSim with a query, best first, equal ones in the order given; the k best, or all.

    sharpness: as in `Searcher`; 0 for plain MaxSim. Texts are cut at the encoder's document_length. One without
    tokens comes last, with -inf.
    """
    if not isinstance(query, str):
        raise ArgumentError(f"query is {type(query).__name__}; pass a string")
    encoder = as_encoder(encoder, "encode_queries", "encode_documents")
    given = as_strings(texts, "texts")
    vectors, passages = encoder.encode_queries([query])[0], encoder.encode_documents(given)
    return rerank_embeddings(vectors, passages, k=k, sharpness=sharpness)


@known_keywords
def rerank_embeddings(
    query: npt.NDArray[np.float32],
    passages: TokenEmbeddings | Iterable[npt.ArrayLike],
    *,
    k: int | None = None,
    sharpness: float = 0.0,
) -> list[Ranked]:
    """As `rerank`, for vectors, of any one encoder: query (n_query, dim), passages (n_tokens, dim) each, or packed."""
    k = None if k is None else as_integer(k, "k", 1)
    vectors = as_vectors(query, "query")
    packed = TokenEmbeddings.of(passages, "passages", vectors.shape[1])
    scores = maxsim_arrays(vectors, packed.vectors, packed.offsets, check_sharpness(sharpness))
    order = np.argsort(-scores, kind="stable")[:k]
    return [Ranked(int(i), float(scores[i])) for i in order]
