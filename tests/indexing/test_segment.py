"""Segments: written, mapped and read back; inverted lists against a plain loop."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.embeddings import NO_ID
from encoder.errors import IndexFormatError
from indexing.coding.codec import Codec
from indexing.coding.vocabulary import Owners
from indexing.storage.segment import Layout, Segment, as_float32, invert, write_segment
from indexing.storage.tables import SegmentRow
from tests.helpers.codecs import random_codec

DIM = 16
LENGTHS = np.array([3, 0, 250, 1, 0], dtype=np.int64)


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    x = np.random.default_rng(0).standard_normal((int(LENGTHS.sum()), DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def codec(vectors: npt.NDArray[np.float32]) -> Codec:
    return Codec.train(np.concatenate([vectors, vectors]), nlist=20)


def layout(lengths: npt.NDArray[np.int64]) -> Layout:
    """Passages of documents 7, 8, 8, 9, 9, 10, ..., ten characters each."""
    n = np.arange(len(lengths))
    starts = 10 * ((n + 1) % 2)
    return Layout(lengths, 7 + (n + 1) // 2, np.stack([starts, starts + 10], axis=1).astype(np.int32))


def write_flat(root: Path, vectors: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> SegmentRow:
    row = SegmentRow(1, "flat", len(lengths), int(lengths.sum()))
    (root / row.folder).mkdir(parents=True)
    half = vectors.astype(np.float16)
    write_segment(root / row.folder, [half[:100], half[100:]], layout(lengths), dim=DIM, codec=None)
    return row


def write_compressed(root: Path, vectors: npt.NDArray[np.float32], codec: Codec) -> SegmentRow:
    row = SegmentRow(2, "compressed", len(LENGTHS), len(vectors))
    (root / row.folder).mkdir(parents=True)
    codes = codec.pack(*codec.encode(vectors))
    write_segment(root / row.folder, [codes[:5], codes[5:]], layout(LENGTHS), dim=DIM, codec=codec)
    return row


def test_flat_keeps_float16(vectors: npt.NDArray[np.float32], tmp_path: Path) -> None:
    segment = Segment(tmp_path, write_flat(tmp_path, vectors, LENGTHS), dim=DIM, codec=None)
    half = vectors.astype(np.float16)
    np.testing.assert_array_equal(segment.vectors, half)
    np.testing.assert_array_equal(segment.offsets, [0, 3, 3, 253, 254, 254])
    np.testing.assert_array_equal(segment.decode(3, 9, None), half[3:9].astype(np.float32))
    np.testing.assert_array_equal(segment.take(np.array([9, 2]), None), half[[9, 2]].astype(np.float32))
    assert (segment.kind, segment.n_passages, segment.n_tokens) == ("flat", 5, 254)
    np.testing.assert_array_equal(segment.owners, [7, 8, 8, 9, 9])
    np.testing.assert_array_equal(segment.spans, [[10, 20], [0, 10], [10, 20], [0, 10], [10, 20]])
    assert not segment.one_each
    some = segment.layout.of(np.array([True, False, True, False, False]))
    both = Layout.joined([some, some.of(np.array([False, True]))])
    np.testing.assert_array_equal(both.lengths, [3, 250, 250])
    np.testing.assert_array_equal(both.owners, [7, 8, 8])
    np.testing.assert_array_equal(both.spans, [[10, 20]] * 3)
    assert isinstance(segment.vectors.base, np.memmap)


def test_flat_keeps_token_ids_where_there_are_any(
    vectors: npt.NDArray[np.float32], codec: Codec, tmp_path: Path
) -> None:
    ids = np.arange(254, dtype=np.int32)
    opened = {}
    for number, (kind, own) in enumerate((("some", ids), ("none", np.full(254, NO_ID, np.int32))), start=3):
        row = SegmentRow(number, "flat", 5, 254)
        (tmp_path / row.folder).mkdir(parents=True)
        laid = replace(layout(LENGTHS), token_ids=own)
        write_segment(tmp_path / row.folder, [vectors], laid, dim=DIM, codec=None)
        opened[kind] = Segment(tmp_path, row, dim=DIM, codec=None)
    some, none = opened["some"], opened["none"]
    assert (tmp_path / "segments/000003/token_ids.npy").exists()
    assert not (tmp_path / "segments/000004/token_ids.npy").exists()
    np.testing.assert_array_equal(some.token_ids(slice(3, 9), None), ids[3:9])
    np.testing.assert_array_equal(some.token_ids(np.array([9, 2]), None), [9, 2])
    assert none.token_ids(slice(3, 9), None) is None
    live = np.array([True, False, False, True, False])
    joined = Layout.joined([some.layout.of(live), none.layout.of(live)])
    np.testing.assert_array_equal(joined.token_ids, [0, 1, 2, 253, *[NO_ID] * 4])
    assert Layout.joined([none.layout, none.layout]).token_ids is None
    # Of codes: those of their centroids, or none.
    owners = Owners(np.arange(100, 100 + codec.nlist, dtype=np.int32))
    owned = Codec(codec.byte_centroids, codec.pq_centroids, codec.scales, codec.rotation, owners)
    compressed = Segment(tmp_path, write_compressed(tmp_path, vectors, codec), dim=DIM, codec=codec)
    np.testing.assert_array_equal(
        compressed.token_ids(slice(3, 9), owned), 100 + compressed.centroid_ids()[3:9]
    )
    assert compressed.token_ids(slice(3, 9), codec) is None
    np.save(tmp_path / "segments/000003/token_ids.npy", ids[:-1])
    with pytest.raises(
        IndexFormatError, match=r"token_ids\.npy has shape \(253,\), the index needs \(254,\)"
    ):
        Segment(tmp_path, SegmentRow(3, "flat", 5, 254), dim=DIM, codec=None)


def test_compressed_keeps_codes_in_the_mapped_file(
    vectors: npt.NDArray[np.float32], codec: Codec, tmp_path: Path
) -> None:
    segment = Segment(tmp_path, write_compressed(tmp_path, vectors, codec), dim=DIM, codec=codec)
    ids, residuals = codec.encode(vectors)
    np.testing.assert_array_equal(segment.centroid_ids(), ids)
    np.testing.assert_array_equal(segment.residual_codes, residuals)
    assert np.shares_memory(segment.residual_codes, segment.codes)
    np.testing.assert_array_equal(segment.decode(0, 254, codec), codec.decode(ids, residuals))
    taken = segment.take(np.array([9, 2]), codec)
    np.testing.assert_allclose(taken, codec.decode(ids, residuals)[[9, 2]], rtol=0, atol=1e-6)
    for c in range(codec.nlist):
        passages = np.repeat(np.arange(5), LENGTHS)[ids == c]
        own = segment.list_pids[segment.list_offsets[c] : segment.list_offsets[c + 1]]
        np.testing.assert_array_equal(own, sorted(set(passages.tolist())))
    for own, start, stop in zip(np.split(ids, np.cumsum(LENGTHS)), *ends_of(segment), strict=False):
        np.testing.assert_array_equal(segment.lists_at(np.arange(start, stop)), np.unique(own))


def ends_of(segment: Segment) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return segment.passage_offsets[:-1], segment.passage_offsets[1:]


def test_ids_of_two_and_three_bytes(tmp_path: Path) -> None:
    for number, nlist in enumerate((257, 70_000), start=1):
        codec = random_codec(np.random.default_rng(0), nlist, m=2, part=DIM // 2)
        ids = np.array([0, 255, 256, nlist - 1], dtype=np.int32)
        row = SegmentRow(number, "compressed", 1, 4)
        (tmp_path / row.folder).mkdir(parents=True)
        codes = codec.pack(ids, np.zeros((4, 3), np.uint8))
        write_segment(tmp_path / row.folder, [codes], layout(np.array([4])), dim=DIM, codec=codec)
        segment = Segment(tmp_path, row, dim=DIM, codec=codec)
        np.testing.assert_array_equal(segment.centroid_ids(), ids)
        np.testing.assert_array_equal(segment.list_pids, [0] * len(set(ids.tolist())))
        np.testing.assert_array_equal(segment.lists_at(np.arange(len(set(ids.tolist())))), np.unique(ids))


@pytest.mark.slow
def test_writing_codes_takes_less_memory_than_the_codes(tmp_path: Path) -> None:
    random, part = np.random.default_rng(0), 8192
    codec = random_codec(random, 300, m=16, part=8)
    lengths = np.full(part, 64)
    tracemalloc.start()
    try:
        parts = (
            codec.pack(random.integers(0, 300, part), random.integers(0, 256, (part, 17), np.uint8))
            for _ in range(64)
        )
        write_segment(tmp_path, parts, layout(lengths), dim=codec.dim, codec=codec)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "codes.faiss").stat().st_size > 64 * part * 19
    assert peak < 64 * part * 14


def test_arrays_outlive_the_files_and_the_segment(
    vectors: npt.NDArray[np.float32], codec: Codec, tmp_path: Path
) -> None:
    segment = Segment(tmp_path, write_compressed(tmp_path, vectors, codec), dim=DIM, codec=codec)
    ids, residuals = segment.centroid_ids(), segment.residual_codes
    lists = segment.list_pids
    shutil.rmtree(tmp_path / "segments")
    del segment
    np.testing.assert_array_equal(codec.pack(ids, residuals), codec.pack(*codec.encode(vectors)))
    assert len(lists) > 0


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_segments_without_tokens(codec: Codec, tmp_path: Path, lengths: list[int]) -> None:
    for number, (kind, used) in enumerate((("flat", None), ("compressed", codec)), start=1):
        row = SegmentRow(number, kind, len(lengths), 0)
        (tmp_path / row.folder).mkdir(parents=True)
        write_segment(
            tmp_path / row.folder, [], layout(np.array(lengths, dtype=np.int64)), dim=DIM, codec=used
        )
        segment = Segment(tmp_path, row, dim=DIM, codec=used)
        assert segment.decode(0, 0, used).shape == (0, DIM)
        if used is not None:
            assert segment.residual_codes.shape == (0, used.m + 1)
            assert len(segment.list_pids) == len(segment.passage_lists) == 0


def ids_in_bytes(ids: list[int], width: int) -> npt.NDArray[np.uint8]:
    return np.array(ids, dtype="<i4").view(np.uint8).reshape(-1, 4)[:, :width]


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=8), st.sampled_from([1, 5, 1 << 16]))
def test_inverted_lists_equal_a_loop(passages: list[list[int]], block: int) -> None:
    codes = ids_in_bytes([c for passage in passages for c in passage], 1)
    lengths = np.array([len(p) for p in passages], dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexing.storage.segment.CHUNK", block)
        offsets, pids, ends, rows = invert(codes, lengths, nlist=7)
    lists = [pids[offsets[c] : offsets[c + 1]].tolist() for c in range(7)]
    assert lists == [[i for i, passage in enumerate(passages) if c in passage] for c in range(7)]
    assert offsets[-1] == len(pids)
    own = [rows[ends[i] : ends[i + 1]] for i in range(len(passages))]
    assert [[row[0] for row in some] for some in own] == [sorted(set(passage)) for passage in passages]
    assert not rows[:, 1:].any()


@pytest.mark.parametrize(("nlist", "width"), [(300, 2), (70_000, 3)])
def test_lists_of_many_blocks_equal_the_sorting_of_all(nlist: int, width: int) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 40, 9000)
    ids = (nlist * random.random(int(lengths.sum())) ** 3).astype(np.int64)
    found = invert(ids_in_bytes(ids.tolist(), width), lengths, nlist)
    passages = np.repeat(np.arange(9000), lengths)
    by_list = np.unique(np.stack([ids, passages], axis=1), axis=0)
    by_passage = np.unique(np.stack([passages, ids], axis=1), axis=0)
    np.testing.assert_array_equal(found.list_pids, by_list[:, 1])
    np.testing.assert_array_equal(np.diff(found.list_offsets), np.bincount(by_list[:, 0], minlength=nlist))
    np.testing.assert_array_equal(found.passage_lists, ids_in_bytes(by_passage[:, 1].tolist(), width))
    np.testing.assert_array_equal(
        np.diff(found.passage_offsets), np.bincount(by_passage[:, 0], minlength=9000)
    )


def test_a_centroid_that_there_is_not_is_told() -> None:
    with pytest.raises(IndexFormatError, match="codes name centroid 7 of 7; restore the index"):
        invert(ids_in_bytes([0, 7], 1), np.array([2]), nlist=7)


def test_many_passages_have_wide_numbers() -> None:
    lengths = np.ones((1 << 16) + 1, np.int64)
    for n, kind in ((1 << 16, np.uint16), ((1 << 16) + 1, np.int32)):
        _, pids, _, _ = invert(np.zeros((n, 1), np.uint8), lengths[:n], nlist=2)
        assert pids.dtype == kind
        np.testing.assert_array_equal(pids, np.arange(n))


def test_files_of_another_shape_are_named(
    vectors: npt.NDArray[np.float32], codec: Codec, tmp_path: Path
) -> None:
    flat = write_flat(tmp_path, vectors, LENGTHS)
    compressed = write_compressed(tmp_path, vectors, codec)
    with pytest.raises(IndexFormatError, match=r"offsets\.npy has shape \(6,\), the index needs \(5,\)"):
        Segment(tmp_path, SegmentRow(1, "flat", 4, 254), dim=DIM, codec=None)
    with pytest.raises(
        IndexFormatError, match=r"vectors\.npy has shape \(254, 16\), the index needs \(253, 16\)"
    ):
        Segment(tmp_path, SegmentRow(1, "flat", 5, 253), dim=DIM, codec=None)
    with pytest.raises(IndexFormatError, match=r"codes\.faiss has shape"):
        Segment(tmp_path, SegmentRow(2, "compressed", 5, 253), dim=DIM, codec=codec)
    with pytest.raises(
        IndexFormatError, match=r"codes\.faiss has shape \(254, 18\), the index needs \(254, 10\)"
    ):
        Segment(tmp_path, compressed, dim=DIM, codec=random_codec(np.random.default_rng(0), 20, m=8, part=2))
    with pytest.raises(IndexFormatError, match="lists a compressed segment and no codec"):
        Segment(tmp_path, compressed, dim=DIM, codec=None)
    np.save(tmp_path / flat.folder / "vectors.npy", vectors)
    with pytest.raises(IndexFormatError, match=r"vectors\.npy holds float32, not float16"):
        Segment(tmp_path, flat, dim=DIM, codec=None)
    np.save(tmp_path / flat.folder / "spans.npy", np.zeros((5, 3), np.int32))
    with pytest.raises(IndexFormatError, match=r"spans\.npy has shape \(5, 3\), the index needs \(5, 2\)"):
        Segment(tmp_path, flat, dim=DIM, codec=None)
    np.save(tmp_path / flat.folder / "owners.npy", np.zeros(5, np.int32))
    with pytest.raises(IndexFormatError, match=r"owners\.npy holds int32, not int64"):
        Segment(tmp_path, flat, dim=DIM, codec=None)
    lists = tmp_path / compressed.folder / "lists.npz"
    for content in (lists.read_bytes()[:-30], b""):
        lists.write_bytes(content)
        with pytest.raises(IndexFormatError, match=r"lists\.npz is damaged"):
            Segment(tmp_path, compressed, dim=DIM, codec=codec)
    (tmp_path / compressed.folder / "offsets.npy").write_bytes(b"")
    with pytest.raises(IndexFormatError, match=r"offsets\.npy is damaged"):
        Segment(tmp_path, compressed, dim=DIM, codec=codec)


def test_halves_are_the_same_numbers_in_float32() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    assert as_float32(every).tobytes() == every.astype(np.float32).tobytes()  # signs of zeros too
    rows = every[:60_000].reshape(-1, 6)
    assert np.array_equal(as_float32(rows[::3, 1:4]), rows[::3, 1:4].astype(np.float32))
    assert as_float32(rows[:0]).shape == (0, 6)
