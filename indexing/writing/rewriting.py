"""Segments made from segments: training samples, merging, compressing, dropping the dead."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from indexing.coding.codec import Codec
from indexing.coding.sizes import sample_size
from indexing.storage.segment import Segment
from indexing.storage.sharded import hash_of
from indexing.storage.snapshot import Live, Snapshot
from indexing.writing.encoding import Passages

__all__ = ["by_doc_id", "coded", "groups", "pack", "sample", "small_run", "transcode"]

Places: TypeAlias = npt.NDArray[np.int64]

SMALL_TOKENS = 100_000  # a segment below is worth merging with its neighbours
ENDS = 0.05  # of a training sample: first and last tokens of passages (docs/internals/codec.md)
RARE = 8  # times that a vocabulary id occurs whose tokens are all in the sample
STEP = 1 << 13  # tokens copied at a time
SMALL_SEGMENTS = 8  # how many small ones may stand at the end of the list


def sample(
    segments: Sequence[Segment],
    lives: Sequence[Live],
    codec: Codec | None,
    order: Places,
    seed: int,
    most: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32] | None]:
    """Token vectors on which to train a codec for these segments, (n, dim), and their vocabulary ids, (n,): None where
    fewer than half of them have one.

    order: all passages, counted over segments, in the order in which they are drawn and given. n is `sample_size` of
    the live tokens, and no more than `most`. Most are drawn evenly: each of equal stretches
    of the corpus gives one token at random, so no list of all tokens is ever made. The others, which come on top
    where all tokens are in the sample, are passages' first and last tokens, maybe several times: markers differ so
    little from passage to passage that they need codes of their own, and a query's markers are compared with
    just these. Tokens of the rarest vocabulary ids are all there, up to an eighth: an id that is not would have no
    centroid of its own.
    """
    lengths = [np.where(live, np.diff(s.offsets), 0) for s, live in zip(segments, lives, strict=True)]
    tokens = _Tokens(np.concatenate([np.zeros(0, np.int64), *lengths]), order)
    total = tokens.total
    n = min(sample_size(total), most)
    random = np.random.default_rng(seed)
    n_ends = int(ENDS * n) if n < total else min(int(ENDS * n), most - n)
    rare = np.zeros(0, np.int64)
    if n < total:
        rare = np.sort(tokens.places(_rare(segments, lives, codec)))
    if len(rare) > n // 8:
        rare = rare[_stretches(len(rare), n // 8, random)]
    evenly = _stretches(total, n - n_ends - len(rare), random) if n < total else np.arange(total)
    ends = tokens.ends()
    drawn = [evenly, ends[_stretches(len(ends), n_ends, random)], np.setdiff1d(rare, evenly)]
    passages, within = tokens.of(np.sort(np.concatenate(drawn)))
    rows: npt.NDArray[np.float32] | None = None
    token_ids = np.full(len(passages), NO_ID, np.int32)
    start = 0
    for segment in segments:
        n_passages = len(segment.offsets) - 1
        here = np.flatnonzero((passages >= start) & (passages < start + n_passages))
        stored = segment.offsets[passages[here] - start] + within[here]
        by_place = np.argsort(stored, kind="stable")  # a mapped file is read from its start to its end
        here, stored = here[by_place], stored[by_place]
        taken = segment.take(stored, codec)
        if rows is None:
            rows = np.empty((len(passages), taken.shape[1]), np.float32)
        rows[here] = taken
        own_ids = segment.token_ids(stored, codec)
        if own_ids is not None:
            token_ids[here] = own_ids
        start += n_passages
    assert rows is not None
    known = 2 * int((token_ids != NO_ID).sum()) >= max(len(token_ids), 1)
    return rows, token_ids if known else None


def by_doc_id(now: Snapshot) -> Places:
    """All passages, in an order that hangs on the doc_ids alone: by a hash, so that whatever order documents were added
    in, and however many shards hold them, a sample of them is the same."""
    kind = np.dtype([("document", np.int64), ("hash", np.uint64)])
    known = np.fromiter(
        ((document, hash_of(doc_id)) for document, doc_id in now.reader.stream("doc_id")), kind
    )
    owners = np.concatenate([np.zeros(0, np.int64), *(segment.owners for segment in now.segments)])
    # One that is gone, and has no place, is not drawn from.
    at = np.minimum(np.searchsorted(known["document"], owners), len(known) - 1)
    return np.argsort(known["hash"][at], kind="stable")


class _Tokens:
    """Tokens of passages in some order, numbered from 0 on; stored, they are numbered passage by passage."""

    def __init__(self, lengths: Places, order: Places) -> None:
        """lengths: (n_passages,), as stored. order: (n_passages,) passages."""
        self._order, self._lengths = order, lengths[order]
        self._stops, self._stored_stops = np.cumsum(self._lengths), np.cumsum(lengths)
        self._moved = np.empty_like(lengths)  # from where a passage is stored to where it stands
        self._moved[order] = self._stops - self._lengths
        self._moved -= self._stored_stops - lengths
        self.total = int(lengths.sum())

    def places(self, stored: Places) -> Places:
        """Numbers of tokens as stored → in the order."""
        return stored + self._moved[np.searchsorted(self._stored_stops, stored, side="right")]

    def of(self, tokens: Places) -> tuple[Places, Places]:
        """Of each of these the passage, and which of its tokens it is."""
        at = np.searchsorted(self._stops, tokens, side="right")
        return self._order[at], tokens - (self._stops - self._lengths)[at]

    def ends(self) -> Places:
        """The first and the last of each passage, ascending; twice, of one that has no other."""
        some = self._lengths > 0
        return np.sort(np.concatenate([(self._stops - self._lengths)[some], self._stops[some] - 1]))


def _rare(segments: Sequence[Segment], lives: Sequence[Live], codec: Codec | None) -> Places:
    """Numbers among all live tokens, as stored, of those whose vocabulary id occurs no more than RARE times."""

    def parts() -> Iterator[npt.NDArray[np.int32]]:
        for segment, live in zip(segments, lives, strict=True):
            keep = np.repeat(live, np.diff(segment.offsets))
            ids = segment.token_ids(slice(None), codec)
            yield np.full(int(keep.sum()), NO_ID, np.int32) if ids is None else ids[keep]

    seen, times = np.zeros(0, np.int32), np.zeros(0, np.int64)
    for ids in parts():
        own, counts = np.unique(ids, return_counts=True)
        seen, at = np.unique(np.concatenate([seen, own]), return_inverse=True)
        times = np.bincount(at, np.concatenate([times, counts])).astype(np.int64)
    wanted = seen[(times <= RARE) & (seen != NO_ID)]
    places, start = [np.zeros(0, np.int64)], 0
    for ids in parts():
        places.append(start + np.flatnonzero(np.isin(ids, wanted)))
        start += len(ids)
    return np.concatenate(places)


def _stretches(total: int, n: int, random: np.random.Generator) -> Places:
    """A number at random from each of n equal stretches of 0 to total - 1; ascending, and repeated if n > total."""
    drawn = ((np.arange(n) + random.random(n)) * (total / max(n, 1))).astype(np.int64)
    return np.minimum(drawn, total - 1)


def transcode(
    segment: Segment, live: Live, old: Codec | None, new: Codec | None
) -> Iterator[npt.NDArray[Any]]:
    """A segment's live rows under codec `new` (None: float16), as `write_segment` takes them."""
    keep = np.repeat(live, np.diff(segment.offsets))
    step = STEP if new is None else new.at_once
    for start in range(0, segment.n_tokens, step):
        at = slice(start, min(start + step, segment.n_tokens))
        if segment.kind == "flat" and new is None:
            yield segment.vectors[at][keep[at]]
        elif segment.kind == "compressed" and new is old:
            yield segment.codes[at][keep[at]]
        else:
            assert new is not None
            ids = segment.token_ids(at, old)
            rows = segment.decode(at.start, at.stop, old)[keep[at]]
            yield new.pack(*new.encode(rows, None if ids is None else ids[keep[at]]))


