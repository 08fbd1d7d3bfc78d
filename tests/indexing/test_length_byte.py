"""Indexes with a byte for the length of each vector, and those from before there was one."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from encoder.embeddings import TokenEmbeddings
from encoder.errors import IndexFormatError
from indexing import Index
from retriever import Searcher
from tests.retriever.test_searcher import brute_force

faiss = pytest.importorskip("faiss")

DIM, PASSAGES, LENGTH, FIRST = 64, 120, 10, 90


@pytest.fixture(scope="module")
def vectors() -> list[npt.NDArray[np.float32]]:
    """Of unit length, around some centres."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((8, DIM))
    return [unit(random, LENGTH, centres[random.integers(0, 8, LENGTH)]) for _ in range(PASSAGES)]


def unit(random: np.random.Generator, n: int, around: npt.ArrayLike = 0) -> npt.NDArray[np.float32]:
    rows = np.asarray(around) + 0.5 * random.standard_normal((n, DIM))
    found: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def make(path: Path, *, before: bool) -> Path:
    """An empty index; before: with the settings that one made earlier has."""
    Index.create(path, dim=DIM, flat_tokens=500).close()
    if before:
        db = sqlite3.connect(path / "index.db")
        with db:
            db.execute("UPDATE settings SET value = json_remove(value, '$.length_byte') WHERE key = 'index'")
        db.close()
    return path


def add(index: Index, vectors: list[npt.NDArray[np.float32]], start: int, stop: int) -> None:
    ids = [f"p{i}" for i in range(start, stop)]
    chunk = TokenEmbeddings.from_list(vectors[start:stop], DIM)
    index.add_embeddings(ids, chunk, texts=[f"text {i}" for i in range(start, stop)])


def stored_settings(path: Path) -> dict[str, object]:
    db = sqlite3.connect(path / "index.db")
    [[value]] = db.execute("SELECT value FROM settings WHERE key = 'index'").fetchall()
    db.close()
    found: dict[str, object] = json.loads(value)
    return found


def by_faiss(index: Index) -> npt.NDArray[np.float32]:
    """All stored vectors as FAISS decodes the files, without Latewood, turned back by the rotation."""
    whole = faiss.read_index(str(next(index.folder.glob("codec-*.faiss"))))
    codec = faiss.downcast_index(whole.index)
    turn = faiss.downcast_VectorTransform(whole.chain.at(0))
    for segment in index.segments:
        codes = faiss.read_index(str(index.folder / "segments" / f"{segment.segment_id:06d}" / "codes.faiss"))
        codec.add_sa_codes(faiss.vector_to_array(codes.codes).reshape(codes.ntotal, -1))
    found: npt.NDArray[np.float32] = codec.reconstruct_n(0, codec.ntotal)
    found[:, :DIM] = found[:, :DIM] @ faiss.vector_to_array(turn.A).reshape(turn.d_out, DIM)[:DIM]
    return found


def scores(path: Path, queries: list[npt.NDArray[np.float32]]) -> list[dict[str, float]]:
    """Of every passage, by search; each found equal to MaxSim on decoded vectors."""
    found = []
    with Searcher.open(path) as searcher, Searcher.open(path, device="cpu") as device:
        for query in queries:
            hits = {hit.doc_id: hit.score for hit in searcher.search_embeddings(query, k=PASSAGES)}
            expected = brute_force(searcher.index, query)
            assert hits == pytest.approx(expected, abs=1e-3)
            other = {hit.doc_id: hit.score for hit in device.search_embeddings(query, k=PASSAGES)}
            assert other == pytest.approx(expected, abs=1e-3)
            found.append(hits)
    return found


def test_an_index_from_before_stays_as_it_was(tmp_path: Path, vectors: list[npt.NDArray[np.float32]]) -> None:
    path = make(tmp_path / "x", before=True)
    queries = [unit(np.random.default_rng(n), n) for n in (1, 7, 40)]
    assert "length_byte" not in stored_settings(path)
    with Index.open(path, writable=True) as index:
        add(index, vectors, 0, FIRST)
        assert index.codec is not None
        m = index.codec.m
        assert not index.info()["length_byte"]
        assert {segment.codes.shape[1] for segment in index.segments} == {1 + m}
        decoded = by_faiss(index)
        assert decoded.shape[1] == DIM
        own = np.concatenate([s.decode(0, s.n_tokens, index.codec) for s in index.segments])
        np.testing.assert_allclose(own, decoded, atol=1e-6)
    first = scores(path, queries)
    with Index.open(path, writable=True) as index:
        add(index, vectors, FIRST, PASSAGES)
        index.delete([f"p{i}" for i in range(0, PASSAGES, 7)])
    grown = scores(path, queries)
    with Index.open(path, writable=True) as index:
        codec, centroids = index.codec, index.codec.nlist if index.codec else 0
        index.compact()
        assert index.codec is not None
        assert (index.codec is codec, index.codec.nlist) == (True, centroids)
        assert {segment.codes.shape[1] for segment in index.segments} == {1 + m}
        index.verify()
    compacted = scores(path, queries)
    for before, after, last in zip(first, grown, compacted, strict=True):
        assert len(after) == PASSAGES - len(range(0, PASSAGES, 7))
        assert last == after  # to the last bit
        kept = before.keys() & after.keys()
        assert {i: after[i] for i in kept} == {i: before[i] for i in kept}
    assert "length_byte" not in stored_settings(path)


def test_a_new_index_keeps_lengths(tmp_path: Path, vectors: list[npt.NDArray[np.float32]]) -> None:
    errors, ids = {}, {}
    for before in (True, False):
        path = make(tmp_path / str(before), before=before)
        with Index.open(path, writable=True) as index:
            add(index, vectors, 0, PASSAGES)
            assert index.codec is not None
            decoded = np.concatenate([s.decode(0, s.n_tokens, index.codec) for s in index.segments])
            errors[before] = float(np.square(decoded - np.concatenate(vectors)).sum(axis=1).mean())
            ids[before] = np.concatenate([segment.codes for segment in index.segments])
            if not before:
                assert index.info()["length_byte"]
                theirs = by_faiss(index)
                np.testing.assert_allclose(
                    decoded, theirs[:, :DIM] * theirs[:, DIM : DIM + 1], rtol=0, atol=1e-6
                )
                step = np.diff(index.codec.scales).max()
                assert np.abs(np.linalg.norm(decoded, axis=1) - 1).max() < step
                assert index._store.state.codec_error == pytest.approx(errors[False], rel=0.05)
    np.testing.assert_array_equal(ids[True], ids[False][:, :-1])
    assert errors[False] < errors[True]
    queries = [unit(np.random.default_rng(n), n) for n in (1, 7)]
    path = tmp_path / "False"
    first = scores(path, queries)
    with Index.open(path, writable=True) as index:
        index.delete(["p3"])
        index.compact()
    for before, after in zip(first, scores(path, queries), strict=True):
        assert {**after, "p3": before["p3"]} == before


def test_settings_that_do_not_fit_the_codec_are_refused(
    tmp_path: Path, vectors: list[npt.NDArray[np.float32]]
) -> None:
    path = make(tmp_path / "x", before=False)
    with Index.open(path, writable=True) as index:
        add(index, vectors, 0, PASSAGES)
    db = sqlite3.connect(path / "index.db")
    with db:
        db.execute("UPDATE settings SET value = json_remove(value, '$.length_byte') WHERE key = 'index'")
    db.close()
    with pytest.raises(IndexFormatError, match=r"codec-1\.faiss codes \d+ dimensions, the index needs 64"):
        Index.open(path)
