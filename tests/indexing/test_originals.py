"""The sample of vectors as they were given, and what it says of the codes."""

from pathlib import Path

import numpy as np
import pytest

from encoder.embeddings import TokenEmbeddings
from indexing import Index
from indexing.storage import originals
from indexing.storage.originals import chosen, share_of
from retriever import Searcher

DIM, LENGTH = 32, 12


def unit(random: np.random.Generator, n: int) -> np.ndarray:
    rows = random.standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sampled(index: Index) -> dict[str, np.ndarray]:
    """doc_id → original vectors, of all that is kept."""
    found = {}
    with index.snapshot() as now, Searcher(now) as searcher:
        pids, packed = searcher._ranker.originals()
        names = now.doc_ids(now.owners(pids).tolist())
        for owner, vectors in zip(now.owners(pids), packed, strict=True):
            found[names[int(owner)]] = vectors
    return found


@pytest.mark.slow
def test_the_sample_is_what_was_given_through_merges_and_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "SHARE", 0.3)
    random = np.random.default_rng(0)
    given = {f"d{i}": unit(random, LENGTH) for i in range(300)}
    with Index.create(tmp_path / "x", dim=DIM, flat_tokens=1000, commit_tokens=700) as index:
        index.add_embeddings(list(given), list(given.values()))
        for name in [f"d{i}" for i in range(0, 300, 7)]:
            del given[name]
        index.delete([f"d{i}" for i in range(0, 300, 7)])
        given |= {f"e{i}": unit(random, LENGTH) for i in range(40)}
        index.add_embeddings([f"e{i}" for i in range(40)], [given[f"e{i}"] for i in range(40)])
        for step in ("as added", "compacted"):
            found = sampled(index)
            assert found.keys() <= given.keys(), step
            assert 0.2 * len(given) < len(found) < 0.4 * len(given)
            for name, vectors in found.items():
                np.testing.assert_array_equal(vectors, given[name].astype(np.float16).astype(np.float32))
            index.verify()
            index.compact()
        assert index.info()["bytes"]["originals"] > 0


@pytest.mark.slow
def test_recall_of_codes_is_what_a_comparison_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "SHARE", 1.0)
    random = np.random.default_rng(1)
    given = [unit(random, LENGTH) for _ in range(200)]
    queries = [unit(random, 5) for _ in range(12)]
    with Index.create(tmp_path / "x", dim=DIM, flat_tokens=1000) as index:
        index.add_embeddings([f"d{i}" for i in range(200)], given)
        with Searcher(index) as searcher:
            recall = searcher.recall_vs_exact(queries, k=10)
            expected = []
            for query in queries:
                exact = [
                    (query @ rows.astype(np.float16).astype(np.float32).T).max(axis=1).sum() for rows in given
                ]
                hits = searcher.search_embeddings(query, k=10, ncandidates=200, nrerank=200)
                best = {f"d{i}" for i in np.argsort(exact)[-10:]}
                expected.append(len(best & {hit.doc_id for hit in hits}) / 10)
    assert recall.codes is not None
    assert 0.3 < recall.codes < 1
    assert recall.codes == pytest.approx(np.mean(expected))


def test_without_a_sample_nothing_is_said_of_the_codes(tmp_path: Path) -> None:
    with Index.create(tmp_path / "x", dim=DIM) as index:
        index.add_embeddings(["a"], [unit(np.random.default_rng(0), 3)])
        with Searcher(index) as searcher:
            assert searcher.recall_vs_exact([unit(np.random.default_rng(2), 3)], k=1).search == 1.0


def test_a_smaller_share_is_a_part_of_a_larger() -> None:
    owners = np.arange(100_000)
    small, large = chosen(owners, 0.01, 5), chosen(owners, 0.1, 5)
    assert not (small & ~large).any()
    assert abs(small.mean() - 0.01) < 0.002
    assert abs(large.mean() - 0.1) < 0.006
    assert share_of(10) == 0.01
    assert share_of(1_000_000) == 0.001


@pytest.mark.slow
def test_packed_vectors_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "SHARE", 1.0)
    random = np.random.default_rng(3)
    rows = [unit(random, int(n)) for n in random.integers(1, 9, 150)]
    with Index.create(tmp_path / "x", dim=DIM, flat_tokens=300) as index:
        index.add_embeddings([str(i) for i in range(150)], TokenEmbeddings.from_list(rows, DIM))
        found = sampled(index)
    assert list(found) == [str(i) for i in range(150)]
