"""Ranking of candidates that the user brings: texts, or token vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS, check_sharpness, maxsim

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


def rerank(
    encoder: TextEncoder,
    query: str,
    texts: Sequence[str],
    *,
    k: int | None = None,
    sharpness: float = SHARPNESS,
) -> list[Ranked]:
    """Texts by MaxSim with a query, best first, equal ones in the order given; the k best, or all.

    sharpness: as in `Searcher`; 0 for plain MaxSim. Texts are cut at the encoder's document_length. One without
    tokens comes last, with -inf.
    """
    if not isinstance(query, str) or isinstance(texts, str):
        raise ArgumentError("query must be a string and texts a list of strings")
    vectors, passages = encoder.encode_queries([query])[0], encoder.encode_documents(list(texts))
    return rerank_embeddings(vectors, passages, k=k, sharpness=sharpness)


def rerank_embeddings(
    query: npt.NDArray[np.float32],
    passages: TokenEmbeddings,
    *,
    k: int | None = None,
    sharpness: float = 0.0,
) -> list[Ranked]:
    """As `rerank`, for vectors: query (n_query, dim), and those of the passages, of any one encoder."""
    if k is not None and k < 1:
        raise ArgumentError(f"k={k}; pass k >= 1, or None for all")
    scores = maxsim(
        torch.from_numpy(np.array(query, dtype=np.float32)),
        torch.from_numpy(passages.vectors),
        torch.from_numpy(passages.offsets),
        check_sharpness(sharpness),
    ).numpy()
    order = np.argsort(-scores, kind="stable")[:k]
    return [Ranked(int(i), float(scores[i])) for i in order]
