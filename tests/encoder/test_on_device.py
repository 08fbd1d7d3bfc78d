"""Batches on a device, by the device "cpu": the vectors of a processor's batches, memory that runs out, no waiting."""

import copy
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from encoder import Encoder
from encoder.batches import BATCH_TOKENS
from encoder.checkpoints.hf import HfBackbone
from encoder.errors import ArgumentError
from encoder.model.packing import PackedBatch, pack
from encoder.on_device import MOST_TOKENS, SHORT, DeviceRunner
from tests.helpers.checkpoints import TEXTS, pylate
from tests.helpers.syncs import no_sync

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pylate(folder, document_length=40)
    return Encoder.load(folder, device="cpu")


@pytest.fixture
def there(encoder, monkeypatch):
    """The same encoder, as on a device."""
    runner = DeviceRunner(encoder.model, CPU)
    monkeypatch.setattr(encoder, "on_device", runner)
    return runner


@pytest.mark.parametrize("batch_tokens", [64, None])
@pytest.mark.parametrize("pool_factor", [1, 2])
def test_vectors_are_those_of_the_processor(encoder, monkeypatch, batch_tokens, pool_factor):
    monkeypatch.setattr(encoder, "pool_factor", pool_factor)
    expected = encoder.encode_documents(TEXTS * 3, batch_tokens=batch_tokens)
    monkeypatch.setattr(encoder, "on_device", DeviceRunner(encoder.model, CPU))
    found = encoder.encode_documents(TEXTS * 3, batch_tokens=batch_tokens)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=1e-6)
    for one, other in zip(encoder.encode_queries(TEXTS), expected, strict=False):
        assert one.shape[1] == other.shape[1]


def small(model, most, sizes, batch):
    """The model on a device with memory for so many tokens."""
    tokens = len(batch.input_ids)
    sizes.append(tokens)
    if tokens > most:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    return model(batch)


def test_where_memory_runs_out_batches_get_smaller_and_one_line_says_so(encoder, there, monkeypatch):
    expected = encoder.encode_documents(TEXTS * 5, batch_tokens=100_000)
    sizes = []
    monkeypatch.setattr(there, "model", partial(small, encoder.model, 70, sizes))
    with pytest.warns(
        RuntimeWarning, match=r"cpu ran out of memory at [\d,]+ tokens; batches are smaller from now on"
    ):
        found = encoder.encode_documents(TEXTS * 5, batch_tokens=100_000)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    failed = [size for size in sizes if size > 70]
    assert 0 < len(failed) < 6
    sizes.clear()
    with warnings.catch_warnings(action="error"):
        encoder.encode_documents(TEXTS * 5, batch_tokens=100_000)
    assert max(sizes) <= 70  # remembered


def test_a_text_that_does_not_fit_alone_is_one_line(encoder, there, monkeypatch):
    monkeypatch.setattr(there, "model", partial(small, encoder.model, 7, []))
    with (
        pytest.warns(RuntimeWarning, match="ran out of memory"),
        pytest.raises(
            ArgumentError,
            match=r"^a text of \d+ tokens does not fit the memory of cpu \(CUDA out of memory\); pass a smaller",
        ),
    ):
        encoder.encode_documents(TEXTS)


def test_no_batch_waits_for_the_device_but_for_its_vectors(encoder, there, monkeypatch):
    batches = []
    monkeypatch.setattr(there, "model", lambda batch: batches.append(batch) or encoder.model(batch))
    with no_sync(copies=None) as copies:
        encoder.encode_documents(TEXTS * 5, batch_tokens=100)
    assert copies.made == len(batches) > 2


@pytest.mark.parametrize("seen", [True, False])
def test_a_short_text_alone_is_filled_up_and_has_the_same_vectors(encoder, tmp_path, monkeypatch, seen):
    pylate(tmp_path, query_length=24, document_length=80, attend_to_expansion_tokens=seen)
    encoder = Encoder.load(tmp_path, device="cpu")
    words = " ".join(TEXTS).split()
    texts = [" ".join(words[:n]) for n in (60, 1, 2, 7, 14, 15, 29, 30, 31, 61, 62, 70)]
    asked = [partial(encoder.encode_documents, [text]) for text in texts]
    asked += [partial(encoder.encode_queries, [text]) for text in texts]
    expected = [ask() for ask in asked]
    monkeypatch.setattr(encoder, "on_device", runner := DeviceRunner(encoder.model, CPU))
    for ask, wanted in zip(asked, expected, strict=True):
        with no_sync(copies=None):
            found = ask()
        np.testing.assert_array_equal(found.offsets, wanted.offsets)
        np.testing.assert_allclose(found.vectors, wanted.vectors, rtol=0, atol=2e-6)
    assert set(runner._short) == set(SHORT)


