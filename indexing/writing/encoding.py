"""Texts → passages: cut into windows, encoded, and put back together by document."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID, TokenEmbeddings
from encoder.errors import ArgumentError
from indexing.reading.windows import Windows
from indexing.settings import DocumentEncoder, IndexSettings
from indexing.writing.records import AddReport, Record, check_vectors

__all__ = ["Passages", "encode_records", "token_ids_of", "windows_of"]


@dataclass(frozen=True, eq=False)
class Passages:
    """A document's passages. vectors: (n_tokens, dim) float16, end to end. lengths: tokens of each, (n,). spans: where
    each stands in the text, (n, 2). token_ids: (n_tokens,), NO_ID where none is known. codes: (n_tokens, bytes) of
    `Codec.pack`, where the vectors are gone (`coded`)."""

    vectors: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int32]
    token_ids: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8] | None = None

    @property
    def cost(self) -> int:
        """What it takes of a commit's room: a passage without tokens takes some too."""
        return len(self.token_ids) + len(self.lengths)


def windows_of(encoder: DocumentEncoder, settings: IndexSettings) -> Windows | None:
    """How an index cuts what its encoder reads; None where a document is one passage."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if tokenizer is None:
        if isinstance(settings.window, int):
            raise ArgumentError(
                f"window={settings.window}, and {encoder.name!r} has no tokenizer; pass window=None"
            )
        return None
    return Windows.chosen(tokenizer, settings.window, settings.overlap)


def encode_records(
    encode: Callable[[list[str]], TokenEmbeddings],
    dim: int,
    windows: Windows | None,
    records: Sequence[Record],
) -> tuple[list[Passages], AddReport]:
    """The passages of each record's text, and their counts."""
    texts = [record.text or "" for record in records]
    spans = [windows.spans(text) if windows else [(0, len(text))] for text in texts]
    parts = [text[start:end] for text, own in zip(texts, spans, strict=True) for start, end in own]
    embeddings = encode(parts)
    owners = [record.doc_id for record, own in zip(records, spans, strict=True) for _ in own]
    check_vectors(embeddings, owners, dim)
    counts = AddReport(
        truncated=embeddings.truncated,
        windowed=sum(len(own) > 1 for own in spans),
        passages=len(parts),
        tokens=len(embeddings.vectors),
    )
    passages, first = [], 0
    half = embeddings.vectors.astype(np.float16)
    for own in spans:
        last = first + len(own)
        rows = slice(embeddings.offsets[first], embeddings.offsets[last])
        lengths, spans_of = embeddings.lengths[first:last], np.array(own, np.int32)
        passages.append(Passages(half[rows], lengths, spans_of, token_ids_of(embeddings, rows)))
        first = last
    return passages, counts


def token_ids_of(embeddings: TokenEmbeddings, rows: slice) -> npt.NDArray[np.int32]:
    """Of some rows; NO_ID where nothing is known."""
    if embeddings.token_ids is None:
        return np.full(rows.stop - rows.start, NO_ID, np.int32)
    return embeddings.token_ids[rows]
