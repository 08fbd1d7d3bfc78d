"""Which passage token each query token of a hit matched, and where it stands in the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from encoder.arguments import as_integer
from encoder.errors import ArgumentError
from encoder.maxsim import sharpened
from encoder.tokenizer import Token

__all__ = ["Explanation", "TokenEncoder", "TokenMatch", "Window", "explain"]

Floats = npt.NDArray[np.float32]
WINDOW = 64  # passage tokens


class TokenEncoder(Protocol):
    """What explaining asks of an encoder beyond vectors; `encoder.Encoder` is one."""

    def query_tokens(self, text: str, /) -> list[Token]: ...

    def document_tokens(self, text: str, /) -> list[Token]: ...


@dataclass(frozen=True)
class TokenMatch:
    """A query token and its best passage token. score: what it adds to the passage's. span: where the passage token
    stands, text[start:stop]; None for markers. line: counted from 1 in the file that a passage of code is
    from, else in the passage. query_token: None where the query came as vectors."""

    query_token: str | None
    passage_token: str
    score: float
    span: tuple[int, int] | None
    line: int | None


@dataclass(frozen=True)
class Window:
    """A stretch of a passage, text[start:stop], its lines as in TokenMatch, and its own score."""

    start: int
    stop: int
    first_line: int
    last_line: int
    score: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a passage has its score.

    similarity: (n_query, n_tokens) float32, dot products of query tokens and the passage's stored vectors, as they
    count in the score (`encoder.maxsim.sharpened`).
    query_tokens: texts, (n_query,), None where the query came as vectors. passage_tokens: (n_tokens,).
    start_line: number of the text's first line.
    """

    text: str
    similarity: Floats
    query_tokens: Sequence[str | None]
    passage_tokens: Sequence[Token]
    start_line: int = 1

    @cached_property
    def matches(self) -> list[TokenMatch]:
        """One for each query token; their scores add up to the passage's."""
        found = []
        for name, row in zip(self.query_tokens, self.similarity, strict=True):
            best = int(row.argmax())
            token = self.passage_tokens[best]
            line = None if token.span is None else self.line(token.span[0])
            found.append(TokenMatch(name, token.text, float(row[best]), token.span, line))
        return found

    @property
    def score(self) -> float:
        """That of the query and the passage."""
        return float(sum(match.score for match in self.matches))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The matched stretches of the text in its order, each once."""
        return sorted({match.span for match in self.matches if match.span is not None})

    def line(self, position: int) -> int:
        """Line of a character of the text."""
        return self.start_line + self.text.count("\n", 0, position)

    def best_window(self, tokens: int = WINDOW) -> Window:
        """The stretch of at most so many tokens that scores best by itself; of equal ones the first.

        Raises ArgumentError where the passage has no token that stands in its text.
        """
        tokens = as_integer(tokens, "tokens", 1)
        at = [i for i, token in enumerate(self.passage_tokens) if token.span is not None]
        if not at:
            raise ArgumentError("the passage has no token with a place in its text; there is no window")
        tokens = min(tokens, len(at))
        best = sliding_max(self.similarity[:, at], tokens).sum(axis=0)
        first = int(best.argmax())
        spans = [span for i in at[first : first + tokens] if (span := self.passage_tokens[i].span)]
        start, stop = spans[0][0], max(stop for _, stop in spans)
        return Window(start, stop, self.line(start), self.line(stop - 1), float(best[first]))


def sliding_max(rows: Floats, width: int) -> Floats:
    """Maximum of every `width` neighbours: (n, m) -> (n, m - width + 1), in log2(width) passes."""
    out, covered = rows, 1
    while covered < width:
        step = min(covered, width - covered)
        out = np.maximum(out[:, :-step], out[:, step:])
        covered += step
    return out


def explain(
    encoder: object,
    query: str | None,
    query_vectors: Floats,
    text: str,
    passage_vectors: Floats,
    *,
    doc_id: str,
    start_line: int = 1,
    sharpness: float = 0.0,
) -> Explanation:
    """Match a query's vectors (n_query, dim) with a passage's (n_tokens, dim), and name both sides' tokens.

    query: None where only its vectors are known. Raises ArgumentError where tokens cannot be named: the
    encoder does not tell them, or cuts the text otherwise than when it was indexed.
    """
    if not (hasattr(encoder, "query_tokens") and hasattr(encoder, "document_tokens")):
        raise ArgumentError(
            f"the encoder {getattr(encoder, 'name', encoder)!r} does not tell its tokens; "
            "give it query_tokens and document_tokens, as encoder.Encoder has them"
        )
    passage_tokens = encoder.document_tokens(text)
    if len(passage_tokens) != len(passage_vectors):
        raise ArgumentError(
            f"{doc_id!r} has {len(passage_vectors)} stored vectors and {len(passage_tokens)} tokens; "
            "open the searcher with the document_length and skiplist_words it was indexed with"
        )
    if len(passage_vectors) == 0:
        raise ArgumentError(f"{doc_id!r} has no token, so there is nothing to explain")
    names: list[str | None] = [None] * len(query_vectors)
    if query is not None:
        names = [token.text for token in encoder.query_tokens(query)]
        if len(names) != len(query_vectors):
            raise ArgumentError(f"the query has {len(query_vectors)} vectors and {len(names)} tokens")
    products = torch.from_numpy(np.asarray(query_vectors @ passage_vectors.T, dtype=np.float32))
    norms = torch.from_numpy(query_vectors).norm(dim=1, keepdim=True)  # (n_query, 1)
    similarity = sharpened(products, norms, sharpness).numpy()  # (n_query, n_tokens)
    return Explanation(text, similarity, names, passage_tokens, start_line)