def pack(documents: Sequence[Passages], codec: Codec) -> Iterator[npt.NDArray[np.uint8]]:
    """Passages end to end as packed codes, made some at a time."""
    block: list[Passages] = []
    tokens = 0
    for i, passages in enumerate(documents):
        block.append(passages)
        tokens += len(passages.token_ids)
        if tokens >= codec.at_once or i == len(documents) - 1:
            yield np.concatenate([own.codes for own in coded(block, codec) if own.codes is not None])
            block, tokens = [], 0


def coded(documents: Sequence[Passages], codec: Codec) -> list[Passages]:
    """The same with codes in place of vectors; those that have them already stay."""
    bare = [own for own in documents if own.codes is None]
    if not bare:
        return list(documents)
    token_ids = np.concatenate([own.token_ids for own in bare])
    codes = codec.pack(*codec.encode(np.concatenate([own.vectors for own in bare]), token_ids))
    stops = np.cumsum([len(own.token_ids) for own in bare])
    parts = iter(np.split(codes, stops[:-1]))
    return [
        replace(own, vectors=own.vectors[:0], codes=next(parts)) if own.codes is None else own
        for own in documents
    ]


def groups(segments: Sequence[Segment], lives: Sequence[Live], most: int) -> list[list[int]]:
    """Cut the list of segments into runs of about `most` live tokens, by position."""
    runs: list[list[int]] = []
    room = 0
    for i, (segment, live) in enumerate(zip(segments, lives, strict=True)):
        tokens = int(np.diff(segment.offsets)[live].sum())
        if not runs or tokens > room:
            runs.append([])
            room = most
        runs[-1].append(i)
        room -= tokens
    return runs


def small_run(segments: Sequence[Segment]) -> Sequence[Segment]:
    """The small segments at the end of the list, where they have become too many; else nothing."""
    n = 0
    while n < len(segments) and segments[-1 - n].n_tokens < SMALL_TOKENS:
        n += 1
    return segments[len(segments) - n :] if n > SMALL_SEGMENTS else ()
