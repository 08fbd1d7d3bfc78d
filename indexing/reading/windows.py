"""Long documents → overlapping windows, each a passage that names its document."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from encoder.errors import ArgumentError
from encoder.tokenizer import LateTokenizer
from indexing.index import Index

__all__ = ["Windows"]

KEYS = ("parent", "window", "span")  # metadata of a window
# Tokens, and the part that overlaps: what measured best (docs/code-search.md).
DEFAULT_WINDOW, DEFAULT_PART = 2048, 8


@dataclass
class Windows:
    """Cuts documents into windows of at most `window` tokens, special tokens included, that overlap by `overlap`.

    A window begins and ends at white space where there is some near. whole: documents of up to so many tokens
    stay as they are; `window` unless given. counts: {doc_id: windows} of what was cut so far, 0 for a document
    that stays.

    Raises ArgumentError for a window or `whole` longer than the encoder reads, a `whole` shorter than the window,
    or an overlap that is not below half of it.
    """

    tokenizer: LateTokenizer
    window: int
    overlap: int = 0
    whole: int | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        longest = self.tokenizer.settings.document_length
        special = len(self.tokenizer.before) + len(self.tokenizer.document_marker) + len(self.tokenizer.after)
        if not special + 2 <= self.window <= longest:
            raise ArgumentError(
                f"window={self.window}; pass {special + 2} to document_length={longest}, or raise that"
            )
        if self.whole is not None and not self.window <= self.whole <= longest:
            raise ArgumentError(f"whole={self.whole}; pass window={self.window} to document_length={longest}")
        self.room = self.window - special
        self.fits = (self.whole or self.window) - special
        if not 0 <= self.overlap <= self.room // 2:
            raise ArgumentError(f"overlap={self.overlap}; pass 0 to {self.room // 2}, half a window")

    @classmethod
    def chosen(
        cls, tokenizer: LateTokenizer, window: int | Literal["auto"] | None, overlap: int = 0
    ) -> "Windows | None":
        """By what a user asks for. "auto": what the encoder reads stays whole, and what is longer, of which it
        would lose the rest, comes in windows of 2,048 tokens that overlap by 256, or shorter where it reads less.
        None: no windows."""
        if overlap and not isinstance(window, int):
            raise ArgumentError(f"overlap={overlap} without a window; pass window, or leave it out")
        if window == "auto":
            longest = tokenizer.settings.document_length
            size = min(DEFAULT_WINDOW, longest)
            return cls(tokenizer, size, size // DEFAULT_PART, whole=longest)
        return None if window is None else cls(tokenizer, window, overlap)

    @property
    def n_cut(self) -> int:
        """How many documents came in windows so far."""
        return sum(map(bool, self.counts.values()))

    def cut(self, passages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Windows of passages as `Index.add` takes them.

        A window has the doc_id `ID#N`, N from 1, and metadata `parent` (ID), `window` (N) and `span` ([start,
        end), characters of the document's text) besides the document's own.
        """
        for passage in passages:
            doc_id, text = passage["doc_id"], passage["text"]
            metadata = passage.get("metadata") or {}
            spans = self.spans(text)
            self.counts[doc_id] = len(spans) if len(spans) > 1 else 0
            if len(spans) <= 1:
                yield {"doc_id": doc_id, "text": text, "metadata": metadata}
                continue
            if taken := [key for key in KEYS if key in metadata]:
                raise ArgumentError(
                    f"doc_id {doc_id!r} has metadata {taken[0]!r}, which windows need; rename it"
                )
            for n, (start, end) in enumerate(spans, 1):
                own = {"parent": doc_id, "window": n, "span": [start, end]}
                yield {"doc_id": f"{doc_id}#{n}", "text": text[start:end], "metadata": {**metadata, **own}}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """[start, end) of each window in characters; one of the whole text where it fits."""
        if text.isascii() and len(text) <= self.fits:  # a token is a character at least
            return [(0, len(text))]
        offsets = self._offsets(text)
        if len(offsets) <= self.fits:
            return [(0, len(text))]
        spans = []
        start = 0
        while True:
            end = min(start + self.room, len(offsets))
            if end < len(offsets):
                near = range(end, end - self.room // 4, -1)
                end = next((i for i in near if _begins_word(text, offsets[i][0])), end)
            # Cut out, a word may be read in more pieces than within its text.
            while end > start + 1 and self._too_long(text[offsets[start][0] : offsets[end - 1][1]]):
                end -= 1
            spans.append((offsets[start][0], offsets[end - 1][1]))
            if end == len(offsets):
                return spans
            again = range(max(end - self.overlap, start + 1), end)
            start = next((i for i in again if _begins_word(text, offsets[i][0])), end)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        return self.tokenizer.tokenizer.encode(text, add_special_tokens=False).offsets

    def _too_long(self, text: str) -> bool:
        return len(self._offsets(text)) > self.room

    def drop_stale(self, index: Index) -> int:
        """Delete what earlier and longer versions of the documents in `counts` left in an index; how many."""
        stale = [doc_id for doc_id, n in self.counts.items() if n]
        some = any(number is not None for number in index.values("window"))
        for document in index.scan("window >= 1") if some else ():
            parent, number = str(document.metadata.get("parent")), document.metadata["window"]
            # By all that a window has, for others may use these keys for something of their own.
            if document.doc_id == f"{parent}#{number}" and number > self.counts.get(parent, number):
                stale.append(document.doc_id)
        return index.delete(stale)


def _begins_word(text: str, at: int) -> bool:
    return at == 0 or text[at].isspace() or text[at - 1].isspace()
