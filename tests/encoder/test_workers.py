"""Worker processes: two on the CPU give what one process gives, in its order."""

import numpy as np
import pytest

from encoder import Encoder
from encoder.errors import ArgumentError, LatewoodError
from encoder.workers import worker_devices
from tests.helpers.checkpoints import TEXTS, pylate


def test_two_processes_give_what_one_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("encoder.encode.BLOCK_TEXTS", 8)
    pylate(tmp_path, document_length=40)
    texts = TEXTS * 5
    one = Encoder.load(tmp_path, device="cpu", pool_factor=2)
    two = Encoder.load(tmp_path, device="cpu", pool_factor=2, workers=2)
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
        for process in two._workers._executor._processes.values():
            process.kill()
        with pytest.raises(LatewoodError, match="ended early"):
            two.encode_documents(texts)
    finally:
        two.close()
    np.testing.assert_array_equal(
        two.encode_documents(texts, batch_tokens=64).vectors, expected.vectors
    )  # by this process


def test_where_processes_run(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert worker_devices(None, None) == ["cuda:0"]  # nobody asked for more
    assert worker_devices("cuda", None) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 4) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert worker_devices("cuda:1", None) == []
    assert worker_devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert worker_devices("cpu", 3) == ["cpu", "cpu", "cpu"]
    with pytest.raises(ArgumentError, match="workers=0"):
        worker_devices("cpu", 0)
