"""The torch stages on device "cpu" against the numba ones and brute force; Triton under its interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder import TokenEmbeddings
from indexing import Index
from retriever import Searcher
from retriever.kernels import torch_codes
from tests.retriever.test_searcher import DIM, assert_same, brute_force, build, unit

TRITON = """
import numpy as np, torch
from tests.retriever.test_kernels import by_reference, make
from indexing.coding.sizes import id_bytes
from retriever.kernels.torch_codes import residual_scores
from retriever.kernels.triton_codes import residual_maxsim
for n_query, lengths, m, length_byte in (
    (1, [3, 0, 1], 8, True), (7, [0, 65, 200], 16, True), (40, [64, 5], 32, True), (7, [0, 65, 200], 16, False)
):
    made = query, codec, ids, packed, offsets = make(
        0, n_query=n_query, lengths=lengths, m=m, length_byte=length_byte
    )
    q = torch.from_numpy(query)
    centroids = torch.from_numpy(np.array(codec.centroids)) @ q.T
    parts = q.reshape(n_query, m, -1)
    residuals = torch.einsum("mcd,qmd->mcq", torch.from_numpy(np.array(codec.pq_centroids)), parts)
    codes = torch.from_numpy(np.ascontiguousarray(packed[:, id_bytes(codec.nlist):]))
    asked = torch.arange(len(lengths)).flip(0)
    scales = torch.from_numpy(np.array(codec.scales))
    stored = torch.from_numpy(ids.astype(np.int32)), codes, torch.from_numpy(offsets)
    for kernel in (residual_maxsim, residual_scores):
        for sharpness in (0.0, 2.0):
            found = kernel(centroids, residuals, scales, *stored, asked, q.norm(dim=1), sharpness)
            np.testing.assert_allclose(found.numpy()[::-1], by_reference(*made, sharpness), atol=1e-4)
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


@pytest.mark.parametrize("sharpness", [0.0, 2.0])
@pytest.mark.parametrize("n_query", [1, 7, 40])
def test_a_device_scores_every_passage(folder, n_query, sharpness, monkeypatch):
    monkeypatch.setattr(torch_codes, "TOKENS_AT_ONCE", 100)
    query = unit(np.random.default_rng(n_query), n_query)
    with Searcher.open(folder, device="cpu") as searcher:
        expected = brute_force(searcher.index, query, sharpness)
        assert_same(searcher.search_embeddings(query, k=50, sharpness=sharpness), expected, 50)
        assert searcher.search_embeddings(query, k=1000)[-1].rank == len(expected)


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
            exact = brute_force(there.index, query, sharpness)
            np.testing.assert_allclose([h.score for h in found], [exact[h.doc_id] for h in found], atol=1e-3)
        assert same >= 0.95 * total


def test_filters_and_new_commits_reach_the_device(tmp_path):
    random = np.random.default_rng(2)
    with Index.create(tmp_path / "x", dim=DIM, flat_tokens=300) as index:
        vectors = TokenEmbeddings.from_list([unit(random, 10) for _ in range(60)], DIM)
        index.add_embeddings([f"p{i}" for i in range(60)], vectors, metadata=[{"n": i} for i in range(60)])
        with Searcher(index, device="cpu") as searcher:
            query = unit(random, 3)
            hits = searcher.search_embeddings(query, k=100, filter="n < 5")
            assert {h.doc_id for h in hits} == {f"p{i}" for i in range(5)}
            index.delete(["p3"])
            index.add_embeddings(["new"], TokenEmbeddings.from_list([query], DIM))
            hits = searcher.search_embeddings(query, k=100)
            assert hits[0].doc_id == "new"
            assert "p3" not in {h.doc_id for h in hits}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernel_is_maxsim_on_decoded_vectors():
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # read when triton is imported
    done = subprocess.run(
        [sys.executable, "-c", TRITON], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_no_device_is_touched_by_default(folder):
    with Searcher.open(folder) as searcher:
        assert searcher._device is None
        assert torch.is_grad_enabled()
