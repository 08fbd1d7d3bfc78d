"""A build on a device, by the device "cpu": no thread of it waits but for what a batch gives back."""

import threading
from pathlib import Path

import pytest
import torch

from encoder import Encoder
from encoder.on_device import DeviceRunner
from indexing import Index
from indexing.coding import torch_coding
from indexing.coding.torch_coding import DeviceCoder
from indexing.writing import ahead, records
from tests.helpers.checkpoints import TEXTS, pylate
from tests.helpers.syncs import no_sync

CPU = torch.device("cpu")
# Copies that each gives back. How much ids spread, from which follows how many centroids each gets, is one more.
GIVEN_BACK = {"encode": 1, "nearest": 1, "direction_codes": 1, "train_centroids": 2, "product_centroids": 1}


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    """As on a device."""
    pylate(tmp_path / "model", document_length=40)
    encoder = Encoder.load(tmp_path / "model", device="cpu")
    encoder.on_device = DeviceRunner(encoder.model, CPU)
    return encoder


@pytest.fixture
def given_back(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has given something back: by name, one a batch."""
    called: list[str] = []
    lock = threading.Lock()

    def counted(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def call(*given: object) -> object:
            with lock:
                called.append(name)
            return function(*given)

        monkeypatch.setattr(owner, name, call)

    for name in ("encode", "nearest", "direction_codes"):
        counted(DeviceCoder, name)
    counted(torch_coding, "train_centroids")
    counted(torch_coding, "product_centroids")
    assert encoder.on_device is not None
    counted(encoder.on_device, "model")
    return called


@pytest.mark.slow
def test_a_build_waits_once_a_batch(
    tmp_path: Path, encoder: Encoder, given_back: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BATCH_RECORDS", 8)
    monkeypatch.setattr(ahead, "BATCHES", 0)
    texts = [{"doc_id": f"d{n}", "text": f"{text} number {n}"} for n, text in enumerate(TEXTS * 12)]
    settings = {"flat_tokens": 600, "commit_tokens": 300, "segment_tokens": 600}
    threads = set()
    run = encoder.run

    def noted(jobs: object) -> object:
        threads.add(threading.current_thread().name.partition("_")[0])
        return run(jobs)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder, "run", noted)
    with Index.create(tmp_path / "x", encoder, device="cpu", **settings) as index:
        with no_sync(copies=None, uploads=1) as copies:  # of the sample, once a training
            index.add(texts)
        assert threads == {"ahead"}
        assert given_back.count("train_centroids") == given_back.count("product_centroids") == 1
        assert given_back.count("model") > 5
        assert given_back.count("encode") > 3
        assert copies.made == sum(GIVEN_BACK.get(name, 1) for name in given_back)
        given_back.clear()
        index.add([{**own, "doc_id": f"e{own['doc_id']}"} for own in texts[:40]], encode=False)
        with no_sync(copies=None) as copies:
            index.encode()
            index.delete([f"d{n}" for n in range(0, 60, 3)])
            index.compact()
        assert {"model", "encode"} <= set(given_back) <= {"model", "encode", "nearest"}
        assert copies.made == len(given_back)
        index.verify()
