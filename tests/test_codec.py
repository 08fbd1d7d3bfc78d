"""The codec against FAISS's own Index2Layer and plain loops."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.codec
from encoder.errors import ArgumentError, IndexFormatError, MissingDependencyError
from indexing.codec import Codec, choose_m, choose_nlist, id_bytes, read_codes, sample_size, write_codes

faiss = pytest.importorskip("faiss")


def unit_vectors(n: int, dim: int, seed: int = 0) -> npt.NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    return unit_vectors(2000, 32)


@pytest.fixture(scope="module")
def codec(vectors: npt.NDArray[np.float32]) -> Codec:
    return Codec.train(vectors, nlist=300)  # two bytes of id


def test_encode_and_decode_equal_faiss(
    codec: Codec, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec.faiss")
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    ids, residuals = codec.encode(vectors)
    packed = codec.pack(ids, residuals)
    theirs = index.sa_encode(vectors)  # the same ids, and the nearest codes
    np.testing.assert_array_equal(packed[:, :2], theirs[:, :2])
    assert (packed == theirs).mean() > 0.8
    index.add_sa_codes(packed)
    np.testing.assert_allclose(
        codec.decode(ids, residuals), index.reconstruct_n(0, len(vectors)), rtol=0, atol=1e-6
    )


def test_assignment_is_the_largest_inner_product(codec: Codec, vectors: npt.NDArray[np.float32]) -> None:
    scores = vectors @ codec.centroids.T
    chosen = scores[np.arange(len(vectors)), codec.assign(vectors)]
    np.testing.assert_allclose(chosen, scores.max(axis=1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codec.centroids, axis=1), 1, rtol=0, atol=1e-3)


def test_graph_assignment_is_nearly_the_same(
    codec: Codec, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = codec.assign(vectors)
    monkeypatch.setattr(indexing.codec, "HNSW_NLIST", 1)
    graph = Codec(codec.centroids, codec.pq_centroids)
    assert (graph.assign(vectors) == exact).mean() > 0.97


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_residual_codes_make_up_for_what_the_nearest_lose_along_the_vector(
    codec: Codec, vectors: npt.NDArray[np.float32], length: float
) -> None:
    few = vectors[:300] * length
    ids, codes = codec.encode(few)
    places = codec.pq_centroids[None]  # (1, m, 256, part)

    def distances(residuals: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return ((residuals.reshape(len(few), codec.m, 1, -1) - places) ** 2).sum(axis=-1)  # (n, m, 256)

    residuals = few - codec.centroids[ids]
    nearest = codec.decode(ids, distances(residuals).argmin(axis=2).astype(np.uint8))
    lost = ((few - nearest) * few).sum(axis=1, keepdims=True) / (few * few).sum(axis=1, keepdims=True)
    wanted = distances(residuals + lost * few)
    chosen = np.take_along_axis(wanted, codes[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen, wanted.min(axis=2), rtol=0, atol=1e-5)
    if length == 1:
        along = ((few - codec.decode(ids, codes)) * few).sum(axis=1)
        assert np.square(along).mean() < 0.9 * np.square(lost).mean()


def test_residual_codes_leave_less_than_half_of_the_error(
    codec: Codec, vectors: npt.NDArray[np.float32]
) -> None:
    few = vectors[:50]
    ids, codes = codec.encode(few)
    centroid_error = ((few - codec.centroids[ids]) ** 2).sum(axis=1).mean()
    assert ((few - codec.decode(ids, codes)) ** 2).sum(axis=1).mean() < 0.5 * centroid_error


def test_training_is_repeatable_and_files_keep_every_bit(
    codec: Codec, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    again = Codec.train(vectors, nlist=300)
    codec.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss")
    for other in (again, loaded):
        np.testing.assert_array_equal(other.centroids, codec.centroids)
        np.testing.assert_array_equal(other.pq_centroids, codec.pq_centroids)
    assert (loaded.nlist, loaded.m, loaded.dim) == (300, 16, 32)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 200, 256, 257, 300, 65536, 65537]), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_packed_codes_come_back_from_a_mapped_file(
    tmp_path_factory: pytest.TempPathFactory, nlist: int, n: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    codec = Codec(np.zeros((nlist, 4), np.float32), np.zeros((2, 256, 2), np.float32))
    ids = random.integers(0, nlist, n).astype(np.int32)
    residuals = random.integers(0, 256, (n, 2)).astype(np.uint8)
    path = tmp_path_factory.mktemp("codes") / "codes.faiss"
    write_codes(path, codec, codec.pack(ids, residuals))
    codes = read_codes(path)
    width = id_bytes(nlist)
    assert codes.shape == (n, width + 2)
    assert width == faiss.Index2Layer(faiss.IndexFlatL2(4), nlist, 2).code_size_1
    assert n == 0 or not codes.flags.writeable
    powers = 256 ** np.arange(width)
    np.testing.assert_array_equal(codes[:, :width].astype(np.int64) @ powers, ids)
    np.testing.assert_array_equal(codes[:, width:], residuals)


def test_sizes_follow_the_corpus() -> None:
    assert choose_nlist(879_639) == 16384  # 16 * sqrt(n) is 15,006, and half of the doubling is in
    assert choose_nlist(1 << 20) == 32768
    assert choose_nlist(1 << 18) == 8192
    assert choose_nlist(100) == 8  # eight rows a centroid
    assert choose_nlist(0) == 2
    assert choose_nlist(10**12) == (1 << 20) // 8
    assert sample_size(879_639) == 16384 * 16
    assert sample_size(1000) == 1000
    assert sample_size(10**12) == 1 << 20


@pytest.mark.parametrize(
    ("dim", "m"), [(128, 16), (96, 16), (64, 16), (48, 16), (256, 32), (768, 96), (100, 10), (8, 8)]
)
def test_bytes_of_residual(dim: int, m: int) -> None:
    assert choose_m(dim) == m


@pytest.mark.parametrize("dim", [0, -1, 127, 202])
def test_a_dim_that_cannot_be_cut_is_refused(dim: int) -> None:
    with pytest.raises(ArgumentError, match=rf"dim={dim} .* pad the vectors"):
        choose_m(dim)


def test_what_cannot_be_trained_is_refused(vectors: npt.NDArray[np.float32], codec: Codec) -> None:
    with pytest.raises(ArgumentError, match="255 vectors cannot train"):
        Codec.train(vectors[:255])
    with pytest.raises(ArgumentError, match="nlist=301 with 300 sample vectors"):
        Codec.train(vectors[:300], nlist=301)
    with pytest.raises(ArgumentError, match="pass 2 <= nlist <= 300"):
        Codec.train(vectors[:300], nlist=1)
    with pytest.raises(ArgumentError, match="m=5 does not divide dim=32"):
        Codec.train(vectors, m=5)
    with pytest.raises(ArgumentError, match=r"shape \(2, 3\); pass \(n, 32\)"):
        codec.encode(np.zeros((2, 3), np.float32))


def test_identical_vectors_train_and_decode_exactly() -> None:
    same = np.tile(unit_vectors(1, 16), (300, 1))
    codec = Codec.train(same)
    np.testing.assert_allclose(codec.decode(*codec.encode(same)), same, rtol=0, atol=1e-5)


def test_a_damaged_file_is_named(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "codec.faiss"
    codec.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        Codec.load(path)
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        read_codes(path)
    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    with pytest.raises(IndexFormatError, match="IndexFlatL2, not an Index2Layer"):
        Codec.load(path)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.codec._faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    try:
        with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[cpu\]'"):
            Codec.train(unit_vectors(300, 16))
    finally:
        indexing.codec._faiss.cache_clear()
