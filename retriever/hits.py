"""Hit: a document that a search found, with the passage that speaks for it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from encoder.errors import ArgumentError
from indexing.storage.fulltext import split_words, word_spans
from retriever.explaining import Explanation, start_line

__all__ = ["Hit", "Hits", "Passage"]

STRETCH = 1000  # characters of a passage that words alone have found


@dataclass(frozen=True)
class Passage:
    """A part of a document. text: the document's, from span[0] to span[1]. first_line, last_line: counted from 1 in the
    document, and in its file where its metadata have an integer `start_line`, as chunks of code do."""

    span: tuple[int, int]
    text: str
    first_line: int
    last_line: int

    @classmethod
    def of(cls, text: str, span: tuple[int, int], start_line: int = 1) -> "Passage":
        start, stop = span
        part = text[start:stop]
        first = start_line + text.count("\n", 0, start)
        return cls((start, stop), part, first, first + part.rstrip("\n").count("\n"))


@dataclass(frozen=True, repr=False)
class Hit:
    """A document found. rank counts from 1. score, by mode "late": MaxSim of the best passage, a sum over query
    tokens, so it grows with the query's length; "lexical": BM25; "hybrid": MaxSim and a share of the best for words.
    text, metadata: the document's. `passage` is the part that speaks for it, `explain()` tells why."""

    rank: int
    score: float
    doc_id: str
    text: str | None
    metadata: dict[str, Any]

    @property
    def passage(self) -> Passage | None:
        """The part that matched best: the passage by its vectors, or, where words alone found the document, the stretch
        of its text with most of the query's words. None where it has no text."""
        if self.text is None:
            return None
        span = self.__dict__.get("_span")
        if span is None:
            span = best_stretch(self.text, self.__dict__.get("_query") or "")
        return Passage.of(self.text, span, start_line(self.metadata))

    def explain(self) -> Explanation:
        """Which token of the passage each query token matched, its score, and where it stands in the document.

        The scores add up to MaxSim, which is this hit's score but in mode "hybrid". Raises ArgumentError for a
        hit of mode "lexical" and for what has no text or no encoder to name its tokens.
        """
        explainer: Callable[[], Explanation] | None = self.__dict__.get("_explainer")
        if explainer is None:
            raise ArgumentError(
                f"{self.doc_id!r} was found by words alone, or was copied; "
                'search with mode="late" or "hybrid" and explain what that returns'
            )
        return explainer()

    def with_context(
        self,
        span: tuple[int, int] | None,
        query: str | None,
        explainer: Callable[[], Explanation] | None,
    ) -> "Hit":
        """The hit with what `passage` and `explain` need."""
        # No fields: the explainer holds the index, and is no part of what equality, asdict and pickling see.
        self.__dict__.update(_span=span, _query=query, _explainer=explainer)
        return self

    def __repr__(self) -> str:
        text = self.text if self.text is None or len(self.text) <= 60 else self.text[:57] + "..."
        return (
            f"Hit(rank={self.rank}, score={self.score:.4f}, doc_id={self.doc_id!r}, text={text!r}, "
            f"metadata={self.metadata!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_explainer"}


class Hits(list[Hit]):
    """Hits, best first, and what was searched. documents: of the index; unencoded: of these, how many no vector could
    find yet (`Index.encode`). generation: of the commit, which counts up. missing: shards of a cluster that no machine
    answered for, so that nothing of theirs is here."""

    missing: tuple[str, ...] = ()

    def __init__(
        self, hits: Iterable[Hit] = (), documents: int = 0, unencoded: int = 0, generation: int = 0
    ) -> None:
        super().__init__(hits)
        self.documents = documents
        self.unencoded = unencoded
        self.generation = generation


def best_stretch(text: str, query: str, length: int = STRETCH) -> tuple[int, int]:
    """[start, end) of the stretch of at most about `length` characters with most of the query's words, the first of
    several. All of a text that is no longer."""
    if len(text) <= length:
        return 0, len(text)
    wanted = set(split_words(query).lower().split())
    found = [(start, stop, text[start:stop].lower()) for start, stop in word_spans(text, wanted)]
    found = [word for word in found if word[2] in wanted]
    best, chosen, first = 0, (0, length), 0
    counts: dict[str, int] = {}
    for _, stop, word in found:
        counts[word] = counts.get(word, 0) + 1
        while stop - found[first][0] > length:
            gone = found[first][2]
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
            first += 1
        if len(counts) > best:
            best, chosen = len(counts), (found[first][0], stop)
    return _widened(text, chosen, length)


def _widened(text: str, span: tuple[int, int], length: int) -> tuple[int, int]:
    spare = max(0, length - (span[1] - span[0]))
    start = max(0, span[0] - spare // 3)
    stop = min(len(text), start + max(length, span[1] - start))
    while 0 < start < span[0] and not text[start - 1].isspace():
        start += 1
    while stop < len(text) and stop > span[1] and not text[stop].isspace():
        stop -= 1
    return start, stop
