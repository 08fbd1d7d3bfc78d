"""The benchmarks' own arithmetic: brute force against the one MaxSim, blocks, and what counts as as good."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.maxsim import maxsim


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def folder(script, tmp_path):
    script("vectors").synthetic(tmp_path, 9_000, 3)
    return tmp_path


def test_brute_force_is_maxsim(script, folder):
    contender = script("contender")
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


@pytest.mark.slow
def test_blocks_are_the_vectors(script, folder):
    contender = script("contender")
    contender.BLOCK = 50  # blocks of two passages, as 16 * 50 tokens hold
    stored = np.load(folder / "vectors.npy")
    read = list(contender.read_blocks(folder))
    made = list(contender.made_blocks(9_000))
    assert len(read) == 15
    for blocks in (read, made):
        np.testing.assert_allclose(np.concatenate([v for v, _, _ in blocks]), stored, atol=1e-3)
        lengths = np.concatenate([np.diff(offsets) for _, offsets, _ in blocks])
        assert lengths.tolist() == [300] * 30
        assert all(ids is None for _, _, ids in blocks)
    ids = np.random.default_rng(0).integers(0, 50_000, 9_000)
    np.save(folder / "token_ids.npy", ids)
    np.testing.assert_array_equal(np.concatenate([own for _, _, own in contender.read_blocks(folder)]), ids)


def test_a_search_row_pools_rounds_and_says_what_is_lost(script):
    search = script("search")
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


def test_passages_like_real_ones_keep_ids_sizes_and_what_a_passage_has_in_common(script, tmp_path):
    random = np.random.default_rng(0)
    lengths, dim, ids = np.full(200, 20), 16, random.choice(8, 4000, p=[0.3, 0.2, *[0.5 / 6] * 6])
    shared = np.repeat(random.standard_normal((200, dim)), 20, axis=0)
    rest = np.sqrt(0.25) * shared + np.sqrt(0.75) * random.standard_normal((4000, dim))
    size = 0.1 * (1 + ids)[:, None] / 8  # an id's own; small, so that unit length changes it little
    vectors = 3 * np.eye(dim)[ids] + size * rest
    np.save(
        tmp_path / "vectors.npy",
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
    )
    np.save(tmp_path / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    np.save(tmp_path / "token_ids.npy", ids)
    like = script("growth").Like(tmp_path)
    assert like.common == pytest.approx(0.25, abs=0.03)
    blocks = list(like.blocks(15_007))
    assert [len(rows) for rows, _, _ in blocks] == [10_000, 5_007]
    made, own = np.concatenate([b[0] for b in blocks]), np.concatenate([b[2] for b in blocks])
    for rows, offsets, ids_of in blocks:
        assert offsets[-1] == len(rows) == len(ids_of)
        assert (np.diff(offsets) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.bincount(own) / len(own), np.bincount(ids) / len(ids), atol=0.02)
    sizes = [np.sqrt(np.square(made[own == i] - like.means[i]).sum(axis=1).mean()) for i in range(8)]
    np.testing.assert_allclose(sizes, like.sizes, rtol=0.05)
    np.testing.assert_array_equal(next(like.blocks(15_007))[0], blocks[0][0])


def test_growth_fits_compressed_indexes_at_the_cheapest_setting_that_is_good_enough(script):
    def row(tokens, nlist, ms, recall):
        searches = [
            {"setting": {"nprobe": 2}, "recall": 0.5, "ms": ms / 2},
            {"setting": {}, "recall": recall, "ms": ms},
            {"setting": {"nprobe": 64}, "recall": 0.8, "ms": 4 * ms},
        ]
        figures = {"seconds": tokens / 1e4, "build_mib": 9, "bytes": 20 * tokens, "search_mib": 5}
        return {"tokens": tokens, "nlist": nlist, "codec_recall": 0.8, "searches": searches, **figures}

    rows = [row(10, None, 1e3, 1.0), row(10**6, 64, 1.0, 0.79), row(10**8, 64, 10.0, 0.7)]
    lines = script("growth").table(rows).splitlines()
    assert "| 0.790, 1.00 | 0.790, 1.00 (defaults) |" in lines[3]
    assert "| 0.700, 10.00 | 0.800, 40.00 (nprobe=64) |" in lines[4]
    assert lines[7:] == [
        "- build, seconds: 1.00",
        "- build, peak memory: 0.00",
        "- bytes on disk: 1.00",
        "- search, median at the defaults: 0.50",
        "- search, median of the cheapest: 0.80",
        "- search, peak memory: 0.00",
    ]


def test_growth_ranks_by_maxsim(script):
    random = np.random.default_rng(0)
    rows, offsets = random.standard_normal((60, 8)).astype(np.float32), np.arange(0, 61, 3)
    queries = [random.standard_normal((n, 8)).astype(np.float32) for n in (2, 5)]
    blocks = [(rows[:30], offsets[:11]), (rows[30:], offsets[10:] - 30)]
    for query, ranking in zip(queries, script("growth").rankings(blocks, queries, 10), strict=True):
        best = torch.topk(
            maxsim(torch.from_numpy(query), torch.from_numpy(rows), torch.from_numpy(offsets)), 10
        )
        assert [number for number, _ in ranking] == best.indices.tolist()


@pytest.mark.slow
def test_long_documents_whole_and_in_windows(script, tmp_path, monkeypatch, capsys):
    """End to end on a slice, and again: a row for each way, nothing measured twice, no index left."""
    long_documents = script("long_documents")
    filler = "Nothing of interest was said about the weather. " * 9
    texts = {"a": f"{filler}The heart pumps blood.", "b": f"{filler}Interest rates rose.", "c": "A cat."}
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    queries = {"q": "blood and the heart", "r": "a rise of interest rates", "s": "cats"}
    for name, some in (("corpus", {"x": "no answer", **texts}), ("queries", queries)):
        lines = "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in some.items())
        (tmp_path / "set" / f"{name}.jsonl").write_text(lines)
    (tmp_path / "set" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq\ta\t1\nr\tb\t1\ns\tc\t1\n"
    )
    out = tmp_path / "out"
    arguments = ["x", str(tmp_path / "set"), "--whole", "64", "--windows", "32", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*arguments, "--documents", "2", "--modes", "late", "hybrid"])
    for _ in range(2):
        long_documents.main()
    assert [path.name for path in sorted(out.iterdir())] == [
        "part",
        "ratios.json",
        "table.md",
        "whole-64-0.json",
        "windows-32-4.json",
    ]
    _, _, whole, windows = (out / "table.md").read_text().splitlines()
    assert whole.startswith("| whole, 64 tokens | ")
    assert windows.startswith("| windows of 32, overlap 4 | 1.0000 | 1.0000 | 1.0000 | 1.0000 | ")
    assert [row.split(" | ")[7] for row in (whole, windows)] == ["2", "0"]  # documents cut
    ratios = json.loads((out / "ratios.json").read_text())
    ways = ["whole, 64 tokens", "windows of 32, overlap 4"]
    assert [f"{ratios[way]:.2f} |" for way in ways] == [row.rsplit(" | ", 1)[1] for row in (whole, windows)]
    assert capsys.readouterr().out.count("windows of 32") == 5


def test_an_index_that_was_there_has_no_time(script):
    one = {"mode": "late", "encoded_tokens": 3, "tokens": 9, "passages": 2, "cut": 0, "index_bytes": 10**6}
    one |= {"nDCG@10": 0.5, "R@100": 1.0, "index_seconds": 5, "index_cpu_seconds": 4, "ms_per_query": 1}
    [cells] = (
        script("long_documents").table({"whole": [one]}, ["late", "hybrid"], {"whole": 1.25}).splitlines()[2:]
    )
    assert cells == "| whole | 0.5000 |  | 1.0000 |  | 2 | 9 |  | 1.0 |  |  | 1.0 |  | 1.25 |"


def test_busy_speeds_are_medians_and_ratios_those_of_turns(script):
    busy = script("encoding_busy")
    one = {"idle": [(100.0, 0.0), (50.0, 1.0), (100.0, 0.2)], "busy": [(40.0, 0.0)] * 3}
    two = {
        "idle": [(200.0, 0.0), (200.0, 0.5), (150.0, 0.1)],
        "busy": [(10.0, 0.0), (20.0, 0.3), (30.0, 0.4)],
    }
    lines = busy.table({"mixed": {"one thread": one, "two": two}}).splitlines()
    assert lines[-2:] == [
        "| one thread | 100 (1.00) | 40 (1.00) | 0.2 / 0.0 |",
        "| two | 200 (2.00) | 20 (0.50) | 0.1 / 0.3 |",
    ]
    assert "one thread" in busy.WAYS


def test_faiss_ranks_by_the_nearest_tokens_and_what_is_missing_has_the_last_score(script):
    random = np.random.default_rng(0)
    rows = random.standard_normal((60, 8)).astype(np.float32)
    offsets, query = np.arange(0, 61, 3), random.standard_normal((4, 8)).astype(np.float32)
    flat = script("contender").FaissIndex.__new__(script("contender").FaissIndex)
    flat.owners = np.repeat(np.arange(20), 3)
    scores = query @ rows.T
    for tokens in (7, 60):
        found = np.argsort(-scores, axis=1)[:, :tokens]
        nearest = np.take_along_axis(scores, found, axis=1)
        expected = {}
        for passage in {int(owner) for owner in flat.owners[found].ravel()}:
            inside = [
                {j: s for j, s in zip(own, best, strict=True) if offsets[passage] <= j < offsets[passage + 1]}
                for own, best in zip(found.tolist(), nearest.tolist(), strict=True)
            ]
            expected[passage] = sum(
                max(some.values(), default=last) for some, last in zip(inside, nearest[:, -1], strict=True)
            )
        ranking = flat.rank(nearest, flat.owners[found])
        assert [number for number, _ in ranking] == sorted(expected, key=lambda p: -expected[p])[:10]
        np.testing.assert_allclose(
            [score for _, score in ranking], sorted(expected.values())[:-11:-1], rtol=1e-5
        )


def test_a_peer_stands_beside_the_quickest_setting_that_loses_no_more(script, capsys):
    peers = script("peers")

    def row(contender, ms, lost, n=4, **setting):
        return {
            "contender": contender,
            "setting": setting,
            "median_ms": ms,
            "batch_per_second": 1e3 / ms,
            "nDCG@10": 0.5 - lost,
            "n": n,
            "losses": [lost] * n,
        }

    ours = [row("latewood", 1.0, 0.01), row("latewood-32", 4.0, 0.001), row("latewood-32", 0.5, 0.0, n=3)]
    theirs = [row("tachiom", 3.0, 0.02, a=1), row("tachiom", 6.0, 0.005, a=2), row("tachiom", 9.0, 0.0, a=3)]
    peers.against([*ours, *theirs])
    assert capsys.readouterr().out.splitlines() == [
        f"tachiom, {what}: at least 1.50 times Latewood's at equal nDCG@10 (a=2); 1 of 3 settings lose less than any "
        "of Latewood's"
        for what in ("median", "64 at once")
    ]
