"""The benchmarks' own arithmetic: brute force against the one MaxSim, blocks, and what counts as as good."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.maxsim import maxsim


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def folder(benchmark, tmp_path):
    benchmark("vectors").synthetic(tmp_path, 9_000, 3)
    return tmp_path


def test_brute_force_is_maxsim(benchmark, folder):
    contender = benchmark("contender")
    job = {"vectors": str(folder), "queries": None}
    vectors = torch.from_numpy(np.load(folder / "vectors.npy").astype(np.float32))
    offsets = torch.from_numpy(np.load(folder / "offsets.npy"))
    queries = contender.read_queries(job)
    for memory in (0, 1 << 30):  # float16 kept, or float32
        contender.IN_MEMORY = memory
        for query, ranking in zip(queries, contender.rank("exact", job)["rankings"], strict=True):
            scores = maxsim(torch.from_numpy(query), vectors, offsets)
            best = torch.topk(scores, contender.K)
            assert [number for number, _ in ranking] == best.indices.tolist()
            np.testing.assert_allclose([score for _, score in ranking], best.values, atol=1e-4)


def test_blocks_are_the_vectors(benchmark, folder):
    contender = benchmark("contender")
    contender.BLOCK = 100  # blocks of two passages, as 8 * 100 tokens hold
    stored = np.load(folder / "vectors.npy")
    read = list(contender.read_blocks(folder))
    made = list(contender.made_blocks(9_000))
    assert len(read) == 15
    for blocks in (read, made):
        np.testing.assert_allclose(np.concatenate([v for v, _ in blocks]), stored, atol=1e-3)
        lengths = np.concatenate([np.diff(offsets) for _, offsets in blocks])
        assert lengths.tolist() == [300] * 30


def test_a_search_row_pools_rounds_and_says_what_is_lost(benchmark):
    search = benchmark("search")
    info = {"doc_ids": ["a", "b", "c"], "query_ids": ["1", "2"], "qrels": {"1": {"a": 1}, "2": {"c": 1}}}
    exact = [[(0, 2.0), (1, 1.0)], [(2, 2.0), (1, 1.0)]]
    worse = [[(0, 2.0), (2, 1.0)], [(1, 2.0), (2, 1.0)]]

    def one(ms, rankings):
        clock = {"ms": ms, "batch_seconds": 0.5}
        rows = [{"setting": {}, "rankings": rankings, "cpu": clock, "wall": clock}]
        return {"rows": rows * len(search.SETTINGS["exact"]), "peak_mib": max(ms)}

    [row] = search.summary("exact", [one([1.0], exact[:1]), one([3.0, 5.0], worse)], info, exact, "cpu")
    assert (row["n"], row["median_ms"], row["batch_per_second"], row["peak_mib"]) == (2, 3.0, 3.0, 5.0)
    assert row["recall@10"] == 0.75
    assert row["nDCG@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert row["nDCG@10 lost"] == pytest.approx((1 - 1 / np.log2(3)) / 2)
    json.dumps(row)
