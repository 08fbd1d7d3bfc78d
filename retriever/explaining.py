"""Which passage token each query token of a hit matched, and where it stands in the text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_integer
from encoder.errors import ArgumentError
from encoder.maxsim import sharpened_array
from encoder.tokenizer import Token
from indexing import Document

__all__ = ["Explanation", "TokenMatch", "Window", "explain", "start_line"]

Floats = npt.NDArray[np.float32]
WINDOW = 64  # passage tokens
MATCHES = 8  # that are printed


@dataclass(frozen=True)
class TokenMatch:
    """A query token and its best passage token. score: what it adds to the passage's. span: where the passage token
    stands in the document, text[start:stop]; None for markers. line: counted from 1 in the document, or in the file
    that a chunk of code is from. query_token: None where the query came as vectors."""

    query_token: str | None
    passage_token: str
    score: float
    span: tuple[int, int] | None
    line: int | None


@dataclass(frozen=True)
class Window:
    """A stretch of a passage, text[start:stop] of the document, its lines as in TokenMatch, and its own score."""

    start: int
    stop: int
    first_line: int
    last_line: int
    score: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a passage has its score.

    text: the document's. similarity: (n_query, n_tokens) float32, dot products of query tokens and the passage's
    stored vectors, as they count in the score (`encoder.maxsim.sharpened`).
    query_tokens: texts, (n_query,), None where the query came as vectors. passage_tokens: (n_tokens,), their spans in
    the document. start_line: number of the text's first line. `print` shows the matches that count most.
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

    def __str__(self) -> str:
        best = sorted(self.matches, key=lambda match: -match.score)
        lines = [f"{self.score:.2f} from {len(best)} tokens of the query, the best first:"]
        for match in best[:MATCHES]:
            place = "" if match.line is None else f" (line {match.line})"
            lines.append(f"{match.score:6.3f}  {match.query_token or '?'} → {match.passage_token}{place}")
        if len(best) > MATCHES:
            lines.append(f"{sum(match.score for match in best[MATCHES:]):6.3f}  {len(best) - MATCHES} others")
        return "\n".join(lines)

    __repr__ = __str__

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
    query: tuple[str | None, Floats],
    document: Document,
    span: tuple[int, int],
    vectors: Floats,
    sharpness: float,
) -> Explanation:
    """Match a query's vectors (n_query, dim) with those of a document's passage (n_tokens, dim), and name the tokens.

    query: its text, or None where only its vectors are known, and these. span: of the passage in the document's text.
    Raises ArgumentError where tokens cannot be named: the encoder does not tell them, or cuts the text otherwise than
    when it was indexed.
    """
    if not (hasattr(encoder, "query_tokens") and hasattr(encoder, "document_tokens")):
        raise ArgumentError(
            f"the encoder {getattr(encoder, 'name', encoder)!r} does not tell its tokens; "
            "give it query_tokens and document_tokens, as encoder.Encoder has them"
        )
    assert document.text is not None
    start, stop = span
    tokens = encoder.document_tokens(document.text[start:stop])
    if len(tokens) != len(vectors):
        raise ArgumentError(
            f"{document.doc_id!r} has {len(vectors)} stored vectors and {len(tokens)} tokens; "
            "open the searcher with the document_length and skiplist_words it was indexed with"
        )
    if len(vectors) == 0:
        raise ArgumentError(f"{document.doc_id!r} has no token, so there is nothing to explain")
    placed = [
        t if t.span is None else replace(t, span=(start + t.span[0], start + t.span[1])) for t in tokens
    ]
    text, query_vectors = query
    names: list[str | None] = [None] * len(query_vectors)
    if text is not None:
        names = [token.text for token in encoder.query_tokens(text)]
        if len(names) != len(query_vectors):
            raise ArgumentError(f"the query has {len(query_vectors)} vectors and {len(names)} tokens")
    products = np.asarray(query_vectors @ vectors.T, dtype=np.float32)
    norms = np.linalg.norm(query_vectors, axis=1, keepdims=True)  # (n_query, 1)
    similarity = sharpened_array(products, norms, sharpness)  # (n_query, n_tokens)
    return Explanation(document.text, similarity, names, placed, start_line(document.metadata))


def start_line(metadata: dict[str, Any]) -> int:
    """Number of a document's first line: 1, or in its file where the metadata tell it, as those of code do."""
    line = metadata.get("start_line")
    return line if isinstance(line, int) and not isinstance(line, bool) else 1
