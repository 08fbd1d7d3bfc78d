"""Documents whose vectors are given and not made by an encoder: batches of them, checked, as passages to store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_iterable, as_list, shown
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.progress import Progress, Told
from indexing.writing.encoding import Passages, token_ids_of
from indexing.writing.records import AddReport, Record, batches, check_vectors, given_record

__all__ = ["GivenVectors", "VectorBatch"]


@dataclass(frozen=True, eq=False)
class VectorBatch:
    """Documents with vectors of their own.

    embeddings: of their passages, end to end. texts, metadata: one a document, or None for none at all. counts:
    passages of each document, (n,); None for one each. A document of no passage is stored with its text, and its
    vectors are still to come. spans: where each passage stands in its document's text, (n_passages, 2); None for all of
    it.
    """

    doc_ids: Sequence[str]
    embeddings: TokenEmbeddings
    texts: Sequence[str | None] | None = None
    metadata: Sequence[Mapping[str, Any] | None] | None = None
    counts: npt.NDArray[np.int64] | None = None
    spans: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.doc_ids)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """First passage of each document, and one past the last: (n + 1,)."""
        return (
            np.concatenate([[0], np.cumsum(self.counts)])
            if self.counts is not None
            else np.arange(len(self) + 1)
        )

    @classmethod
    def made(
        cls,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[npt.ArrayLike],
        texts: Iterable[str | None] | None,
        metadata: Iterable[Mapping[str, Any] | None] | None,
        dim: int,
    ) -> "VectorBatch":
        """Of what a user passes, one passage each; each iterable is walked once."""
        ids = as_list(doc_ids, "doc_ids", "doc_ids")
        if not isinstance(embeddings, TokenEmbeddings):
            arrays = as_list(embeddings, "embeddings", f"(n_tokens, {dim}) arrays")
            embeddings = TokenEmbeddings.from_list(arrays, dim)
        return cls(
            ids,
            embeddings,
            None if texts is None else as_list(texts, "texts"),
            None if metadata is None else as_list(metadata, "metadata"),
        )


class GivenVectors:
    """What a writer asks for: the records of all batches, and the passages of those that it wants."""

    def __init__(self, given: Iterable[VectorBatch], dim: int, told: Told | None, total: int | None) -> None:
        self._given, self._dim = given, dim
        self._told, self._total = told, total
        self._batch = VectorBatch([], TokenEmbeddings(np.zeros((0, dim), np.float32), np.zeros(1, np.int64)))

    def records(self) -> Iterator[list[Record]]:
        """One batch is held at a time; a record's number is its place in it."""
        with Progress[VectorBatch](
            phase="storing", unit="document", told=self._told, total=self._total
        ) as bar:
            for batch in as_iterable(self._given, "batches", "VectorBatch"):
                if not isinstance(batch, VectorBatch):
                    raise ArgumentError(
                        f"batches has {shown(batch)} ({type(batch).__name__}); pass VectorBatch, as of open_vectors"
                    )
                self._batch = batch
                for some in batches(list(_checked(batch, bar.done, self._dim))):
                    yield some
                    bar.update(len(some))

    def passages(self, records: Sequence[Record], report: AddReport) -> list[Passages | None]:
        made = [self._passages(record) for record in records]
        for passages in made:
            if passages is not None:
                report.passages += len(passages.lengths)
                report.tokens += len(passages.vectors)
                report.windowed += len(passages.lengths) > 1
        return made

    def _passages(self, record: Record) -> Passages | None:
        batch = self._batch
        first, last = batch.starts[record.number : record.number + 2].tolist()
        if first == last:
            return None
        embeddings, whole = batch.embeddings, np.array([[0, len(record.text or "")]], np.int32)
        rows = slice(embeddings.offsets[first], embeddings.offsets[last])
        return Passages(
            embeddings.vectors[rows].astype(np.float16),
            embeddings.lengths[first:last],
            np.repeat(whole, last - first, axis=0) if batch.spans is None else batch.spans[first:last],
            token_ids_of(embeddings, rows),
        )


def _checked(batch: VectorBatch, before: int, dim: int) -> Iterator[Record]:
    """The records of a batch. before: documents of earlier ones, for messages."""
    n, starts = len(batch), batch.starts
    if len(starts) != n + 1 or starts[-1] != len(batch.embeddings):
        what = "embeddings" if batch.counts is None else "passages"
        raise ArgumentError(f"{len(batch.embeddings)} {what} for {n} doc_ids; pass one each")
    for name, column in (("texts", batch.texts), ("metadata", batch.metadata)):
        if column is not None and len(column) != n:
            raise ArgumentError(f"{len(column)} {name} for {n} doc_ids; pass one each")
    check_vectors(batch.embeddings, batch.doc_ids, dim, starts)
    texts = batch.texts or [None] * n
    metadata = batch.metadata or [None] * n
    rows, lengths = batch.embeddings.offsets[starts], batch.embeddings.lengths
    for i, (doc_id, text, own) in enumerate(zip(batch.doc_ids, texts, metadata, strict=True)):
        content = batch.embeddings.vectors[rows[i] : rows[i + 1]].tobytes()
        if batch.counts is not None:
            content += lengths[starts[i] : starts[i + 1]].tobytes()
        record = given_record(before + i, doc_id, text, own, content=content)
        _check_spans(batch, i, record)
        record.number = i
        yield record


def _check_spans(batch: VectorBatch, i: int, record: Record) -> None:
    if batch.spans is None:
        return
    spans = batch.spans[batch.starts[i] : batch.starts[i + 1]]
    most = len(record.text or "")
    if len(spans) and not (spans.min() >= 0 and spans.max() <= most and (spans[:, 0] <= spans[:, 1]).all()):
        raise ArgumentError(
            f"doc_id {record.doc_id!r} has a passage at {spans.tolist()} of a text of {most} characters; "
            "pass [start, end) within it"
        )