def test_packing_wastes_nothing(encoder, there, monkeypatch):
    sizes = []
    monkeypatch.setattr(there, "model", partial(small, encoder.model, 10**9, sizes))
    encoder.encode_documents(TEXTS * 5, batch_tokens=200)
    assert sum(sizes) == sum(map(len, encoder.tokenizer.documents(TEXTS * 5).ids))


@pytest.mark.parametrize(
    ("bytes_a_token", "free", "expected"),
    [
        (100_000, 139 << 30, MOST_TOKENS),
        (1_000_000, 24 * 10**9, 14_400),
        (1_000_000, 10**9, BATCH_TOKENS),
        (0, 10**9, MOST_TOKENS),
    ],
)
def test_a_batch_is_what_memory_takes(monkeypatch, bytes_a_token, free, expected):
    measured = []
    monkeypatch.setattr("encoder.on_device.stream_on", lambda device: None)
    monkeypatch.setattr("encoder.on_device.free_bytes", lambda device: free)
    monkeypatch.setattr(DeviceRunner, "_measure", lambda self: measured.append(1) or bytes_a_token)
    runner = DeviceRunner(None, torch.device("cuda:0"))
    assert [runner.batch_tokens, runner.batch_tokens] == [expected] * 2
    assert measured == [1]


def test_where_not_even_the_probe_fits_the_least_is_tried(monkeypatch):
    def full(self):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("encoder.on_device.stream_on", lambda device: None)
    monkeypatch.setattr(DeviceRunner, "_measure", full)
    assert DeviceRunner(None, torch.device("cuda:0")).batch_tokens == BATCH_TOKENS


def test_a_batch_goes_to_a_gpu_in_one_copy(monkeypatch):
    copies = []
    batch = pack([[7, 8, 9], [5], [6, 4]])

    def to(tensor, device, non_blocking=False):
        copies.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "to", to)
    there = batch.to("cuda:3")
    assert [copy for copy in copies if copy[0] != "cpu"] == [("cuda:3", True)]
    assert isinstance(there, PackedBatch)
    assert there.input_ids.tolist() == [7, 8, 9, 5, 6, 4]
    assert there.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert (there.cu_seqlens.tolist(), there.cu_seqlens.dtype) == ([0, 3, 4, 6], torch.int32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_needs_no_number_that_a_device_has(encoder, dtype):
    """On tensors that have a shape and no numbers, where what would wait for one raises."""
    meta = torch.device("meta")
    model = copy.deepcopy(encoder.model).to(meta, dtype)
    batch = pack([list(range(3, 10)), [4, 5, 6, 7, 8]])
    with torch.inference_mode():
        out = model(batch.to(meta))
    assert (out.shape, out.dtype, out.device) == ((12, model.dim), torch.float32, meta)


@pytest.mark.parametrize("n_keys", [None, [2, 1]])
def test_another_familys_model_is_asked_without_waiting(n_keys):
    """transformers' part is an embedding here: what its own models wait for is theirs."""

    class Embedding(torch.nn.Embedding):
        def forward(self, input_ids, attention_mask):
            asked.append((input_ids.tolist(), attention_mask.tolist()))
            return SimpleNamespace(last_hidden_state=super().forward(input_ids))

    asked = []
    backbone = HfBackbone(Embedding(9, 4), SimpleNamespace(pad_id=8))
    with torch.inference_mode(), no_sync(copies=2):  # both by what stands in for the model
        out = backbone(pack([[5, 6, 7], [1, 2]], n_keys).to(CPU))
    torch.testing.assert_close(out, backbone.model.weight[[5, 6, 7, 1, 2]])
    seen = [[1, 1, 0], [1, 0, 0]] if n_keys else [[1, 1, 1], [1, 1, 0]]
    assert asked == [([[5, 6, 7], [1, 2, 8]], seen)]
