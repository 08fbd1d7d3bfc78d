"""Worker processes: two on the CPU give what one process gives, in its order, and end when they should."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from encoder import Encoder
from encoder.batches import Job
from encoder.errors import ArgumentError, LatewoodError
from encoder.workers import WorkerPool, worker_devices
from tests.helpers.checkpoints import TEXTS, pylate
from tests.helpers.meeting import SendingEncoder


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("encoder.batches.BLOCK_TEXTS", 8)
    pylate(tmp_path, document_length=40)
    texts = TEXTS * 5
    one = Encoder.load(tmp_path, device="cpu", pool_factor=2)
    two = Encoder.load(tmp_path, device="cpu,cpu", pool_factor=2)
    try:
        expected = one.encode_documents(texts, batch_tokens=64)
        for _ in range(2):  # the processes stay
            found = two.encode_documents(texts, batch_tokens=64)
            np.testing.assert_array_equal(found.offsets, expected.offsets)
            np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=1e-6)
            assert found.truncated == expected.truncated > 0
        assert two.fingerprint == one.fingerprint
        assert two.load_arguments == one.load_arguments
        # A process that ends is an error of one line, and no wait for ever.
        for pid in two._workers.pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(LatewoodError, match="ended early"):
            two.encode_documents(texts)
    finally:
        two.close()
    np.testing.assert_array_equal(
        two.encode_documents(texts, batch_tokens=64).vectors, expected.vectors
    )  # by this process


@pytest.mark.slow
def test_a_process_computes_while_it_sends_what_it_has_computed():
    """The first vectors of each process cannot be sent before it has begun on the next."""
    pool = WorkerPool(["cpu", "cpu"], SendingEncoder)
    pool.users.add(pool)
    try:
        jobs = [Job([n], [[1]], [1], None, 1) for n in range(8)]
        found = list(pool.run(jobs))
        assert [job.places for job, _ in found] == [[n] for n in range(8)]
        assert [[text] for _, vectors in found for text, _ in vectors] == [[n] for n in range(8)]
        assert {pid for _, vectors in found for _, pid in vectors} == set(pool.pids)
    finally:
        pool.leave(pool)


def running(pid):
    """Whether a process lives; one that nobody waited for, which has ended, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ended(pids, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(map(running, pids)):
        time.sleep(0.1)
    return not any(map(running, pids))


SCRIPT = """
import json, sys, time
from encoder import Encoder

if __name__ == "__main__":
    encoder = Encoder.load(sys.argv[1], device="cpu", workers=2)
    encoder.encode_documents(["the old oak", "late wood"] * 20, batch_tokens=16)
    print(json.dumps(encoder._workers.pids), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_workers_end_with_their_parent(tmp_path, how):
    pylate(tmp_path / "model")
    (tmp_path / "script.py").write_text(SCRIPT)
    root = str(Path(__file__).parent.parent.parent)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pids = json.loads(parent.stdout.readline())
        assert len(pids) == 2
        assert all(map(running, pids))
        parent.send_signal(getattr(signal, how))
        parent.wait(timeout=30)
        assert ended(pids)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for pid in filter(running, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_closing_an_encoder_leaves_the_workers_to_another(tmp_path):
    pylate(tmp_path, document_length=40)
    first = Encoder.load(tmp_path, device="cpu", workers=2)
    second, third = first.with_query_length(20), first.with_query_length(24)
    try:
        expected = first.encode_documents(TEXTS).vectors
        pids = first._workers.pids
        for closed in (first, first):
            closed.close()
            np.testing.assert_array_equal(second.encode_documents(TEXTS).vectors, expected)
            assert second._workers.pids == pids
            assert first._workers is None
        del third  # never closed, and gone
        second.close()
        assert ended(pids)
    finally:
        second.close()


def test_where_processes_run(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert worker_devices(None, None) == ["cuda:0"]  # nobody asked for more
    assert worker_devices("cuda", None) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 4) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert worker_devices("cuda:1", None) == []
    assert worker_devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert worker_devices("cpu", 3) == ["cpu", "cpu", "cpu"]
    assert worker_devices("all", None) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda:1, cpu", None) == ["cuda:1", "cpu"]
    with pytest.raises(ArgumentError, match="workers=3 with 2 devices"):
        worker_devices("cuda:1,cpu", 3)
    with pytest.raises(ArgumentError, match="device='gpu' cannot be used"):
        worker_devices("cpu,gpu", None)
    with pytest.raises(ArgumentError, match="workers=0"):
        worker_devices("cpu", 0)
