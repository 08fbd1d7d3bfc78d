"""A snapshot's documents with their vectors, batch by batch, as files and tables take them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from indexing.exchange.source import cut, packed
from indexing.storage.segment import Segment, token_places
from indexing.storage.snapshot import Selection, Snapshot
from indexing.writing.given import VectorBatch

__all__ = ["Shape", "blocks", "shape_of"]

PAGE = 256  # documents without vectors read at a time


@dataclass(frozen=True)
class Shape:
    """What a selection of a snapshot holds. token_ids: whether any are known. one_each: whether each document has just
    one passage. about: for whoever reads the vectors later."""

    documents: int
    passages: int
    tokens: int
    dim: int
    token_ids: bool
    one_each: bool
    about: dict[str, str]


def shape_of(snapshot: Snapshot, selection: Selection) -> Shape:
    pairs = list(zip(snapshot.segments, selection.lives, strict=True))
    settings = snapshot.settings
    about = {"format": "latewood-vectors-1", "encoder": json.dumps(settings.encoder)}
    if settings.encoder_fingerprint is not None:
        about["fingerprint"] = settings.encoder_fingerprint
    passages = sum(int(live.sum()) for _, live in pairs)
    documents = len(snapshot) if selection.documents is None else len(selection.documents)
    return Shape(
        documents,
        passages,
        sum(int(np.diff(segment.offsets)[live].sum()) for segment, live in pairs),
        settings.dim,
        any(_knows_ids(segment, snapshot) for segment in snapshot.segments),
        documents == passages and snapshot.one_each,
        about,
    )


def blocks(snapshot: Snapshot, selection: Selection) -> Iterator[VectorBatch]:
    """All that a selection has, in the order of its segments; then documents whose vectors are still to come."""
    for segment, live in zip(snapshot.segments, selection.lives, strict=True):
        places = np.flatnonzero(live)
        owners, first, counts = np.unique(segment.owners[places], return_index=True, return_counts=True)
        in_order = np.argsort(first)
        owners, first, counts = owners[in_order], first[in_order], counts[in_order]
        lengths = np.diff(segment.offsets)[places]
        tokens = np.add.reduceat(lengths, first) if len(first) else lengths
        for a, b in cut(tokens):
            stop = int(first[b]) if b < len(first) else len(places)
            own = places[first[a] : stop]
            yield _batch(snapshot, segment, owners[a:b], counts[a:b], own)
    waiting = (number for number, *_ in snapshot.reader.unencoded() if number in selection)
    while numbers := list(islice(waiting, PAGE)):
        none = packed(np.zeros((0, snapshot.settings.dim), np.float32), [], np.zeros(0, np.int32))
        no_spans = np.zeros((0, 2), np.int32)
        yield _described(
            snapshot,
            np.array(numbers),
            VectorBatch([], none, None, None, np.zeros(len(numbers), np.int64), no_spans),
        )


def _batch(
    snapshot: Snapshot,
    segment: Segment,
    owners: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
) -> VectorBatch:
    lengths = np.diff(segment.offsets)[places]
    tokens = token_places(segment.offsets[places], lengths)
    ids = segment.token_ids(tokens, snapshot.codec)
    if ids is None:
        ids = np.full(len(tokens), NO_ID, np.int32)
    embeddings = packed(segment.take(tokens, snapshot.codec), lengths, ids)
    return _described(
        snapshot, owners, VectorBatch([], embeddings, None, None, counts, segment.spans[places])
    )


def _described(snapshot: Snapshot, numbers: npt.NDArray[np.int64], batch: VectorBatch) -> VectorBatch:
    """The same with ids, texts and metadata of the documents of these numbers."""
    found = snapshot.documents(numbers.tolist())
    documents = [found[number] for number in numbers.tolist()]
    return replace(
        batch,
        doc_ids=[document.doc_id for document in documents],
        texts=[document.text for document in documents],
        metadata=[document.metadata for document in documents],
    )


def _knows_ids(segment: Segment, snapshot: Snapshot) -> bool:
    return segment.token_ids(slice(0, 0), snapshot.codec) is not None
