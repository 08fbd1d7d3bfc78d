"""The codec against FAISS's own Index2Layer and plain loops."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.coding.centroids
import indexing.coding.codec
import indexing.coding.training
from encoder import TokenEmbeddings
from encoder.embeddings import NO_ID
from encoder.errors import ArgumentError, IndexFormatError, MissingDependencyError
from indexing import Index
from indexing.coding.codec import Codec, write_codes
from indexing.coding.faiss_files import read_codes
from indexing.coding.lengths import plain_scales
from indexing.coding.sizes import choose_m, choose_nlist, id_bytes, sample_size
from tests.helpers.codecs import random_codec

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
def unscaled(codec: Codec) -> Codec:
    """The same with all scales 1."""
    return Codec(codec.byte_centroids, codec.pq_centroids, plain_scales(), codec.rotation)


def test_ids_and_codes_are_those_of_faiss(
    codec: Codec, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec.faiss")
    index = faiss.read_index(str(tmp_path / "codec.faiss"))
    ids, codes = codec.encode(vectors)
    packed = codec.pack(ids, codes)
    assert (codec.code_bytes, packed.shape[1]) == (17, 19)
    # Ids by distance, the same but for centroids' rounding.
    theirs = index.sa_encode(vectors)
    assert (packed == theirs)[:, :2].mean() > 0.995
    # The codes that FAISS gives to the directions of what is left over.
    left = codec.rotated(vectors) - codec.centroids[ids]
    pq = faiss.downcast_index(index.index).pq
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    directions = np.pad(left / lengths, ((0, 0), (0, pq.d - left.shape[1])))
    assert (pq.compute_codes(directions)[:, :16] == codes[:, :16]).mean() > 0.999


@pytest.mark.slow
def test_an_index_is_decoded_by_faiss_alone(tmp_path: Path) -> None:
    """As docs/internals/format.md says; and its vectors are as long as those that were given."""
    given = unit_vectors(1200, 64)
    with Index.create(tmp_path / "x", dim=64, flat_tokens=500) as index:
        passages = TokenEmbeddings.from_list(list(given.reshape(120, 10, 64)), 64)
        index.add_embeddings([f"p{i}" for i in range(120)], passages)
        with index.snapshot() as snapshot:
            assert snapshot.codec is not None
            error = snapshot.state.codec_error
            decoded = [s.decode(0, s.n_tokens, snapshot.codec) for s in snapshot.segments]
    whole = faiss.read_index(str(tmp_path / "x" / "codec-1.faiss"))
    layers, turn = faiss.downcast_index(whole.index), faiss.downcast_VectorTransform(whole.chain.at(0))
    ids = []
    for path in sorted((tmp_path / "x" / "segments").glob("*/codes.faiss")):
        stored = faiss.read_index(str(path))
        codes = faiss.vector_to_array(stored.codes).reshape(stored.ntotal, -1)
        layers.add_sa_codes(codes)
        ids.append(codes[:, : layers.code_size_1].astype(np.int64) @ 256 ** np.arange(layers.code_size_1))
    both = layers.reconstruct_n(0, 1200)  # centroid and direction, then scale and gain
    centroids = faiss.downcast_index(layers.q1.quantizer).reconstruct_n(0, layers.q1.nlist)[
        np.concatenate(ids), :64
    ]
    directions, scales, gains = both[:, :64] - centroids, both[:, 64:65], both[:, 65:66]
    found = (centroids + gains * directions) * scales @ faiss.vector_to_array(turn.A).reshape(-1, 64)[:64]
    np.testing.assert_allclose(np.concatenate(decoded), found, rtol=0, atol=1e-6)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).mean() < 0.005
    assert error == pytest.approx(np.square(found - given).sum(axis=1).mean(), rel=0.05)


def test_a_byte_holds_the_best_gain_and_the_length(
    codec: Codec, unscaled: Codec, vectors: npt.NDArray[np.float32]
) -> None:
    """Of vectors that were not in the sample, of any length that the codes follow; each against a plain loop."""
    few = unit_vectors(500, 32, seed=1) * np.linspace(0.95, 1.05, 500, dtype=np.float32)[:, None]
    ids, codes = codec.encode(few)
    for vector, i, code in zip(codec.rotated(few), ids, codes, strict=True):
        centroid = codec.centroids[i]
        direction = codec.pq_centroids[np.arange(codec.m), code[:-1]].ravel()
        scales = codec.scales.reshape(16, 16, 2)
        errors = [np.square(vector - centroid - gain * direction).sum() for gain in scales[:, 0, 1]]
        level, within = divmod(int(code[-1]), 16)
        assert errors[level] <= min(errors) + 1e-6
        decoded = centroid + scales[level, 0, 1] * direction
        off = np.abs(np.linalg.norm(vector) - scales[level, :, 0] * np.linalg.norm(decoded))
        assert off[within] <= off.min() + 1e-5
    # The ids and the direction are as with scales and gains of 1.
    plain_ids, plain_codes = unscaled.encode(few)
    np.testing.assert_array_equal(ids, plain_ids)
    np.testing.assert_array_equal(codes[:, :-1], plain_codes[:, :-1])
    decoded, plain = codec.decode(ids, codes), unscaled.decode(ids, codes)
    assert np.square(decoded - few).sum(axis=1).mean() < 0.8 * np.square(plain - few).sum(axis=1).mean()
    lengths = np.linalg.norm(few, axis=1)
    assert np.abs(np.linalg.norm(decoded, axis=1) - lengths).mean() < 0.005
    assert np.square(few - decoded).sum(axis=1) == pytest.approx(codec.error(few), abs=1e-6)


def test_scales_cover_what_the_sample_wants(codec: Codec) -> None:
    assert codec.scales.shape == (256, 2)
    scales, gains = codec.scales.reshape(16, 16, 2).transpose(2, 0, 1)
    assert (np.diff(scales, axis=1) > 0).all()
    assert (np.diff(gains[:, 0]) > 0).all()
    assert (gains == gains[:, :1]).all()
    assert gains[0, 0] == 0
    assert 1 in scales[0]
    assert (scales[1:, 0] <= 0.9).all()
    assert (scales[1:, -1] >= 1.1).all()


@pytest.mark.slow
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


def test_more_centroids_keep_the_scales(codec: Codec) -> None:
    novel = np.tile(-unit_vectors(1, 32, seed=9), (400, 1)) + 0.3 * unit_vectors(400, 32, seed=8)
    extended = codec.extended(novel, 4000, error=0.0, most=1000)
    assert extended.nlist > codec.nlist
    ids, codes = codec.encode(novel)
    np.testing.assert_array_equal(extended.decode(ids, codes), codec.decode(ids, codes))


def test_more_centroids_are_rounded_to_the_ranges_of_the_first(codec: Codec, tmp_path: Path) -> None:
    far = 3 * unit_vectors(400, 32, seed=8)
    extended = codec.extended(far, 4000, error=0.0, most=1000)
    np.testing.assert_array_equal(extended.byte_centroids.low, codec.byte_centroids.low)
    np.testing.assert_array_equal(extended.centroids[: codec.nlist], codec.centroids)
    np.testing.assert_array_equal(extended.centroids, extended.byte_centroids.floats())
    extended.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32)
    np.testing.assert_array_equal(loaded.centroids, extended.centroids)


def test_assignment_is_the_largest_inner_product(codec: Codec, vectors: npt.NDArray[np.float32]) -> None:
    scores = codec.rotated(vectors) @ codec.centroids.T
    chosen = scores[np.arange(len(vectors)), codec.assign(vectors)]
    np.testing.assert_allclose(chosen, scores.max(axis=1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codec.centroids, axis=1), 1, rtol=0, atol=1e-2)


def words(n: int, first: int = 0, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Vectors near the places of 60 vocabulary ids, some of them frequent, and their ids."""
    random = np.random.default_rng(seed)
    ids = first + np.minimum(random.geometric(0.06, n), 60).astype(np.int32)
    rows = np.random.default_rng(5).standard_normal((200, 32))[ids] + 0.8 * random.standard_normal((n, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), ids


@pytest.mark.slow
def test_with_token_ids_each_has_centroids_of_its_own(tmp_path: Path) -> None:
    x, ids = words(6000)
    own, among_all = Codec.train(x, 512, token_ids=ids), Codec.train(x, 512)
    assert own.owners is not None
    assert among_all.owners is None
    assert (own.nlist, set(own.owners.tokens.tolist())) == (512, set(ids.tolist()))
    some, some_ids = words(500, seed=1)
    some_ids[:20] = [NO_ID] * 10 + [190] * 10  # without one, and one that was not there
    scores = own.rotated(some) @ own.centroids.T
    foreign = own.owners.tokens != some_ids[:, None]
    foreign[:20] = False
    found = own.assign(some, some_ids)
    np.testing.assert_allclose(
        scores[np.arange(500), found], np.where(foreign, -np.inf, scores).max(axis=1), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(own.encode(some, some_ids)[0], found)
    # Where nothing is known of ids, all are compared.
    np.testing.assert_allclose(
        scores[np.arange(500), own.assign(some)], scores.max(axis=1), rtol=0, atol=1e-6
    )
    assert own.error(some[20:], some_ids[20:]).mean() < 1.05 * among_all.error(some[20:]).mean()
    for name, codec in (("codec", own), ("again", Codec.train(x, 512, token_ids=ids))):
        assert codec.owners is not None
        codec.save(tmp_path / f"{name}.faiss")
        codec.owners.save(tmp_path / f"{name}.owners.npy")
    for kind in ("faiss", "owners.npy"):
        assert (tmp_path / f"codec.{kind}").read_bytes() == (tmp_path / f"again.{kind}").read_bytes()
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32, owners=tmp_path / "codec.owners.npy")
    for one, other in zip(loaded.encode(some, some_ids), own.encode(some, some_ids), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_without_a_choice_of_ids_centroids_belong_to_none(vectors: npt.NDArray[np.float32]) -> None:
    assert Codec.train(vectors, 64, token_ids=np.full(len(vectors), 3, np.int32)).owners is None


@pytest.mark.slow
def test_a_graph_finds_the_centroids_of_many_without_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = words(6000)
    codec = Codec.train(x, 512, token_ids=ids)
    none = np.full(len(x), NO_ID, np.int32)
    exact = codec.assign(x, none)
    monkeypatch.setattr(indexing.coding.training, "HNSW_NLIST", 1)
    monkeypatch.setattr(indexing.coding.codec, "FEW", 10)
    graph = Codec(codec.byte_centroids, codec.pq_centroids, codec.scales, codec.rotation, codec.owners)
    assert (graph.assign(x, none) == exact).mean() > 0.97
    assert isinstance(graph._quantizer, faiss.IndexHNSWFlat)


@pytest.mark.slow
@pytest.mark.parametrize("with_ids", [True, False])
def test_new_words_get_centroids_of_their_own(with_ids: bool) -> None:
    x, ids = words(6000)
    codec = Codec.train(x, 300, token_ids=ids)  # two bytes of id
    assert codec.owners is not None
    x, ids = words(3000, first=100)
    given = ids if with_ids else None
    grown = codec.extended(x, 6000, given, error=0.0, most=1000)
    assert grown.owners is not None
    np.testing.assert_array_equal(grown.owners.tokens[: codec.nlist], codec.owners.tokens)
    new = grown.owners.tokens[codec.nlist :]
    assert len(new) == 6000 // 16
    assert set(new.tolist()) == (set(ids.tolist()) if with_ids else {NO_ID})
    assert grown.error(x, given).mean() < 0.8 * codec.error(x, given).mean()
    if with_ids:
        np.testing.assert_array_equal(grown.owners.tokens[grown.assign(x, ids)], ids)
    old = codec.encode(*words(50))
    np.testing.assert_array_equal(grown.decode(*old), codec.decode(*old))


def test_graph_assignment_is_nearly_the_same(
    codec: Codec, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = codec.assign(vectors)
    monkeypatch.setattr(indexing.coding.training, "HNSW_NLIST", 1)
    graph = Codec(codec.byte_centroids, codec.pq_centroids, codec.scales, codec.rotation)
    assert (graph.assign(vectors) == exact).mean() > 0.97


def test_residual_codes_leave_less_than_half_of_the_error(
    codec: Codec, vectors: npt.NDArray[np.float32]
) -> None:
    few = vectors[:50]
    ids, codes = codec.encode(few)
    centroid_error = ((codec.rotated(few) - codec.centroids[ids]) ** 2).sum(axis=1).mean()
    assert ((few - codec.decode(ids, codes)) ** 2).sum(axis=1).mean() < 0.5 * centroid_error


@pytest.mark.slow
def test_training_is_repeatable_and_files_keep_every_bit(
    codec: Codec, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    again = Codec.train(vectors, nlist=300)
    codec.save(tmp_path / "codec.faiss")
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32)
    for other in (again, loaded):
        np.testing.assert_array_equal(other.centroids, codec.centroids)
        np.testing.assert_array_equal(other.pq_centroids, codec.pq_centroids)
        np.testing.assert_array_equal(other.scales, codec.scales)
        np.testing.assert_array_equal(other.rotation, codec.rotation)
    assert (loaded.nlist, loaded.m, loaded.dim, loaded.code_bytes) == (300, 16, 32, 17)


def test_a_codec_of_another_kind_is_refused(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "codec.faiss"
    codec.save(path)
    with pytest.raises(IndexFormatError, match=r"codes 32 dimensions in 32, the index needs 64; restore it"):
        Codec.load(path, dim=64)
    whole = faiss.read_index(str(path))
    turn, layers = faiss.downcast_VectorTransform(whole.chain.at(0)), faiss.downcast_index(whole.index)
    half = faiss.IndexScalarQuantizer(34, faiss.ScalarQuantizer.QT_fp16)
    half.train(np.zeros((1, 34), np.float32))
    without_scales, narrow = codec.byte_centroids.quantizer(0), faiss.RandomRotationMatrix(32, 32)
    narrow.init(0)
    others = [
        (
            faiss.IndexFlatL2(4),
            "has a FAISS IndexFlatL2 where an index of Latewood has its IndexPreTransform",
        ),
        (layers, "has a FAISS Index2Layer where .* has its IndexPreTransform; build the index again"),
        (with_turn(turn, faiss.IndexFlatL2(34)), "FAISS IndexFlatL2 where .* its Index2Layer"),
        (
            with_turn(faiss.NormalizationTransform(34), layers),
            "NormalizationTransform .* its LinearTransform",
        ),
        (
            with_turn(turn, trained(faiss.Index2Layer(faiss.IndexFlatL2(34), 300, 17))),
            "FAISS IndexFlatL2 where .* its IndexScalarQuantizer",
        ),
        (
            with_turn(turn, trained(faiss.Index2Layer(half, 300, 17))),
            "has not one rotation, centroids in bytes",
        ),
        (
            with_turn(turn, trained(faiss.Index2Layer(layers.q1.quantizer, 300, 17, 4))),
            "codes of bytes; build",
        ),
        (faiss.IndexPreTransform(layers), "has not one rotation"),
        (with_turn(narrow, trained(faiss.Index2Layer(without_scales, 300, 16))), "codes 32 dimensions in 30"),
    ]
    for other, message in others:
        faiss.write_index(other, str(path))
        with pytest.raises(IndexFormatError, match=rf"codec\.faiss .*{message}"):
            Codec.load(path, dim=32)


def with_turn(turn: Any, index: Any) -> Any:
    return trained(faiss.IndexPreTransform(turn, index))


def trained(index: Any) -> Any:
    index.is_trained = True
    return index


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1, 0])
def test_scales_and_rotations_that_cannot_be_are_refused(codec: Codec, tmp_path: Path, bad: float) -> None:
    path = tmp_path / "codec.faiss"
    scales, rotation = codec.scales.copy(), codec.rotation.copy()
    scales[100] = rotation[3, 4:] = bad
    for wrong in ((scales, codec.rotation), (codec.scales, rotation)):
        Codec(codec.byte_centroids, codec.pq_centroids, *wrong).save(path)
        with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
            Codec.load(path, dim=32)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 200, 256, 257, 300, 65536, 65537]),
    st.integers(0, 40),
    st.integers(0, 2**32 - 1),
)
def test_packed_codes_come_back_from_a_mapped_file(
    tmp_path_factory: pytest.TempPathFactory, nlist: int, n: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    codec = random_codec(random, nlist, m=2, part=2)
    ids = random.integers(0, nlist, n).astype(np.int32)
    residuals = random.integers(0, 256, (n, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("codes") / "codes.faiss"
    packed = codec.pack(ids, residuals)
    write_codes(path, codec, [packed[: n // 3], packed[n // 3 :]])
    whole = codec._layers(faiss.IndexFlatL2(codec._stored_dim))
    if n:
        whole.add_sa_codes(packed)
    assert path.read_bytes() == faiss.serialize_index(whole).tobytes()
    codes = read_codes(path)
    width = id_bytes(nlist)
    assert codes.shape == (n, width + 3)
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
    ("dim", "size", "m"),
    [
        *((128, 20, 16), (96, 20, 16), (256, 20, 32), (768, 20, 96), (127, 20, 17), (8, 20, 8), (128, 12, 8)),
        *((128, 32, 29), (128, 48, 45), (128, 132, 128), (256, 32, 58), (8, 48, 8)),
    ],
)
def test_bytes_of_residual(dim: int, size: int, m: int) -> None:
    assert choose_m(dim, size) == m
    # The centroid's number takes a byte more.
    assert choose_m(dim, size, 1 << 17) == {29: 28, 45: 44, 58: 56, 17: 16}.get(m, m)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "turned"), [(5, 35), (13, 39), (28, 56), (32, 64)])
def test_more_bytes_lose_less_whether_they_divide_the_dimensions_or_not(
    vectors: npt.NDArray[np.float32], tmp_path: Path, m: int, turned: int
) -> None:
    errors = [float(Codec.train(vectors, 300, bytes_, seed=1).error(vectors).mean()) for bytes_ in (m - 2, m)]
    assert errors[1] < 0.97 * errors[0]
    codec = Codec.train(vectors, 300, m, seed=1)
    assert (codec.dim, codec.turned_dim, codec.code_bytes) == (32, turned, m + 1)
    few = vectors[:50]
    turned_back = codec.rotated(few) @ codec.rotation.T
    np.testing.assert_allclose(turned_back, few, atol=1e-5)
    ids, codes = codec.encode(few)
    codec.save(tmp_path / "codec.faiss")
    write_codes(tmp_path / "codes.faiss", codec, [codec.pack(ids, codes)])
    loaded = Codec.load(tmp_path / "codec.faiss", dim=32)
    np.testing.assert_array_equal(loaded.decode(ids, codes), codec.decode(ids, codes))
    again = loaded.encode(few)
    np.testing.assert_array_equal(again[0], ids)
    np.testing.assert_array_equal(again[1], codes)
    # Each part's code is the nearest of its places to what is left over, counted without FAISS.
    left = (codec.rotated(few) - codec.centroids[ids]).reshape(len(few), m, 1, -1)
    nearest = np.square(left - codec.pq_centroids).sum(axis=3).argmin(axis=2)
    np.testing.assert_array_equal(codec._nearest_codes(left.reshape(len(few), turned)), nearest)


def test_what_cannot_be_trained_is_refused(vectors: npt.NDArray[np.float32], codec: Codec) -> None:
    with pytest.raises(ArgumentError, match="255 vectors cannot train"):
        Codec.train(vectors[:255])
    with pytest.raises(ArgumentError, match="nlist=301 with 300 sample vectors"):
        Codec.train(vectors[:300], nlist=301)
    with pytest.raises(ArgumentError, match="pass 2 <= nlist <= 300"):
        Codec.train(vectors[:300], nlist=1)
    with pytest.raises(ArgumentError, match="m=33 for vectors of dim=32; pass 1 <= m <= 32"):
        Codec.train(vectors, m=33)
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
    low = whole.index(codec.byte_centroids.low.tobytes())
    path.write_bytes(whole[:low] + b"\xff" * 4 + whole[low + 4 :])  # not a number
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        Codec.load(path, dim=32)
    path.write_bytes(whole[:-1000])
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        Codec.load(path, dim=32)
    with pytest.raises(IndexFormatError, match=r"codec\.faiss is damaged"):
        read_codes(path)
    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    with pytest.raises(IndexFormatError, match=r"has a FAISS IndexFlatL2 where .* has its Index2Layer"):
        read_codes(path)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.coding.centroids.faiss_module.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    try:
        with pytest.raises(MissingDependencyError, match=r"pip install 'latewood\[cpu\]'"):
            Codec.train(unit_vectors(300, 16))
    finally:
        indexing.coding.centroids.faiss_module.cache_clear()
