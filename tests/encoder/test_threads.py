"""Encoding on several threads of a processor: as on one, beside what the caller does with torch, and after a fork."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder import Encoder
from encoder.threads import thread_count, threads_at_most
from encoder.workers import SHARED_PRODUCT
from tests.helpers.checkpoints import TEXTS, pylate

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pylate(folder, document_length=40)
    return Encoder.load(folder, device="cpu", pool_factor=2)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def watch(encoder, monkeypatch, meet=None):
    """Notes the thread of each batch and its torch threads; each waits for `meet`, a barrier."""
    seen, forward = [], encoder.model.forward

    def noted(batch):
        seen.append((threading.get_ident(), torch.get_num_threads()))
        if meet is not None:
            meet.wait(timeout=60)
        return forward(batch)

    monkeypatch.setattr(encoder.model, "forward", noted)
    return seen


@pytest.mark.parametrize("kind", ["documents", "queries"])
def test_two_threads_work_side_by_side_and_give_what_one_gives(encoder, monkeypatch, two_threads, kind):
    encode = getattr(encoder, f"encode_{kind}")
    torch.set_num_threads(1)
    expected = encode(TEXTS * 4)
    torch.set_num_threads(2)
    # Two batches wait for each other: if they came one after another the barrier would break.
    seen = watch(encoder, monkeypatch, threading.Barrier(2))
    found = encode(TEXTS * 4)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=1e-6)
    assert found.truncated == expected.truncated
    assert [torch_threads for _, torch_threads in seen] == [1, 1]
    assert len({thread for thread, _ in seen}) == 2


def test_the_callers_threads_stay_as_they_are(encoder, two_threads):
    encoder.encode_documents(TEXTS * 4, batch_tokens=16)
    there = []
    thread = threading.Thread(target=lambda: there.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), there) == (2, [2])


def test_a_lone_text_is_shared_out_only_where_it_is_large(encoder, monkeypatch, two_threads):
    seen = watch(encoder, monkeypatch)
    encoder.encode_queries(["the old oak"])
    monkeypatch.setattr("encoder.workers.SHARED_PRODUCT", 100)
    encoder.encode_documents(["the old oak"])
    assert [n for _, n in seen] == [1, 2]
    assert seen[1][0] == threading.get_ident()
    # The bundled model's queries are small, its longest documents large; a large model's documents are.
    assert 3 * 256**2 * 256 < SHARED_PRODUCT < 3 * 256**2 * 1024
    assert 3 * 768**2 * 32 < SHARED_PRODUCT < 3 * 768**2 * 128


def test_an_error_in_a_thread_is_the_callers_and_the_next_call_works(encoder, monkeypatch, two_threads):
    with monkeypatch.context() as patched:
        patched.setattr(encoder.model, "forward", lambda batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encoder.encode_documents(TEXTS * 4, batch_tokens=16)
    assert len(encoder.encode_documents(TEXTS)) == len(TEXTS)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_encodes_and_searches(tmp_path):
    """Parent and child use all that keeps threads: torch's products, FAISS, encoding, searches of both kinds."""
    script = """
        import multiprocessing, sys, warnings
        import numpy as np
        import torch
        from encoder import Encoder
        from indexing import Index
        from retriever import Searcher

        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: of forks beside threads
        torch.set_num_threads(2)
        encoder = Encoder.load(device="cpu")
        texts = [f"the {a} {b} of the wood" for a in ("old", "young", "late") for b in ("oak", "ash", "elm")] * 12
        records = [{"doc_id": f"d{i}", "text": f"{text} number {i}"} for i, text in enumerate(texts)]
        indexes = []
        for name, flat in (("flat", 10**6), ("compressed", 300)):
            index = Index.create(f"{sys.argv[1]}/{name}", encoder, flat_tokens=flat)
            index.add(records)
            indexes.append(index)

        def use():
            float((torch.ones(600, 600) @ torch.ones(600, 600)).exp().sum())
            encoder.encode_documents(texts)
            encoder.encode_documents(["a late wood " * 500])  # alone and large
            searchers = [Searcher(index, encoder) for index in indexes]
            found = [searcher.search("old oak", k=3) for searcher in searchers]
            return [[hit.doc_id for hit in hits] for hits in found], torch.get_num_threads()

        def child(queue):
            queue.put(use())

        hits, threads = use()
        assert threads == 2
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,), daemon=True)
        process.start()
        found, threads = queue.get(timeout=90)
        process.join(timeout=30)
        assert process.exitcode == 0, process.exitcode
        assert (found, threads) == (hits, 1), (found, hits, threads)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("wanted", "count"), [("3", 3), ("2,1", 2), (None, None), ("0", None), ("many", None)]
)
def test_threads_are_those_of_torch_or_of_the_environment(wanted, count, two_threads):
    assert thread_count() == 2  # torch is loaded
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if wanted is None else {"OMP_NUM_THREADS": wanted})
    code = (
        "import sys; from encoder.threads import thread_count; print(thread_count(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert done.stdout.split() == [str(count or allowed), "False"]


def test_side_by_side_each_takes_its_share_of_the_threads(two_threads):
    own = thread_count()
    assert own == 2
    with threads_at_most(1):
        assert thread_count() == 1
        with ThreadPoolExecutor(1) as pool:  # another thread is not meant
            assert pool.submit(thread_count).result() == own
        with threads_at_most(own + 3):
            assert thread_count() == own
        assert thread_count() == 1
    assert thread_count() == own
