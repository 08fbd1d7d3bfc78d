"""The codec against FAISS's own Index2Layer and plain loops."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.coding.centroids
import indexing.coding.codec
from encoder.errors import ArgumentError, IndexFormatError, MissingDependencyError
from indexing.coding.codec import Codec, write_codes
from indexing.coding.faiss_files import read_codes
from indexing.coding.sizes import choose_m, choose_nlist, id_bytes, sample_size

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


@pytest.fixture(scope="module")
def without_length(vectors: npt.NDArray[np.float32]) -> Codec:
    return Codec.train(vectors, nlist=300, length_byte=False)


@pytest.mark.parametrize("length_byte", [True, False])
def test_encode_and_decode_equal_faiss(
    codec: Codec,
    without_length: Codec,
    vectors: npt.NDArray[np.float32],
    tmp_path: Path,
    length_byte: bool,
) -> None:
    codec = codec if length_byte else without_length
    codec.save(tmp_path / "codec.faiss")
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    ids, codes = codec.encode(vectors)
    packed = codec.pack(ids, codes)
    assert (codec.code_bytes, packed.shape[1]) == ((17, 19) if length_byte else (16, 18))
    # Ids by distance, the same but for centroids' rounding; and the nearest codes.
    theirs = index.sa_encode(vectors)
    assert (packed == theirs)[:, :2].mean() > 0.995
    assert (packed == theirs)[:, :18].mean() > 0.8
    layers = faiss.downcast_index(index.index)
    layers.add_sa_codes(packed)
    found = layers.reconstruct_n(0, len(vectors))
    if length_byte:
        found = found[:, :32] * found[:, 32:33]
    turn = faiss.downcast_VectorTransform(index.chain.at(0))
    found = found @ faiss.vector_to_array(turn.A).reshape(turn.d_out, 32)[:32]
    np.testing.assert_allclose(codec.decode(ids, codes), found, rtol=0, atol=1e-6)


def test_a_byte_restores_the_length(
    codec: Codec, without_length: Codec, vectors: npt.NDArray[np.float32]
) -> None:
    """Of vectors that were not in the sample, of any length that the residual codes follow."""
    few = unit_vectors(500, 32, seed=1) * np.linspace(0.95, 1.05, 500, dtype=np.float32)[:, None]
    lengths = np.linalg.norm(few, axis=1)
    ids, codes = codec.encode(few)
    decoded, plain = codec.decode(ids, codes), without_length.decode(*without_length.encode(few))
    scales = codec.scales[codes[:, -1]]
    inside = (codes[:, -1] > 0) & (codes[:, -1] < 255)
    assert inside.mean() > 0.95
    half_a_step = np.diff(codec.scales).max() / 2 + 1e-6
    found = np.linalg.norm(decoded, axis=1)
    assert (np.abs(found - lengths) <= half_a_step * found / scales)[inside].all()
    # All else is as without the byte: the ids, the residual codes, the direction.
    plain_ids, plain_codes = without_length.encode(few)
    np.testing.assert_array_equal(ids, plain_ids)
    np.testing.assert_array_equal(codes[:, :-1], plain_codes)
    np.testing.assert_allclose(decoded, plain * scales[:, None], rtol=0, atol=1e-6)
    assert np.square(decoded - few).sum(axis=1).mean() < np.square(plain - few).sum(axis=1).mean()
    assert np.square(few - decoded).sum(axis=1) == pytest.approx(codec.error(few), abs=1e-6)


def test_scales_cover_what_the_sample_wants(codec: Codec) -> None:
    assert codec.scales.shape == (256,)
    assert (np.diff(codec.scales) > 0).all()
    assert 1 in codec.scales
    assert codec.scales[0] <= 0.9 + 1e-3
    assert codec.scales[-1] >= 1.1 - 1e-3
    with_outliers = indexing.coding.codec._choose_scales(np.r_[np.ones(50_000), 1000, 0].astype(np.float32))
    assert np.diff(with_outliers).max() < 0.001
    np.testing.assert_array_equal(Codec(codec.centroids, codec.pq_centroids).scales, np.ones(256))


@pytest.mark.parametrize("length", [0.0, 1e-3, 30.0])
def test_vectors_of_any_length_are_coded(codec: Codec, length: float) -> None:
    """As `add_embeddings` takes them; nothing is refused, and nothing comes out that is not a number."""
    few = unit_vectors(300, 32) * np.float32(length)
    own = Codec.train(few, nlist=8)
    for trained in (codec, own):
        decoded = trained.decode(*trained.encode(few))
        assert np.isfinite(decoded).all()
        assert (
            np.square(decoded - few).sum()
            <= np.square(trained.rotated(few) - trained.centroids[trained.assign(few)]).sum()
        )


def test_more_centroids_keep_the_scales(codec: Codec, without_length: Codec) -> None:
    novel = np.tile(-unit_vectors(1, 32, seed=9), (400, 1)) + 0.3 * unit_vectors(400, 32, seed=8)
    for trained in (codec, without_length):
        extended = trained.extended(novel, 4000, error=0.0, most=1000)
        assert extended.nlist > trained.nlist
        assert (extended.code_bytes, extended.length_byte) == (trained.code_bytes, trained.length_byte)
        ids, codes = trained.encode(novel)
        np.testing.assert_array_equal(extended.decode(ids, codes), trained.decode(ids, codes))


def test_more_centroids_are_rounded_to_the_ranges_of_the_first(codec: Codec, tmp_path: Path) -> None:
    far = 3 * unit_vectors(400, 32, seed=8)
    extended = codec.extended(far, 4000, error=0.0, most=1000)
    assert codec.byte_centroids is not None
    assert extended.byte_centroids is not None
    np.testing.assert_array_equal(extended.byte_centroids.low, codec.byte_centroids.low)
    np.testing.assert_array_equal(extended.centroids[: codec.nlist], codec.centroids)
    np.testing.assert_array_equal(extended.centroids, extended.byte_centroids.floats())
    extended.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32, length_byte=True)
    np.testing.assert_array_equal(loaded.centroids, extended.centroids)


def test_a_codec_with_centroids_in_float16_is_read_and_extended(codec: Codec, tmp_path: Path) -> None:
    """As in indexes that were made before centroids were kept in bytes."""
    older = Codec(codec.centroids.astype(np.float16).astype(np.float32), codec.pq_centroids, codec.scales)
    older.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32, length_byte=True)
    assert loaded.byte_centroids is None
    np.testing.assert_array_equal(loaded.centroids, older.centroids)
    extended = loaded.extended(-unit_vectors(400, 32, seed=8), 4000, error=0.0, most=1000)
    assert extended.byte_centroids is None
    assert extended.nlist > loaded.nlist
    extended.save(tmp_path / "codec.faiss")
    again = Codec.load(tmp_path / "codec.faiss", dim=32, length_byte=True)
    np.testing.assert_array_equal(again.centroids, extended.centroids)


def test_assignment_is_the_largest_inner_product(codec: Codec, vectors: npt.NDArray[np.float32]) -> None:
    scores = codec.rotated(vectors) @ codec.centroids.T
    chosen = scores[np.arange(len(vectors)), codec.assign(vectors)]
    np.testing.assert_allclose(chosen, scores.max(axis=1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codec.centroids, axis=1), 1, rtol=0, atol=1e-2)


def test_graph_assignment_is_nearly_the_same(
    codec: Codec, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = codec.assign(vectors)
    monkeypatch.setattr(indexing.coding.codec, "HNSW_NLIST", 1)
    graph = Codec(codec.centroids, codec.pq_centroids, rotation=codec.rotation)
    assert (graph.assign(vectors) == exact).mean() > 0.97


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_residual_codes_make_up_for_what_the_nearest_lose_along_the_vector(
    without_length: Codec, vectors: npt.NDArray[np.float32], length: float
) -> None:
    codec, few = without_length, vectors[:300] * length
    ids, codes = codec.encode(few)
    places = codec.pq_centroids[None]  # (1, m, 256, part)

    def distances(residuals: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return ((residuals.reshape(len(few), codec.m, 1, -1) - places) ** 2).sum(axis=-1)  # (n, m, 256)

    turned = codec.rotated(few)
    residuals = turned - codec.centroids[ids]
    nearest = codec.decode(ids, distances(residuals).argmin(axis=2).astype(np.uint8))
    lost = ((few - nearest) * few).sum(axis=1, keepdims=True) / (few * few).sum(axis=1, keepdims=True)
    wanted = distances(residuals + lost * turned)
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
    centroid_error = ((codec.rotated(few) - codec.centroids[ids]) ** 2).sum(axis=1).mean()
    assert ((few - codec.decode(ids, codes)) ** 2).sum(axis=1).mean() < 0.5 * centroid_error


@pytest.mark.parametrize("length_byte", [True, False])
def test_training_is_repeatable_and_files_keep_every_bit(
    codec: Codec,
    without_length: Codec,
    vectors: npt.NDArray[np.float32],
    tmp_path: Path,
    length_byte: bool,
) -> None:
    codec = codec if length_byte else without_length
    again = Codec.train(vectors, nlist=300, length_byte=length_byte)
    codec.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32, length_byte=length_byte)
    for other in (again, loaded):
        np.testing.assert_array_equal(other.centroids, codec.centroids)
        np.testing.assert_array_equal(other.pq_centroids, codec.pq_centroids)
        np.testing.assert_array_equal(other.scales, codec.scales)
    assert (loaded.nlist, loaded.m, loaded.dim) == (300, 16, 32)
    assert (loaded.length_byte, loaded.code_bytes) == (length_byte, 16 + length_byte)


def test_a_codec_of_another_kind_is_refused(codec: Codec, without_length: Codec, tmp_path: Path) -> None:
    path = tmp_path / "codec.faiss"
    codec.save(path)
    with pytest.raises(
        IndexFormatError, match=r"codec\.faiss codes 34 dimensions, the index needs 32; restore"
    ):
        Codec.load(path, dim=32, length_byte=False)
    with pytest.raises(IndexFormatError, match="codes 34 dimensions, the index needs 66"):
        Codec.load(path, dim=64, length_byte=True)
    without_length.save(path)
    with pytest.raises(IndexFormatError, match="codes 32 dimensions, the index needs 34"):
        Codec.load(path, dim=32, length_byte=True)
    for bad in (np.nan, np.inf, -1, 0):
        scales = codec.scales.copy()
        scales[100] = bad
        Codec(codec.centroids, codec.pq_centroids, scales).save(path)
        with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
            Codec.load(path, dim=32, length_byte=True)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 200, 256, 257, 300, 65536, 65537]),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_packed_codes_come_back_from_a_mapped_file(
    tmp_path_factory: pytest.TempPathFactory, nlist: int, n: int, length_byte: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scales = np.linspace(0.5, 1.5, 256, dtype=np.float32) if length_byte else None
    codec = Codec(np.zeros((nlist, 4), np.float32), np.zeros((2, 256, 2), np.float32), scales)
    ids = random.integers(0, nlist, n).astype(np.int32)
    residuals = random.integers(0, 256, (n, 2 + length_byte)).astype(np.uint8)
    path = tmp_path_factory.mktemp("codes") / "codes.faiss"
    write_codes(path, codec, codec.pack(ids, residuals))
    codes = read_codes(path)
    width = id_bytes(nlist)
    assert codes.shape == (n, width + 2 + length_byte)
    assert width == faiss.Index2Layer(faiss.IndexFlatL2(4), nlist, 2).code_size_1
    assert n == 0 or not codes.flags.writeable
    powers = 256 ** np.arange(width)
    np.testing.assert_array_equal(codes[:, :width].astype(np.int64) @ powers, ids)
    np.testing.assert_array_equal(codes[:, width:], residuals)


def test_sizes_follow_the_corpus() -> None:
    assert choose_nlist(500_000) == 16384  # 16 * sqrt(n) is 11,314, and a third of the doubling is in
    assert choose_nlist(879_639) == 32768  # the nearest to 27,500
    assert choose_nlist(1 << 20) == 32768
    assert choose_nlist(1 << 18) == 8192
    assert choose_nlist(100) == 8  # eight rows a centroid
    assert choose_nlist(0) == 2
    assert choose_nlist(10**12) == (1 << 20) // 8
    assert sample_size(879_639) == 32768 * 16
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
    whole = path.read_bytes()
    assert codec.byte_centroids is not None
    low = whole.index(codec.byte_centroids.low.tobytes())
    path.write_bytes(whole[:low] + b"\xff" * 4 + whole[low + 4 :])  # not a number
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        Codec.load(path, dim=32, length_byte=True)
    path.write_bytes(whole[:-1000])
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        Codec.load(path, dim=32, length_byte=True)
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        read_codes(path)
    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    with pytest.raises(IndexFormatError, match="IndexFlatL2, not an Index2Layer"):
        Codec.load(path, dim=32, length_byte=True)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.coding.centroids.faiss_module.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    try:
        with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[cpu\]'"):
            Codec.train(unit_vectors(300, 16))
    finally:
        indexing.coding.centroids.faiss_module.cache_clear()
