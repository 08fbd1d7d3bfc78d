"""Token pooling against Ward's method written out, and its way through the encoder and an index."""

import builtins

import numpy as np
import pytest

from encoder import Encoder
from encoder.errors import ArgumentError, MissingDependencyError
from encoder.pooling import pool_tokens
from indexing import Index
from tests.helpers.checkpoints import pylate

TEXT = "the old oak, the new elm and a red leaf grow late in early light by water"


def unit(n, seed=0, dim=8):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ward(rows, n_clusters):
    """Lance and Williams' recurrence for Ward, on cosine distances: the clusters, as sets of rows."""
    clusters = {i: {i} for i in range(len(rows))}
    d = {(i, j): 1.0 - float(rows[i] @ rows[j]) for i in clusters for j in clusters if i != j}
    while len(clusters) > n_clusters:
        a, b = min(((i, j) for i in clusters for j in clusters if i < j), key=lambda pair: d[pair])
        na, nb = len(clusters[a]), len(clusters[b])
        for c in clusters.keys() - {a, b}:
            nc = len(clusters[c])
            square = (na + nc) * d[a, c] ** 2 + (nb + nc) * d[b, c] ** 2 - nc * d[a, b] ** 2
            d[a, c] = d[c, a] = (square / (na + nb + nc)) ** 0.5
        clusters[a] |= clusters.pop(b)
    return sorted(clusters.values(), key=min)


@pytest.mark.parametrize(("n", "factor"), [(2, 2), (9, 2), (10, 3), (31, 2), (31, 4), (7, 50)])
def test_equals_wards_method(n, factor):
    vectors = unit(n, seed=n)
    clusters = ward(vectors[1:].astype(np.float64), max((n - 1) // factor, 1))
    means = np.array([vectors[1:][sorted(members)].mean(0) for members in clusters])
    expected = np.concatenate([vectors[:1], means / np.linalg.norm(means, axis=1, keepdims=True)])
    np.testing.assert_allclose(pool_tokens(vectors, factor), expected, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_factor_one_and_short_documents_stay_as_they_are(n):
    np.testing.assert_array_equal(pool_tokens(unit(n), 1), unit(n))
    assert len(pool_tokens(unit(n), 3)) == min(n, 2)


def test_equal_vectors_become_one():
    pooled = pool_tokens(np.repeat(unit(1), 9, axis=0), 2)
    assert 2 <= len(pooled) <= 5
    np.testing.assert_allclose(pooled, np.repeat(unit(1), len(pooled), axis=0), atol=1e-6)


@pytest.mark.slow
def test_an_encoder_pools_documents_and_no_queries(tmp_path):
    pylate(tmp_path)
    plain, pooling = Encoder.load(tmp_path), Encoder.load(tmp_path, pool_factor=2)
    whole, pooled = plain.encode_documents([TEXT, "", "oak"]), pooling.encode_documents([TEXT, "", "oak"])
    for i in range(3):
        np.testing.assert_array_equal(pooled[i], pool_tokens(whole[i], 2))
    assert len(pooled[0]) < len(whole[0])
    assert pooled.token_ids is None  # a vector stands for several
    assert len(pooling.encode_queries([TEXT]).token_ids) == len(plain.encode_queries([TEXT]).vectors)
    np.testing.assert_array_equal(
        pooling.encode_queries([TEXT]).vectors, plain.encode_queries([TEXT]).vectors
    )
    assert Encoder.load(**pooling.load_arguments).pool_factor == 2
    assert pooling.fingerprint == plain.fingerprint


@pytest.mark.slow
def test_an_index_keeps_the_factor_and_another_one_encodes_anew(tmp_path):
    pylate(tmp_path / "model", backbone=_in_new_folder)
    encoder = Encoder.load(tmp_path / "model", pool_factor=2)
    records = [{"doc_id": "a", "text": TEXT}]
    with Index.create(tmp_path / "index", encoder) as index:
        pooled = index.add(records).tokens
    with Index.open(tmp_path / "index", writable=True) as index:
        assert index.add(records).unchanged == 1
    with Index.open(tmp_path / "index", Encoder.load(tmp_path / "model"), writable=True) as index:
        report = index.add(records)
        assert report.replaced == 1
        assert report.tokens == index.n_tokens > pooled


def _in_new_folder(folder):
    from tests.helpers.checkpoints import modernbert

    folder.mkdir()
    return modernbert(folder)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_other_factors_are_refused(factor):
    with pytest.raises(ArgumentError, match=f"pool_factor={factor}"):
        Encoder.load(pool_factor=factor)


def test_without_scipy_the_extra_is_named_before_anything_is_encoded(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"latewood\[pool\]"):
        Encoder.load(pool_factor=2)
