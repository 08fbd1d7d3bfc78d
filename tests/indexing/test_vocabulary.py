"""Centroids within vocabulary ids: dealt out, trained, searched, kept."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.embeddings import NO_ID
from encoder.errors import IndexFormatError
from indexing.coding.vocabulary import (
    ROWS_PER_CENTROID,
    Owners,
    nearest,
    owners_file,
    share_out,
    train_within,
)

DIM = 16


def unit(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def tokens(n: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Vectors near those of their ids, which occur as words do: few often, many rarely."""
    random = np.random.default_rng(seed)
    ids = np.minimum(random.zipf(1.3, n), 500).astype(np.int32) * 7
    places = np.random.default_rng(99).standard_normal((4000, DIM))
    return unit(places[ids] + 0.5 * random.standard_normal((n, DIM))), ids


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=60), st.integers(1, 500), st.integers(0, 2**32 - 1)
)
def test_shares_keep_their_bounds_and_their_sum(counts: list[int], nlist: int, seed: int) -> None:
    n = np.array(counts)
    shares = share_out(n, np.random.default_rng(seed).random(len(n)) + 1e-3, nlist)
    most = np.maximum(n // ROWS_PER_CENTROID, 1)
    assert (shares <= most).all()
    assert shares.sum() <= nlist
    if len(n) <= nlist // 2:
        assert (shares >= 1).all()
        assert shares.sum() == min(nlist, most.sum())
    assert shares[n.argmax()] >= 1


def test_what_is_frequent_and_varied_gets_more_and_what_is_all_alike_one() -> None:
    shares = share_out(np.array([1000, 1000, 4000, 1000, 3]), np.array([0.1, 0.2, 0.1, 0.0, 0.5]), 100)
    assert shares.sum() == 100
    assert shares[3:].tolist() == [1, 1]
    assert shares[1] == pytest.approx(2 * shares[0], abs=1)
    assert shares[0] < shares[2] < 4 * shares[0]


def test_the_rarest_ids_get_none_where_they_are_too_many() -> None:
    shares = share_out(np.arange(1, 101), np.ones(100), 40)
    assert (shares[:80] == 0).all()
    assert (shares[80:] >= 1).all()
    assert shares.sum() == 40


@pytest.mark.slow
def test_centroids_are_of_their_ids_vectors_and_the_same_again() -> None:
    x, ids = tokens(5000)
    centroids, owners = train_within(x, ids, 1024, 0)
    again, _ = train_within(x, ids, 1024, 0)
    np.testing.assert_array_equal(centroids, again)
    assert (train_within(x, ids, 1024, 1)[0] != centroids).any()
    assert len(centroids) == len(owners) <= 1024
    assert set(owners.tolist()) == set(ids.tolist())
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=0, atol=1e-5)
    rare = [i for i in set(ids.tolist()) if (ids == i).sum() < 2 * ROWS_PER_CENTROID]
    assert len(rare) > 50
    for i in rare:
        [own] = centroids[owners == i]
        np.testing.assert_allclose(own, unit(x[ids == i].mean(axis=0, dtype=np.float64)[None])[0], atol=1e-5)
    # Better than as many vectors of each id drawn at random.
    random = np.random.default_rng(0)
    drawn = np.concatenate(
        [x[random.permutation(np.flatnonzero(ids == i))[: (owners == i).sum()]] for i in np.unique(ids)]
    )
    whose = Owners(owners)
    errors = [np.square(x - c[whose.nearest(x, ids, c)]).sum(axis=1).mean() for c in (centroids, drawn)]
    assert errors[0] < 0.8 * errors[1]


def test_clusters_that_lose_all_their_vectors_are_filled_again() -> None:
    spots = unit(np.random.default_rng(0).standard_normal((8, DIM)))
    x = np.concatenate([np.repeat(spots[:1], 400, axis=0), np.repeat(spots[1:], 4, axis=0)])
    centroids, _ = train_within(x, np.zeros(len(x), np.int32), 64, 0)
    found = nearest(x, centroids)[1]
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [1, 1 << 21])
def test_a_vector_is_compared_with_those_of_its_id_alone(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("indexing.coding.vocabulary.BLOCK_SCORES", block)
    random = np.random.default_rng(0)
    centroids = unit(random.standard_normal((60, DIM)))
    owners = random.integers(NO_ID, 12, 60).astype(np.int32)
    x, ids = unit(random.standard_normal((400, DIM))), random.integers(NO_ID, 20, 400).astype(np.int32)
    found = Owners(owners).nearest(x, ids, centroids)
    for vector, token, centroid in zip(x, ids.tolist(), found.tolist(), strict=True):
        own = np.flatnonzero(owners == token) if token != NO_ID else []
        assert centroid == (own[(centroids[own] @ vector).argmax()] if len(own) else -1)
    assert (found == -1).any()


def test_owners_are_kept_in_a_file_beside_the_codec(tmp_path: Path) -> None:
    path = tmp_path / owners_file("codec-12.faiss")
    assert path.name == "codec-12.owners.npy"
    owners = np.array([3, NO_ID, 3, 0], np.int32)
    Owners(owners).save(path)
    np.testing.assert_array_equal(Owners.load(path, 4).tokens, owners)
    with pytest.raises(
        IndexFormatError, match=r"codec-12\.owners\.npy holds int32 of shape \(4,\), the codec"
    ):
        Owners.load(path, 5)
    for wrong in (owners.astype(np.int64), owners - 1):
        np.save(path, wrong)
        with pytest.raises(IndexFormatError, match=r"codec-12\.owners\.npy holds"):
            Owners.load(path, 4)
    path.write_bytes(b"")
    with pytest.raises(IndexFormatError, match=r"codec-12\.owners\.npy is damaged"):
        Owners.load(path, 4)
