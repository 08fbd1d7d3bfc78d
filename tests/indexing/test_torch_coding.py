"""The build on a device, by torch on "cpu", against FAISS and plain loops; and that it never waits for the device."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from encoder import TokenEmbeddings
from encoder.embeddings import NO_ID
from encoder.errors import ArgumentError
from indexing import Index
from indexing.coding import torch_coding
from indexing.coding.codec import Codec
from indexing.coding.torch_coding import DeviceCoder, Plan, kmeans, nearest, product_centroids
from retriever import Searcher
from tests.helpers.syncs import SyncError, no_sync

DIM = 32
CPU = torch.device("cpu")
Floats = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int32]


def unit(x: npt.NDArray[np.floating]) -> Floats:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def words(n: int, seed: int = 0) -> tuple[Floats, TokenIds]:
    """Vectors near those of their ids, which occur as words do."""
    random = np.random.default_rng(seed)
    ids = np.minimum(random.zipf(1.3, n), 300).astype(np.int32)
    places = np.random.default_rng(99).standard_normal((301, DIM))
    return unit(places[ids] + 0.5 * random.standard_normal((n, DIM))), ids


@pytest.mark.slow
@pytest.mark.parametrize("with_ids", [True, False])
def test_errors_are_those_of_the_build_by_faiss(with_ids: bool) -> None:
    x, ids = words(8000)
    other, other_ids = words(2000, seed=1)
    given, given_too = (ids, other_ids) if with_ids else (None, None)
    here, there = Codec.train(x, 256, 4, 0, given), Codec.train(x, 256, 4, 0, given, CPU)
    assert (there.device, there.nlist, there.owners is None) == (CPU, here.nlist, here.owners is None)
    errors = [codec.error(other, given_too).mean() for codec in (here, there)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("tile", [1, 1 << 14, 1 << 25])
def test_codes_are_those_of_the_processor(monkeypatch: pytest.MonkeyPatch, tile: int, with_ids: bool) -> None:
    monkeypatch.setattr(torch_coding, "TILE", tile)
    x, ids = words(3000)
    codec = Codec.train(x, 300, 4, token_ids=ids)
    some, some_ids = words(500, seed=1)
    some_ids[:20] = [NO_ID] * 10 + [299] * 10  # without one, and one that has no centroid
    some[40] = 0
    given = some_ids if with_ids else None
    expected = codec.encode(some, given)
    nearest_ids, error = codec.assign(some, given), codec.error(some, given)
    codec.device = CPU
    np.testing.assert_array_equal(codec.assign(some, given), nearest_ids)
    for found, wanted in zip(
        codec.encode(some.astype(np.float16).astype(np.float32), given), expected, strict=True
    ):
        assert found.dtype == wanted.dtype
        assert (found == wanted).mean() > 0.98  # rounded to halves
    for found, wanted in zip(codec.encode(some, given), expected, strict=True):
        assert (found == wanted).mean() > 0.999  # ties within float32's last bit
    np.testing.assert_allclose(codec.error(some, given), error, atol=1e-3)
    codec.device = None
    np.testing.assert_array_equal(codec.encode(some, given)[1], expected[1])


def test_nearest_within_groups_is_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    counts = np.array([1, 2, 3, 1, 40, 7])
    sizes = np.array([5, 1, 90, 0, 200, 33])
    x, centroids = unit(random.standard_normal((329, DIM))), unit(random.standard_normal((54, DIM)))
    order, bounds = random.permutation(329), np.concatenate([[0], np.cumsum(sizes)])
    plan = Plan(order, bounds, np.cumsum(counts) - counts, counts, CPU)
    ids, products = nearest(torch.from_numpy(x), torch.from_numpy(centroids), plan)
    for group, (first, count) in enumerate(zip(plan.first, counts, strict=True)):
        for row in order[bounds[group] : bounds[group + 1]]:
            scores = centroids[first : first + count] @ x[row]
            assert ids[row] == first + scores.argmax()
            assert float(products[row]) == pytest.approx(scores.max() if count > 1 else 0, abs=1e-5)


def test_kmeans_keeps_every_centroid_in_use_and_in_its_group() -> None:
    spots = unit(np.random.default_rng(0).standard_normal((9, DIM)))
    x = np.concatenate([np.repeat(spots[:1], 400, axis=0), np.repeat(spots[1:], 4, axis=0)])
    groups = np.array([0, 432, 464])  # a second one, of half the spots
    both = torch.from_numpy(np.concatenate([x, x[400:]]))
    order = np.arange(464)
    plan = Plan(order, groups, np.array([0, 64]), np.array([64, 8]), CPU)
    centroids = kmeans(both, plan, 4, 0)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(72))
    _, products = nearest(both, centroids, plan)
    torch.testing.assert_close(products, torch.ones(464))


def test_lone_centroids_are_the_mean_of_their_id() -> None:
    x, ids = words(2000)
    found, tokens = torch_coding.train_centroids(x, ids, 200, 4, 0, CPU)
    assert tokens is not None
    assert (found.shape, len(tokens)) == ((200, DIM), 200)
    rare = [i for i in set(tokens.tolist()) if (tokens == i).sum() == 1]
    assert len(rare) > 20
    for i in rare:
        np.testing.assert_allclose(found[tokens == i][0], unit(x[ids == i].mean(axis=0)), atol=1e-5)


def test_product_centroids_fill_up_where_sub_vectors_are_alike() -> None:
    parts = np.zeros((2000, 8), np.float32)
    parts[:, 0] = np.arange(2000) % 500
    found = product_centroids(parts, 2, 25, 0, CPU)
    assert (found[1] == 0).all()
    assert len(np.unique(found[0, :, 0])) > 200
    distance = np.abs(parts[:, :1] - found[0, :, 0]).min(axis=1)
    assert distance.max() <= 2


@pytest.mark.slow
def test_growth_adds_centroids_of_their_ids() -> None:
    x, ids = words(6000)
    few = ids < 100
    codec = Codec.train(x[few], 300, 4, token_ids=ids[few], device=CPU)
    grown = codec.extended(x[~few], 6000, ids[~few], error=0.0, most=1000)
    assert grown.device == CPU
    assert grown.owners is not None
    assert set(grown.owners.tokens[300:].tolist()) == set(ids[~few].tolist())
    assert grown.error(x[~few], ids[~few]).mean() < 0.8 * codec.error(x[~few], ids[~few]).mean()
    old = codec.encode(x[few][:50], ids[few][:50])
    np.testing.assert_array_equal(grown.decode(*old), codec.decode(*old))


@pytest.mark.slow
@pytest.mark.parametrize("with_ids", [True, False])
def test_nothing_waits_for_the_device_but_what_is_given_back(with_ids: bool) -> None:
    x, ids = words(3000)
    given = ids if with_ids else None
    codec = Codec.train(x, 300, 4, token_ids=given)
    coder = DeviceCoder(codec, CPU)
    with no_sync(copies=1):
        coder.encode(x, given)
    with no_sync(copies=1):
        coder.nearest(codec.rotated(x), given)
    # How much ids spread decides how many centroids each gets. The sample goes there while nothing else is to do.
    with no_sync(copies=2 if with_ids else 1, uploads=1):
        torch_coding.train_centroids(x, given, 64, 4, 0, CPU)
    with no_sync(copies=1):
        product_centroids(x, 4, 3, 0, CPU)


def test_waiting_is_caught() -> None:
    one = torch.ones(3)
    for wait in (
        lambda: float(one.sum()),
        lambda: one[one > 0],
        lambda: one.cpu(),
        lambda: torch.nonzero(one),
        lambda: bool(one[0]),
        lambda: one.repeat_interleave(one.long()),
        lambda: one.to("cpu"),
        lambda: torch.tensor([1.0], device=CPU),
    ):
        with pytest.raises(SyncError), no_sync():
            wait()
        with ThreadPoolExecutor(1) as before:
            before.submit(int).result()
            with pytest.raises(SyncError), no_sync(), ThreadPoolExecutor(1) as thread:
                thread.submit(wait).result()
            before.submit(wait).result()
    wait()  # nothing is left of it


@pytest.mark.slow
def test_an_index_built_by_either_is_searched_and_grown_by_the_other(tmp_path: Path) -> None:
    x, ids = words(12_000)
    more, more_ids = words(900, seed=5)
    query = x[[10, 11, 12]]
    found = {}
    for name, first, then in (("processor", None, "cpu"), ("device", "cpu", None)):
        lengths = np.arange(0, 12_001, 30)
        with Index.create(tmp_path / name, dim=DIM, flat_tokens=8000, device=first) as index:
            index.add_embeddings([f"d{i}" for i in range(400)], TokenEmbeddings(x, lengths, token_ids=ids))
            assert index.info()["nlist"] > 0
        with Index.open(tmp_path / name, writable=True, device=then) as index:
            added = TokenEmbeddings(more, np.arange(0, 901, 30), token_ids=more_ids)
            index.add_embeddings([f"e{i}" for i in range(30)], added)
            index.verify()
            assert index.info()["tokens"] == 12_900
        for device in (None, "cpu"):
            with Searcher.open(tmp_path / name, device=device) as searcher:
                hits = searcher.search_embeddings(query, k=10)
                assert hits[0].doc_id == "d0"
                found[name, device] = [hit.score for hit in hits]
        with Searcher.open(tmp_path / name) as searcher:
            assert searcher.search_embeddings(more[30:60], k=1)[0].doc_id == "e1"
    for other in found.values():
        np.testing.assert_allclose(found["processor", None], other, atol=0.1)


@pytest.mark.parametrize("device", ["cuda:97", "gpu"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(ArgumentError, match=f"device='{device}' cannot be used"):
        Index.create(tmp_path / "x", dim=DIM, device=device)
    assert not (tmp_path / "x").exists()
    Index.create(tmp_path / "y", dim=DIM).close()
    with pytest.raises(ArgumentError, match=f"device='{device}' cannot be used"):
        Index.open(tmp_path / "y", writable=True, device=device)


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    x, _ = words(600)
    monkeypatch.setattr(torch_coding, "nearest", full)
    with pytest.raises(
        ArgumentError,
        match=r"^cpu has too little memory to build an index \(CUDA out of memory\); leave device",
    ):
        Codec.train(x, 16, 4, device=CPU)
