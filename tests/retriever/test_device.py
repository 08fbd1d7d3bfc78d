"""The torch stages on device "cpu" against the numba ones and brute force; Triton interpreted and compiled."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from encoder import Encoder, TokenEmbeddings
from encoder.errors import ArgumentError, MissingDependencyError
from indexing import Index
from indexing.storage.snapshot import Selection
from retriever import Searcher, SearchOptions
from retriever.kernels import torch_codes
from retriever.kernels.torch_codes import Codes, Scan, Tables
from retriever.ranking import device as on_device
from tests.helpers.launches import noted
from tests.helpers.syncs import no_sync
from tests.retriever.test_searcher import DIM, assert_same, brute_force, build, unit

TRITON = """
import numpy as np, torch
from tests.retriever.test_kernels import by_reference, make
from indexing.coding.sizes import id_bytes
from retriever.kernels.torch_codes import Codes, Scan, Tables, residual_scores
from retriever.kernels.triton_codes import residual_maxsim
for n_query, lengths, m in ((1, [3, 0, 1], 8), (7, [0, 65, 200], 16), (40, [64, 5], 32)):
    made = query, codec, ids, packed, offsets = make(0, n_query=n_query, lengths=lengths, m=m)
    # A batch of two: the query, and one of its tokens, which is padded with zeros.
    short = np.concatenate([query[:1], np.zeros_like(query[1:])])
    both = [query, short]
    q = torch.from_numpy(np.stack([codec.rotated(one) for one in both]))
    centroids = torch.einsum("cd,bqd->cbq", torch.from_numpy(np.array(codec.centroids)), q)
    parts = q.reshape(2, n_query, m, -1)
    residuals = torch.einsum("mcd,bqmd->mcbq", torch.from_numpy(np.array(codec.pq_centroids)), parts)
    codes = torch.from_numpy(np.ascontiguousarray(packed[:, id_bytes(codec.nlist):]))
    asked = Scan(np.arange(len(lengths))[::-1].copy(), offsets, torch.device("cpu"))
    worth = torch.tensor([[True] * len(lengths), [False, *[True] * (len(lengths) - 1)]])
    scales = torch.from_numpy(np.array(codec.scales))
    stored = Codes(torch.from_numpy(ids.astype(np.int32)), codes, torch.from_numpy(offsets))
    for kernel in (residual_maxsim, residual_scores):
        for sharpness in (0.0, 2.0):
            tables = Tables(centroids, residuals, scales, q.norm(dim=2), sharpness)
            expected = np.stack([by_reference(one, *made[1:], sharpness)[::-1] for one in (query, query[:1])])
            found = kernel(tables, stored, asked).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)
            found = kernel(tables, stored, asked, worth).numpy()
            np.testing.assert_allclose(found[worth], expected[worth], atol=1e-4)
