"""PLAID's codec, in whose forms other libraries keep token vectors: a centroid, and a few bits a dimension.

A token decodes to centroids[code] + weights[bucket of each dimension], and by most libraries to that of unit length
(Santhanam et al. 2022, arXiv 2205.09707). Buckets lie in bytes, `nbits` a dimension, in numpy's packbits order with the
lowest bit of each bucket first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import CorpusError
from indexing.exchange.source import VectorSource, cut, packed
from indexing.storage.segment import token_places
from indexing.writing.given import VectorBatch

__all__ = ["Chunk", "Documents", "ResidualCodec", "plaid_source"]

SEPARATOR = "\n"  # between passages of which a document's text is put together
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    """centroids: (n, dim). weights: (2^nbits,), of the buckets. unit: whether what is decoded gets unit length."""

    centroids: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    unit: bool

    @classmethod
    def of(cls, centroids: Any, weights: Any, where: str, *, unit: bool) -> "ResidualCodec":
        """Raises CorpusError, naming the folder, for what is no codec of whole bytes."""
        centroids, weights = (np.asarray(array, np.float32) for array in (centroids, weights))
        fits = (
            centroids.ndim == 2 and len(centroids) and weights.ndim == 1 and len(weights) in (2, 4, 16, 256)
        )
        if not fits or centroids.shape[1] * (len(weights).bit_length() - 1) % 8:
            raise CorpusError(
                f"{where} has centroids of shape {centroids.shape} and {weights.shape} weights of buckets; "
                "give (n, dim) and 2, 4, 16 or 256"
            )
        if not (np.isfinite(centroids).all() and np.isfinite(weights).all()):
            raise CorpusError(f"{where} has centroids or weights that are not finite; copy the index again")
        return cls(centroids, weights, unit)

    @property
    def nbits(self) -> int:
        return len(self.weights).bit_length() - 1

    @property
    def row_bytes(self) -> int:
        return int(self.centroids.shape[1]) * self.nbits // 8

    def decode(self, codes: npt.NDArray[Any], residuals: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(n,) and (n, row_bytes) -> (n, dim)."""
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, -1, self.nbits)
        table = self.weights[(bits << np.arange(self.nbits)).sum(axis=2)]  # (256, buckets a byte)
        rows: npt.NDArray[np.float32] = self.centroids[codes]
        rows += table[residuals].reshape(rows.shape)
        if self.unit:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some passages. where: the files, for messages. pids: their numbers, (n,). lengths: tokens of each, (n,). read:
    codes (n_tokens,) and residuals (n_tokens, row_bytes), mapped. start: the row of the first token in these."""

    where: str
    pids: Ints
    lengths: Ints
    read: Callable[[], tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]
    start: int = 0


@dataclass(frozen=True, eq=False)
class Documents:
    """What a source says of its passages. pids: their numbers, those of a document one behind another, (n_passages,).
    doc_ids: None where the numbers are all that there is. counts: passages of each document, (n,); None for one each.
    texts: by number. metadata: by doc_id."""

    pids: Ints
    doc_ids: Sequence[str] | None = None
    counts: Ints | None = None
    texts: Mapping[int, str] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def plaid_source(
    kind: str, codec: ResidualCodec, chunks: Sequence[Chunk], documents: Documents | None, **about: Any
) -> VectorSource:
    """documents: None where passages have no other names than their numbers. about: of the VectorSource.

    Raises CorpusError, naming the files, where they do not fit each other.
    """
    places = _Places(codec, chunks)
    given = Documents(places.pids) if documents is None else documents
    counts = np.ones(len(given.pids), np.int64) if given.counts is None else given.counts
    own = places.of(given.pids)
    whole = np.ones(len(counts), np.bool_)
    whole[np.repeat(np.arange(len(counts)), counts)[own < 0]] = False
    lost = list(about.pop("lost", ()))
    if more := int((~whole).sum()):
        lost.append(f"{more:,} documents that the source names and has no vectors of")
    if more := int((~np.isin(places.pids, given.pids)).sum()):
        lost.append(
            f"the vectors of {more:,} passages that belong to no document of the source: it has deleted them"
        )
    if not whole.any():
        raise CorpusError(f"{chunks[0].where} has no documents; pass an index that holds some")
    own, counts, names = own[np.repeat(whole, counts)], counts[whole], np.flatnonzero(whole)
    starts = np.concatenate([[0], np.cumsum(counts)])

    def batches() -> Iterator[VectorBatch]:
        for first, last in cut(np.add.reduceat(places.lengths[own], starts[:-1])):
            here = own[starts[first] : starts[last]]
            numbers = [
                part.tolist()
                for part in np.split(places.pids[here], starts[first + 1 : last] - starts[first])
            ]
            doc_ids = [str(pids[0]) for pids in numbers]
            if given.doc_ids is not None:
                doc_ids = [given.doc_ids[i] for i in names[first:last].tolist()]
            texts = [_text(given, pids) for pids in numbers]
            yield VectorBatch(
                doc_ids,
                packed(places.decode(here), places.lengths[here]),
                [text for text, _ in texts],
                [given.metadata.get(doc_id) for doc_id in doc_ids],
                counts[first:last],
                np.array([span for _, spans in texts for span in spans], np.int32).reshape(-1, 2),
            )

    about |= {"lost": tuple(lost), "code_bytes": 4 + 16 * codec.nbits}  # a centroid's number, and bits
    return VectorSource(kind, codec.centroids.shape[1], batches, len(counts), **about)


def _text(documents: Documents, pids: Sequence[int]) -> tuple[str | None, list[tuple[int, int]]]:
    """A document's text, put together of its passages', and where each stands in it."""
    parts = [documents.texts.get(pid) for pid in pids]
    if any(part is None for part in parts):
        return None, [(0, 0)] * len(pids)
    spans, at = [], 0
    for part in parts:
        assert part is not None
        spans.append((at, at + len(part)))
        at += len(part) + len(SEPARATOR)
    return SEPARATOR.join(part for part in parts if part is not None), spans


class _Places:
    """Where the tokens of each passage lie. pids, lengths: of all chunks end to end."""

    def __init__(self, codec: ResidualCodec, chunks: Sequence[Chunk]) -> None:
        self.codec, self.chunks = codec, chunks
        none = np.zeros(0, np.int64)
        self.pids = np.concatenate([none, *(chunk.pids for chunk in chunks)])
        self.lengths = np.concatenate([none, *(chunk.lengths for chunk in chunks)])
        self.rows = np.concatenate(
            [none, *(chunk.start + np.cumsum(chunk.lengths) - chunk.lengths for chunk in chunks)]
        )
        self.chunk = np.repeat(np.arange(len(chunks)), [len(chunk.pids) for chunk in chunks])
        self._order = np.argsort(self.pids, kind="stable")
        for chunk in chunks:
            self._check(chunk)

    def _check(self, chunk: Chunk) -> None:
        codes, residuals = chunk.read()
        n = chunk.start + int(chunk.lengths.sum())
        if (
            codes.ndim != 1
            or codes.dtype.kind not in "iu"
            or residuals.dtype != np.uint8
            or (chunk.lengths < 0).any()
        ):
            raise CorpusError(
                f"{chunk.where} holds {codes.dtype} codes and {residuals.dtype} residuals; copy it again"
            )
        if len(codes) < n or residuals.shape[1:] != (self.codec.row_bytes,) or len(residuals) < n:
            raise CorpusError(
                f"{chunk.where} has codes of shape {codes.shape} and residuals of {residuals.shape} for {n:,} tokens "
                f"of {self.codec.row_bytes} bytes; copy the index again"
            )

    def of(self, pids: Ints) -> Ints:
        """The place of each, (n,) -> (n,); -1 where there is none."""
        at = np.searchsorted(self.pids, pids, sorter=self._order)
        found = (
            self._order[np.minimum(at, len(self._order) - 1)] if len(self._order) else np.full(len(pids), -1)
        )
        return np.where(self.pids[found] == pids, found, -1) if len(self._order) else found

    def decode(self, places: Ints) -> npt.NDArray[np.float32]:
        """The vectors of passages, end to end."""
        lengths = self.lengths[places]
        rows = token_places(self.rows[places], lengths)
        of = np.repeat(self.chunk[places], lengths)
        codes = np.empty(len(rows), np.int64)
        residuals = np.empty((len(rows), self.codec.row_bytes), np.uint8)
        for number in np.unique(of).tolist():
            here, (own, bits) = of == number, self.chunks[number].read()
            codes[here], residuals[here] = own[rows[here]], bits[rows[here]]
            if len(codes) and not 0 <= codes[here].min() <= codes[here].max() < len(self.codec.centroids):
                raise CorpusError(
                    f"{self.chunks[number].where} has a code beyond the {len(self.codec.centroids):,} centroids; copy "
                    "the index again"
                )
        return self.codec.decode(codes, residuals)
