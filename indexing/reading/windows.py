"""Long texts → overlapping windows, each short enough for the encoder."""

from dataclasses import dataclass
from typing import Literal, Protocol

from encoder.errors import ArgumentError

__all__ = ["TokenPlaces", "Windows"]

Span = tuple[int, int]  # [start, end) in characters

# Tokens, and the part that overlaps: what measured best (docs/guides/long-documents.md).
DEFAULT_WINDOW, DEFAULT_PART = 2048, 8


class TokenPlaces(Protocol):
    """What cutting asks of a tokenizer; `encoder.tokenizer.LateTokenizer` is one.

    document_length: tokens that are read of a text, of which n_special are markers.
    """

    @property
    def document_length(self) -> int: ...

    @property
    def n_special(self) -> int: ...

    def places(self, text: str, /) -> list[Span]:
        """Where each token of a text stands."""


@dataclass(frozen=True)
class Windows:
    """Cuts texts into windows of at most `window` tokens, special tokens included, that overlap by `overlap`.

    A window begins and ends at white space where there is some near. whole: texts of up to so many tokens stay as
    they are; `window` unless given.

    Raises ArgumentError for a window or `whole` longer than the encoder reads, a `whole` shorter than the window,
    or an overlap that is not below half of it.
    """

    tokenizer: TokenPlaces
    window: int
    overlap: int = 0
    whole: int | None = None

    def __post_init__(self) -> None:
        longest, special = self.tokenizer.document_length, self.tokenizer.n_special
        if not special + 2 <= self.window <= longest:
            raise ArgumentError(
                f"window={self.window}; pass {special + 2} to document_length={longest}, or raise that"
            )
        if self.whole is not None and not self.window <= self.whole <= longest:
            raise ArgumentError(f"whole={self.whole}; pass window={self.window} to document_length={longest}")
        if not 0 <= self.overlap <= self._room // 2:
            raise ArgumentError(f"overlap={self.overlap}; pass 0 to {self._room // 2}, half a window")

    @classmethod
    def chosen(
        cls, tokenizer: TokenPlaces, window: int | Literal["auto"] | None, overlap: int = 0
    ) -> "Windows | None":
        """By what `IndexSettings` asks for."""
        if window == "auto":
            longest = tokenizer.document_length
            size = min(DEFAULT_WINDOW, longest)
            return cls(tokenizer, size, size // DEFAULT_PART, whole=longest)
        return None if window is None else cls(tokenizer, window, overlap)

    def spans(self, text: str) -> list[Span]:
        """Each window's place; one of the whole text where it fits."""
        fits = (self.whole or self.window) - self.tokenizer.n_special
        if text.isascii() and len(text) <= fits:  # a token is a character at least
            return [(0, len(text))]
        places = self.tokenizer.places(text)
        if len(places) <= fits:
            return [(0, len(text))]
        spans, start, room = [], 0, self._room
        while True:
            end = min(start + room, len(places))
            if end < len(places):
                near = range(end, end - room // 4, -1)
                end = next((i for i in near if _begins_word(text, places[i][0])), end)
            # Cut out, a word may be read in more pieces than within its text.
            while end > start + 1 and self._too_long(text[places[start][0] : places[end - 1][1]]):
                end -= 1
            spans.append((places[start][0], places[end - 1][1]))
            if end == len(places):
                return spans
            again = range(max(end - self.overlap, start + 1), end)
            start = next((i for i in again if _begins_word(text, places[i][0])), end)

    @property
    def _room(self) -> int:
        return self.window - self.tokenizer.n_special

    def _too_long(self, text: str) -> bool:
        return len(self.tokenizer.places(text)) > self._room


def _begins_word(text: str, at: int) -> bool:
    return at == 0 or text[at].isspace() or text[at - 1].isspace()