print("equal")
"""


@pytest.fixture(scope="module", params=["compressed", "mixed", "flat"])
def folder(request, tmp_path_factory):
    random = np.random.default_rng(5)
    lengths = random.integers(0, 40, 300).tolist()
    path = tmp_path_factory.mktemp("device") / "x"
    build(path, lengths, random=random, flat_tokens=10**6 if request.param == "flat" else 1000)
    with Index.open(path, writable=True) as index:
        index.delete([f"p{i}" for i in range(0, 300, 7)])
        if request.param == "mixed":
            index.compact()
            vectors = TokenEmbeddings.from_list([unit(random, 9) for _ in range(20)], DIM)
            index.add_embeddings([f"n{i}" for i in range(20)], vectors, metadata=[{"new": True}] * 20)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [0.0, 2.0])
@pytest.mark.parametrize("n_query", [1, 7, 40])
def test_a_device_scores_every_passage(folder, n_query, sharpness, monkeypatch):
    monkeypatch.setattr(torch_codes, "SCORES_AT_ONCE", 100 * n_query)
    query = unit(np.random.default_rng(n_query), n_query)
    with Searcher.open(folder, device="cpu") as searcher:
        expected = brute_force(searcher.snapshot, query, sharpness)
        assert_same(searcher.search_embeddings(query, k=50, sharpness=sharpness), expected, 50)
        assert searcher.search_embeddings(query, k=1000)[-1].rank == len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_a_device_prunes_as_the_processor_does(folder, sharpness):
    random = np.random.default_rng(1)
    knobs = {"k": 10, "nprobe": 4, "ncandidates": 60, "nrerank": 20, "sharpness": sharpness}
    with Searcher.open(folder, device="cpu") as there, Searcher.open(folder) as here:
        same = total = 0
        for _ in range(60):
            query = unit(random, 8)
            found, expected = there.search_embeddings(query, **knobs), here.search_embeddings(query, **knobs)
            # The processor ranks by levels of 8 bits before the last stage, so a few may differ.
            same += len({h.doc_id for h in found} & {h.doc_id for h in expected})
            total += len(expected)
            exact = brute_force(there.snapshot, query, sharpness)
            np.testing.assert_allclose([h.score for h in found], [exact[h.doc_id] for h in found], atol=1e-3)
        assert same >= 0.95 * total


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [{}, {"nprobe": 4, "ncandidates": 60, "nrerank": 20}])
@pytest.mark.parametrize("table_bytes", [1, 1 << 28])
def test_a_batch_finds_what_each_query_finds_alone(folder, monkeypatch, knobs, table_bytes):
    monkeypatch.setattr(on_device, "TABLE_BYTES", table_bytes)
    random = np.random.default_rng(3)
    queries = [unit(random, n) for n in (8, 1, 30, 5)]
    with Searcher.open(folder, device="cpu") as searcher:
        ranker = searcher._ranker
        plan = ranker.plan(SearchOptions(k=10, mode="late", **knobs), 2.0)
        together = ranker.rank_together([(None, query, plan) for query in queries])
        for query, found in zip(queries, together, strict=True):
            alone = ranker.rank(None, query, plan)
            assert [hit.document for hit in found] == [hit.document for hit in alone]
            np.testing.assert_allclose([h.score for h in found], [h.score for h in alone], atol=1e-4)


def test_what_fills_up_a_query_of_a_batch_probes_no_list(folder):
    random = np.random.default_rng(4)
    queries = [unit(random, n) for n in (2, 30)]
    with Searcher.open(folder, device="cpu") as searcher:
        index, ranker = searcher._ranker.device, searcher._ranker
        if index.codec is None:
            return
        plan = ranker.plan(SearchOptions(k=5, nprobe=1, ncandidates=250, nrerank=250), 0.0)
        together = index.search_many(queries, plan, fold=False)
        for query, (pids, _) in zip(queries, together, strict=True):
            np.testing.assert_array_equal(index.search(query, plan, fold=False)[0], pids)
        worth = []
        index_worth = index._worth
        index._worth = lambda *given: worth.append(index_worth(*given)) or worth[-1]
        index.search_many(queries, plan, fold=False)
        index.search(queries[0], plan, fold=False)
        assert worth[0][0].tolist() == worth[1][0].tolist()
        assert 0 < int(worth[0][0].sum()) < worth[0].shape[1]


@pytest.mark.parametrize("knobs", [{}, {"nprobe": 4, "ncandidates": 60, "nrerank": 20}])
@pytest.mark.parametrize("fold", [True, False])
def test_a_batch_of_queries_waits_once(folder, knobs, fold):
    random = np.random.default_rng(3)
    queries = [unit(random, n) for n in (8, 1, 30, 5)]
    with Searcher.open(folder, device="cpu") as searcher:
        index = searcher._ranker.device
        plan = searcher._ranker.plan(SearchOptions(k=10, **knobs), 2.0)
        with no_sync(copies=1):
            found = index.search_many(queries, plan, fold)
        assert [len(pids) >= 10 for pids, _ in found] == [True] * 4
        lives = [live & (np.arange(len(live)) % 2 == 0) for live in plan.selection.lives]  # a filter's
        with no_sync(copies=1):
            found = index.search_many(queries, replace(plan, selection=Selection(lives)), fold)
        starts = searcher.snapshot.starts
        allowed = np.concatenate(
            [start + np.flatnonzero(own) for start, own in zip(starts, lives, strict=False)]
        )
        assert all(len(pids) >= 10 and np.isin(pids, allowed).all() for pids, _ in found)


@pytest.mark.parametrize("knobs", [{}, {"nprobe": 4, "ncandidates": 60, "nrerank": 20}])
@pytest.mark.parametrize("fold", [True, False])
def test_a_query_asked_alone_again_is_one_recording(folder, knobs, fold):
    random = np.random.default_rng(3)
    with Searcher.open(folder, device="cpu") as searcher:
        index = searcher._ranker.device
        plan = searcher._ranker.plan(SearchOptions(k=10, **knobs), 2.0)
        for i, n in enumerate((30, 20, 32, 17, 1, 4)):
            query = unit(random, n)
            expected_pids, expected = index.search_many([query], plan, fold)[0]
            with no_sync(copies=1):
                pids, scores = index.search(query, plan, fold)
            np.testing.assert_array_equal(pids, expected_pids)
            np.testing.assert_allclose(scores, expected, atol=1e-5)
            assert sum(made is not None for made in index._replays.values()) == (0, 1, 1, 1, 1, 2)[i]
        for k in range(11, 17):
            index.search(query, searcher._ranker.plan(SearchOptions(k=k, **knobs), 2.0), fold)
        assert len(index._replays) <= on_device.KEPT
        few = searcher._ranker.plan(SearchOptions(k=10, by="passage"), 2.0)
        few.selection.lives[0] = few.selection.lives[0].copy()  # a filter's
        index.search(query, few, fold)


def test_all_that_score_alike_are_looked_at(tmp_path, monkeypatch):
    """More passages tie than are brought back at first: their order is by doc_id all the same."""
    monkeypatch.setattr(on_device, "TIES", 3)
    random = np.random.default_rng(0)
    same = unit(random, 4)
    with Index.create(tmp_path / "x", dim=DIM) as index:
        vectors = TokenEmbeddings.from_list([same] * 50, DIM)
        index.add_embeddings([f"p{i:02}" for i in reversed(range(50))], vectors)
        with Searcher(index, device="cpu") as searcher:
            assert [h.doc_id for h in searcher.search_embeddings(same, k=5)] == [f"p{i:02}" for i in range(5)]


@pytest.mark.slow
def test_documents_of_several_passages_are_found_by_their_best(tmp_path):
    texts = [
        {"doc_id": f"d{i}", "text": f"{word} " * 30 + "heart " * (i == 3)} for i, word in enumerate("abcdef")
    ]
    with Index.create(tmp_path / "x", Encoder.load(), window=16) as index:
        index.add(texts)
        assert index.n_passages > 2 * len(texts)
        with Searcher(index) as here, Searcher(index, device="cpu") as there:
            for by in ("document", "passage"):
                expected, found = here.search("heart", k=8, by=by), there.search("heart", k=8, by=by)
                assert [(h.doc_id, h.passage) for h in found] == [(h.doc_id, h.passage) for h in expected]
                np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-2)
            assert [hits[0].doc_id for hits in there.search_many({1: "heart", 2: "c c"}).values()] == [
                "d3",
                "d2",
            ]


@pytest.mark.slow
def test_filters_and_new_commits_reach_the_device(tmp_path):
    random = np.random.default_rng(2)
    with Index.create(tmp_path / "x", dim=DIM, flat_tokens=300) as index:
        vectors = TokenEmbeddings.from_list([unit(random, 10) for _ in range(60)], DIM)
        index.add_embeddings([f"p{i}" for i in range(60)], vectors, metadata=[{"n": i} for i in range(60)])
        with Searcher(index, device="cpu") as searcher:
            query = unit(random, 3)
            few = searcher.search_embeddings(query, k=100, filter="n < 5")
            assert {h.doc_id for h in few} == {f"p{i}" for i in range(5)}
            index.delete(["p3"])
            index.add_embeddings(["new"], TokenEmbeddings.from_list([query], DIM))
            assert searcher.search_embeddings(query, k=100, filter="n < 5") == few
            assert searcher.reload()
            hits = searcher.search_embeddings(query, k=100)
            assert hits[0].doc_id == "new"
            assert "p3" not in {h.doc_id for h in hits}


def run_python(*arguments, **environment):
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux only")


@pytest.mark.slow
@triton
def test_the_triton_kernel_is_maxsim_on_decoded_vectors():
    done = run_python("-c", TRITON, TRITON_INTERPRET="1")  # read when triton is imported
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.slow
@triton
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_all_triton_kernels_compile_for_gpus(capability, tmp_path):
    done = run_python(
        "-W", "error", "-m", "tests.helpers.compile_kernels", str(capability), TRITON_CACHE_DIR=str(tmp_path)
    )
    lines = done.stdout.splitlines()
    assert {"compiled fused 24", "compiled maxsim 8"} <= set(lines), done.stderr


def arguments(random, n_query=3, device="cpu"):
    ids = torch.tensor([0, 3, 1, 1, 2], dtype=torch.int32)
    codes = torch.from_numpy(random.integers(0, 256, (5, 3), dtype=np.uint8))
    tables = (
        torch.randn(4, 2, n_query),
        torch.randn(2, 256, 2, n_query),
        torch.rand(256, 2),
        torch.ones(2, n_query),
    )
    stored = ids, codes, torch.tensor([0, 2, 5])
    tables, stored = ([tensor.to(device) for tensor in tensors] for tensors in (tables, stored))
    scan = Scan(np.array([1, 0]), np.array([0, 2, 5]), torch.device(device))
    return Tables(*tables, 2.0), Codes(*stored), scan


@triton
def test_torch_takes_over_where_triton_cannot_build():
    """Here it cannot, for want of a GPU; on a machine without a C compiler it cannot either."""
    torch_codes._kernel.cache_clear()
    with pytest.warns(RuntimeWarning, match="could not be compiled"):
        kernel = torch_codes._kernel(torch.device("cpu"))
    some = arguments(np.random.default_rng(0))
    torch.testing.assert_close(kernel(*some), torch_codes.residual_scores(*some))
    assert torch_codes._kernel(torch.device("cpu")) is kernel  # said and tried once


@triton
def test_a_triton_that_takes_no_tuples_is_refused(monkeypatch):
    from retriever.kernels import triton_codes

    monkeypatch.delattr(triton_codes.tl, "tuple")  # as before 3.3
    with pytest.raises(
        MissingDependencyError, match=r"triton 3\.3 or newer is not installed; run: pip install"
    ):
        triton_codes.residual_maxsim(*arguments(np.random.default_rng(0)))


@triton
def test_the_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from retriever.kernels import triton_codes

    launched = noted(monkeypatch, triton_codes, "_residual_maxsim")
    monkeypatch.setattr(torch_codes, "sent", lambda array, device: torch.tensor(array, device=device))
    with FakeTensorMode(allow_non_fake_inputs=True):
        out = triton_codes.residual_maxsim(*arguments(np.random.default_rng(0), device="cuda:1"))
    [(grid, current, given)] = launched
    assert (grid, current, given[0][0].shape) == ((2, 2), "cuda:1", (4, 2, 16))
    assert out.device == torch.device("cuda:1")


def test_a_search_that_does_not_fit_is_one_line(folder, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    query = unit(np.random.default_rng(0), 4)
    with Searcher.open(folder, device="cpu") as searcher:
        monkeypatch.setattr(on_device.DeviceIndex, "_scored", full)
        line = r"^a search does not fit what the codes leave of the memory of cpu \(CUDA out of memory\); leave out"
        with pytest.raises(ArgumentError, match=line):
            searcher.search_embeddings(query)
        with pytest.raises(ArgumentError, match=line):
            searcher._ranker.exact(query, np.array([3]), 0.0)


def test_doctor_says_which_precision_a_gpu_has_and_why():
    from retriever.doctor import _precision

    gpu = torch.device("cuda:0")
    assert _precision(gpu, "bf16") == "bf16"
    assert _precision(gpu, "fp16") == "fp16: this GPU is too old for bf16"
    assert _precision(torch.device("cpu"), "fp32") == "fp32: half precision pays on a GPU"


@pytest.mark.parametrize(
    ("capability", "precision", "attention"),
    [
        ((9, 0), "bf16", "torch's varlen_attn: flash-attn is not installed"),
        ((7, 5), "fp16: this GPU is too old for bf16", "SDPA: compute capability 7.5 is below 8.0"),
    ],
)
def test_doctor_says_of_each_part_what_it_takes_and_why(monkeypatch, capability, precision, attention):
    """Of a GPU that is not there, so that nothing can be compiled or recorded for it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from encoder.model import fused
    from retriever import doctor

    def cannot(*_):
        warnings.warn("kernels on cuda:0 cannot be recorded (no driver)", RuntimeWarning, stacklevel=1)

    major, minor = capability
    about = SimpleNamespace(name="NVIDIA H100", major=major, minor=minor, total_memory=80 * 10**9)
    monkeypatch.setattr(doctor, "as_device", torch.device)
    monkeypatch.setattr(doctor, "free_bytes", lambda device: 70 * 10**9)
    monkeypatch.setattr(doctor, "Replay", cannot)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    fused._on_gpu.cache_clear()
    torch_codes._kernel.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        facts = doctor.facts_of("cuda:0")
    assert facts["device"].startswith(
        f"cuda:0: NVIDIA H100, compute capability {major}.{minor}, 70,000,000,000 bytes"
    )
    assert (facts["precision"], facts["attention"]) == (precision, attention)
    assert facts["query alone"] == "kernels on cuda:0 cannot be recorded (no driver)"
    assert facts["building"].startswith("torch, where Index has device=")
    assert re.fullmatch(
        r"faiss-[cg]pu [\d.]+, which writes the files", facts["faiss"]
    )  # either, and torch builds
    for part in ("encoder's kernels", "searching"):
        assert facts[part].startswith("torch"), facts
    fused._on_gpu.cache_clear()
    torch_codes._kernel.cache_clear()


@pytest.mark.parametrize("device", ["cuda:97", "gpu", "cuda"])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    Index.create(tmp_path / "x", dim=DIM).close()
    if device == "cuda" and torch.cuda.is_available():
        device = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ArgumentError, match=f"device='{device}' cannot be used"):
        Searcher.open(tmp_path / "x", device=device)


def test_no_device_is_touched_by_default(folder):
    with Searcher.open(folder) as searcher:
        assert searcher._device is None
        assert torch.is_grad_enabled()
