"""Segments made from segments: training samples, merging, compressing, dropping the dead."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from indexing.coding.codec import CHUNK, Codec
from indexing.coding.sizes import sample_size
from indexing.storage.segment import Segment
from indexing.storage.snapshot import Live
from indexing.writing.encoding import Passages

__all__ = ["coded", "groups", "pack", "sample", "small_run", "transcode"]

SMALL_TOKENS = 100_000  # a segment below is worth merging with its neighbours
ENDS = 0.05  # of a training sample: first and last tokens of passages (docs/internals/codec.md)
RARE = 8  # times that a vocabulary id occurs whose tokens are all in the sample
SMALL_SEGMENTS = 8  # how many small ones may stand at the end of the list


def sample(
    segments: Sequence[Segment], lives: Sequence[Live], codec: Codec | None, seed: int, most: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32] | None]:
    """Token vectors on which to train a codec for these segments, (n, dim), and their vocabulary ids, (n,): None where
    fewer than half of them have one.

    n is `sample_size` of the live tokens, and no more than `most`. Most are drawn evenly: each of equal stretches
    of the corpus gives one token at random, so no list of all tokens is ever made. The others, which come on top
    where all tokens are in the sample, are passages' first and last tokens, maybe several times: markers differ so
    little from passage to passage that they need codes of their own, and a query's markers are compared with
    just these. Tokens of the rarest vocabulary ids are all there, up to an eighth: an id that is not would have no
    centroid of its own.
    """
    counts = [np.where(live, np.diff(s.offsets), 0) for s, live in zip(segments, lives, strict=True)]
    lengths = np.concatenate([np.zeros(0, np.int64), *counts])
    total = int(lengths.sum())
    n = min(sample_size(total), most)
    random = np.random.default_rng(seed)
    n_ends = int(ENDS * n) if n < total else min(int(ENDS * n), most - n)
    rare = _rare(segments, lives, codec) if n < total else np.zeros(0, np.int64)
    if len(rare) > n // 8:
        rare = rare[_stretches(len(rare), n // 8, random)]
    evenly = _stretches(total, n - n_ends - len(rare), random) if n < total else np.arange(total)
    stops = np.cumsum(lengths)[lengths > 0]
    ends = np.sort(np.concatenate([stops - lengths[lengths > 0], stops - 1]))
    drawn = [evenly, ends[_stretches(len(ends), n_ends, random)], np.setdiff1d(rare, evenly)]
    wanted = np.sort(np.concatenate(drawn))
    taken, ids, start = [], [np.zeros(0, np.int32)], 0
    for segment, own in zip(segments, counts, strict=True):
        stops = np.cumsum(own)
        here = wanted[(wanted >= start) & (wanted < start + int(own.sum()))] - start
        passages = np.searchsorted(stops, here, side="right")
        tokens = segment.offsets[passages] + here - (stops - own)[passages]
        taken.append(segment.take(tokens, codec))
        own_ids = segment.token_ids(tokens, codec)
        ids.append(np.full(len(tokens), NO_ID, np.int32) if own_ids is None else own_ids)
        start += int(own.sum())
    token_ids = np.concatenate(ids)
    known = 2 * int((token_ids != NO_ID).sum()) >= max(len(token_ids), 1)
    return np.concatenate(taken), token_ids if known else None


def _rare(segments: Sequence[Segment], lives: Sequence[Live], codec: Codec | None) -> npt.NDArray[np.int64]:
    """Places among all live tokens of those whose vocabulary id occurs no more than RARE times."""

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


def _stretches(total: int, n: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """A number at random from each of n equal stretches of 0 to total - 1; ascending, and repeated if n > total."""
    drawn = ((np.arange(n) + random.random(n)) * (total / max(n, 1))).astype(np.int64)
    return np.minimum(drawn, total - 1)


def transcode(
    segment: Segment, live: Live, old: Codec | None, new: Codec | None
) -> Iterator[npt.NDArray[Any]]:
    """A segment's live rows under codec `new` (None: float16), as `write_segment` takes them."""
    keep = np.repeat(live, np.diff(segment.offsets))
    for start in range(0, segment.n_tokens, CHUNK):
        at = slice(start, min(start + CHUNK, segment.n_tokens))
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
        if tokens >= CHUNK or i == len(documents) - 1:
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
