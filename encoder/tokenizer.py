"""Text → token ids as ColBERT wants them: markers, query expansion, truncation, skiplist.

The steps and their order are PyLate's (`pylate.models.ColBERT.tokenize`), so that its checkpoints give
the vectors they were trained to give. Two differences, both deliberate: a skiplist word outside the
vocabulary is left out, and whitespace around a text is cut for every kind of checkpoint, where
sentence-transformers 6 keeps it.
"""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from encoder.errors import ArgumentError, CheckpointError

if TYPE_CHECKING:  # a search by words knows of tokens, and makes none
    from tokenizers import Encoding, Tokenizer

__all__ = ["LateTokenizer", "Token", "TokenizedTexts", "TokenizerSettings"]


@dataclass(frozen=True)
class TokenizerSettings:
    """The keys of PyLate's `config_sentence_transformers.json`, with PyLate's defaults.

    An empty prefix means that no marker token is inserted. Lengths count every token, markers included.
    Beyond PyLate's keys:
    query_prompt, document_prompt: words before every text, such as "search_query: ".
    expansion_length: queries are expanded up to here and not beyond; None for query_length.
    do_lower_case: texts are lowercased before the tokenizer sees them.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)
    query_prompt: str = ""
    document_prompt: str = ""
    expansion_length: int | None = None
    do_lower_case: bool = False


@dataclass(frozen=True)
class Token:
    """A token that has a vector. span: where it stands in the text as given, text[start:stop]; None for
    markers, the tokenizer's own tokens, expansion, and words of the prompt."""

    text: str
    span: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """ids: token ids of each text. n_keys: how many of them may be attended to (the rest is expansion).
    kept: for each text, which positions keep their vector; None where all do. truncated: texts cut."""

    ids: list[list[int]]
    n_keys: list[int]
    kept: list[list[bool]] | None
    truncated: int


