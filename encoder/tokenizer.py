"""Text → token ids as ColBERT wants them: markers, query expansion, truncation, skiplist.

The steps and their order are PyLate's (`pylate.models.ColBERT.tokenize`), so that its checkpoints give
the vectors they were trained to give.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from encoder.errors import ArgumentError, CheckpointError

__all__ = ["LateTokenizer", "TokenizedTexts", "TokenizerSettings"]


@dataclass(frozen=True)
class TokenizerSettings:
    """The keys of PyLate's `config_sentence_transformers.json`, with PyLate's defaults.

    An empty prefix means that no marker token is inserted. Lengths count every token, markers included.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)


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

    def __init__(self, tokenizer: Tokenizer, settings: TokenizerSettings, *, mask_token: str = "[MASK]") -> None:
        # A saved tokenizer may pad or truncate by itself; lengths are ours to decide.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.settings = settings
        self.before, self.after = self._special_ids()
        for name in ("query_length", "document_length"):
            shortest = len(self.before) + len(self.after) + 2  # a marker and one token of text
            if getattr(settings, name) < shortest:
                raise ArgumentError(f"{name}={getattr(settings, name)} leaves no room for text; pass >= {shortest}")
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

    @property
    def vocab_size(self) -> int:
        """Ids run below this, added markers included."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    def queries(self, texts: Sequence[str]) -> TokenizedTexts:
        settings = self.settings
        ids, truncated = self._ids(texts, self.query_marker, settings.query_length)
        if not settings.do_query_expansion:
            return TokenizedTexts(ids, [len(i) for i in ids], None, truncated)
        full = [i + [self.expansion_id] * (settings.query_length - len(i)) for i in ids]
        seen = full if settings.attend_to_expansion_tokens else ids
        return TokenizedTexts(full, [len(i) for i in seen], None, truncated)

    def documents(self, texts: Sequence[str]) -> TokenizedTexts:
        ids, truncated = self._ids(texts, self.document_marker, self.settings.document_length)
        kept = [[t not in self.skiplist for t in i] for i in ids] if self.skiplist else None
        return TokenizedTexts(ids, [len(i) for i in ids], kept, truncated)

    def _ids(self, texts: Sequence[str], marker: list[int], length: int) -> tuple[list[list[int]], int]:
        """before + marker + text cut to fit + after. The marker comes second, behind CLS."""
        room = length - len(self.before) - len(marker) - len(self.after)
        first, rest = self.before[:1], self.before[1:]
        rows, truncated = [], 0
        for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            content = encoding.ids
            truncated += len(content) > room
            rows.append([*first, *marker, *rest, *content[:room], *self.after])
        return rows, truncated

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's own template puts before and after a text, CLS and SEP as a rule."""
        content = self.tokenizer.encode("a", add_special_tokens=False).ids
        whole = self.tokenizer.encode("a").ids
        for start in range(len(whole) - len(content) + 1):
            if whole[start : start + len(content)] == content:
                return whole[:start], whole[start + len(content) :]
        raise CheckpointError("tokenizer.json: its post-processor rewrites the text's own tokens; cannot be read")

    def _marker(self, prefix: str) -> list[int]:
        if not prefix:
            return []
        if self.tokenizer.token_to_id(prefix) is None:
            self.tokenizer.add_tokens([prefix])
        return [int(self.tokenizer.token_to_id(prefix))]

    def _skiplist(self, words: Sequence[str]) -> frozenset[int]:
        """Ids of single-token words. A word outside the vocabulary is left out: as UNK it would take
        every other unknown word of a document with it."""
        ids = {self.tokenizer.token_to_id(word) for word in words}
        return frozenset(int(i) for i in ids if i is not None)