class LateTokenizer:
    """A `tokenizers.Tokenizer` and the settings that turn its ids into query and document inputs."""

    def __init__(
        self, tokenizer: Tokenizer, settings: TokenizerSettings, *, mask_token: str = "[MASK]"
    ) -> None:
        # A saved tokenizer may pad or truncate by itself; lengths are ours to decide.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.settings = settings
        self.before, self.after = self._special_ids()
        self._check_lengths()
        self.query_marker = self._marker(settings.query_prefix)
        self.document_marker = self._marker(settings.document_prefix)
        self.skiplist = self._skiplist(settings.skiplist_words)
        expansion = tokenizer.token_to_id(mask_token)
        if expansion is None and settings.do_query_expansion:
            raise CheckpointError(
                f"tokenizer.json has no {mask_token!r}, which query expansion pads with; "
                "name the mask_token in tokenizer_config.json or set do_query_expansion to false"
            )
        self.expansion_id = -1 if expansion is None else int(expansion)

    def with_query_length(self, query_length: int) -> LateTokenizer:
        """The same tokenizer for queries of another length. Raises ArgumentError for one without room."""
        other = copy.copy(self)
        other.settings = replace(self.settings, query_length=query_length)
        other._check_lengths()
        return other

    @property
    def vocab_size(self) -> int:
        """Ids run below this, added markers included."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def expansion_width(self) -> int:
        """Tokens that a query has at least, where expansion is on."""
        return min(self.settings.expansion_length or self.settings.query_length, self.settings.query_length)

    @property
    def document_length(self) -> int:
        """Tokens that are read of a document, special ones included."""
        return self.settings.document_length

    @property
    def n_special(self) -> int:
        """Tokens of a document that stand for no text."""
        return len(self.before) + len(self.document_marker) + len(self.after)

    def places(self, text: str) -> list[tuple[int, int]]:
        """[start, end) of each token of a text, in characters, however long it is."""
        return self.tokenizer.encode(text, add_special_tokens=False).offsets

    def queries(self, texts: Sequence[str]) -> TokenizedTexts:
        settings = self.settings
        ids, truncated = self._ids(texts, settings.query_prompt, self.query_marker, settings.query_length)
        if not settings.do_query_expansion:
            return TokenizedTexts(ids, [len(i) for i in ids], None, truncated)
        full = [i + [self.expansion_id] * (self.expansion_width - len(i)) for i in ids]
        seen = full if settings.attend_to_expansion_tokens else ids
        return TokenizedTexts(full, [len(i) for i in seen], None, truncated)

    def documents(self, texts: Sequence[str]) -> TokenizedTexts:
        settings = self.settings
        ids, truncated = self._ids(
            texts, settings.document_prompt, self.document_marker, settings.document_length
        )
        kept = [[t not in self.skiplist for t in i] for i in ids] if self.skiplist else None
        return TokenizedTexts(ids, [len(i) for i in ids], kept, truncated)

    def query_tokens(self, text: str) -> list[Token]:
        """The tokens whose vectors a query has, in their order."""
        settings = self.settings
        [ids] = self.queries([text]).ids
        return self._tokens(text, ids, settings.query_prompt, self.query_marker, settings.query_length)

    def document_tokens(self, text: str) -> list[Token]:
        """The tokens whose vectors are kept of a document, in their order."""
        settings, texts = self.settings, self.documents([text])
        tokens = self._tokens(
            text, texts.ids[0], settings.document_prompt, self.document_marker, settings.document_length
        )
        if texts.kept is None:
            return tokens
        return [token for token, kept in zip(tokens, texts.kept[0], strict=True) if kept]

    def _tokens(self, text: str, ids: list[int], prompt: str, marker: list[int], length: int) -> list[Token]:
        """ids: what `queries` or `documents` makes of the text; the text is cut into tokens once more."""
        whole = prompt + text
        places = _places(whole, self._clean(whole), self.settings.do_lower_case)
        encoding = self._encoded_with_offsets(self._clean(whole))
        spans: list[tuple[int, int] | None] = [None] * len(ids)
        room = length - len(self.before) - len(marker) - len(self.after)
        for i, (start, stop) in enumerate(encoding.offsets[:room], len(self.before)):
            if start < stop:
                a, b = places[start] - len(prompt), places[stop - 1] + 1 - len(prompt)
                while a < b - 1 and 0 <= a < len(text) and text[a].isspace():
                    a += 1  # byte-level vocabularies hold the space before a word in its token
                at = i + len(marker) if i >= 1 else i  # the marker has index 1
                spans[at] = (max(a, 0), b) if b > 0 else None
        names = [self.tokenizer.id_to_token(i) or "" for i in ids]
        return [Token(name, span) for name, span in zip(names, spans, strict=True)]

    def _ids(
        self, texts: Sequence[str], prompt: str, marker: list[int], length: int
    ) -> tuple[list[list[int]], int]:
        """before + text cut to fit + after, with the marker at index 1, behind CLS where there is one."""
        room = length - len(self.before) - len(marker) - len(self.after)
        rows, truncated = [], 0
        for encoding in self.encode([self._clean(prompt + text) for text in texts]):
            content = encoding.ids
            truncated += len(content) > room
            row = [*self.before, *content[:room], *self.after]
            rows.append([*row[:1], *marker, *row[1:]])
        return rows, truncated

    def _clean(self, text: str) -> str:
        """Outer whitespace goes, as PyLate has it: a byte-level vocabulary gives it tokens of its own."""
        text = text.strip()
        return text.lower() if self.settings.do_lower_case else text

    def encode(self, texts: list[str]) -> list[Encoding]:
        """The texts' own tokens, with nothing before or after."""
        try:
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # a lone surrogate, which UTF-8 has no bytes for; "?" is what str.encode puts there
            texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def _check_lengths(self) -> None:
        shortest = len(self.before) + len(self.after) + 2  # a marker and one token of text
        for name in ("query_length", "document_length"):
            if (length := getattr(self.settings, name)) < shortest:
                raise ArgumentError(f"{name}={length} leaves no room for text; pass >= {shortest}")

    def _encoded_with_offsets(self, text: str) -> Encoding:
        try:
            return self.tokenizer.encode(text, add_special_tokens=False)
        except TypeError:  # as in _encode
            text = text.encode("utf-8", "replace").decode("utf-8")
            return self.tokenizer.encode(text, add_special_tokens=False)

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's own template puts before and after a text, CLS and SEP as a rule."""
        content = self.tokenizer.encode("a", add_special_tokens=False).ids
        whole = self.tokenizer.encode("a").ids
        if not content:
            raise CheckpointError("tokenizer.json gives 'a' no token; such a vocabulary cannot be read")
        for start in range(len(whole) - len(content) + 1):
            if whole[start : start + len(content)] == content:
                return whole[:start], whole[start + len(content) :]
        raise CheckpointError(
            "tokenizer.json: its post-processor rewrites the text's own tokens; cannot be read"
        )

    def _marker(self, prefix: str) -> list[int]:
        if not prefix:
            return []
        if self.tokenizer.token_to_id(prefix) is None:
            self.tokenizer.add_tokens([prefix])
        marker = self.tokenizer.token_to_id(prefix)
        assert marker is not None
        return [int(marker)]

    def _skiplist(self, words: Sequence[str]) -> frozenset[int]:
        """Ids of single-token words. A word outside the vocabulary is left out: as UNK it would take
        every other unknown word of a document with it."""
        ids = {self.tokenizer.token_to_id(word) for word in words}
        return frozenset(int(i) for i in ids if i is not None)


def _places(text: str, cleaned: str, lowered: bool) -> list[int]:
    """For each character of a cleaned text where it stands in the text."""
    left = len(text) - len(text.lstrip())
    if not lowered or len(cleaned) == len(text.strip()):
        return list(range(left, left + len(cleaned)))
    # A few letters become two when lowered.
    return [left + i for i, letter in enumerate(text.strip()) for _ in letter.lower()]
