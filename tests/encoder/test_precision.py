"""bfloat16, float16 and int8 on a CPU: near float32, of the same fingerprint, and their mistakes."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.model import precision
from encoder.model.precision import Int8Linear, apply_precision
from tests.helpers.checkpoints import TEXTS

INT8 = hasattr(torch.ops.onednn, "qlinear_prepack")
LOW = ["bf16", "fp16", pytest.param("int8", marks=pytest.mark.skipif(not INT8, reason="x86 only"))]


@pytest.fixture(scope="module")
def plain():
    return Encoder.load(device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOW)
def test_near_float32_and_of_one_fingerprint(plain, name):
    low = Encoder.load(device="cpu", precision=name)
    texts = [*TEXTS, "The heart pumps blood through the body."]
    ours, theirs = low.encode_documents(texts), plain.encode_documents(texts)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    np.testing.assert_allclose(np.linalg.norm(ours.vectors, axis=1), 1.0, atol=1e-5)
    cosine = (ours.vectors * theirs.vectors).sum(1)
    assert cosine.min() > 0.995
    assert cosine.mean() > 0.9995
    assert not np.array_equal(ours.vectors, theirs.vectors)
    assert low.fingerprint == plain.fingerprint
    assert low.load_arguments == plain.load_arguments
    assert low.n_parameters == plain.n_parameters


@pytest.mark.skipif(not INT8, reason="x86 only")
@pytest.mark.parametrize("bias", [False, True])
def test_int8_linear_is_the_integer_product(bias):
    torch.manual_seed(0)
    linear = nn.Linear(48, 20, bias=bias)
    x = torch.randn(30, 48) * torch.logspace(-3, 3, 30)[:, None]
    x[7] = 0.0
    top = 127 if torch.cpu._is_vnni_supported() else 63
    with torch.inference_mode():
        found = Int8Linear(linear)(x)
        alone = torch.cat([Int8Linear(linear)(row[None]) for row in x])
        row_scale = (x.abs().amax(1, keepdim=True) / 127).clamp_(min=1e-12)
        weight_scale = linear.weight.abs().amax(1) / top
        integers = (x / row_scale).round().long() @ (linear.weight / weight_scale[:, None]).round().long().T
        expected = integers * row_scale * weight_scale + (linear.bias if bias else 0.0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone, found, rtol=0, atol=0)  # a token's scale is its own
        error = (found - linear(x)).abs().amax(1)
        assert (error <= 0.02 * x.norm(dim=1) + 1e-6).all()


@pytest.mark.slow
def test_mistakes_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="precision='fp8'; pass one of fp32, bf16, fp16, int8"):
        Encoder.load(precision="fp8")
    with pytest.raises(ArgumentError, match="rounded the weights"):
        Encoder.load(device="cpu", precision="bf16").save(tmp_path)


def test_a_gpu_too_old_for_bf16_encodes_in_fp16_and_says_so(monkeypatch):
    gpu = torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(RuntimeWarning, match="^cuda:3 is too old for bf16; it encodes in fp16$"):
        assert precision.encoding_precision(gpu) == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert precision.encoding_precision(gpu) == "bf16"  # a warning is an error here
    assert precision.encoding_precision(torch.device("cpu")) == "fp32"


def test_int8_where_there_is_no_such_product_is_one_line(monkeypatch):
    model = nn.Linear(8, 8)
    with pytest.raises(ArgumentError, match="for x86 CPUs, the device is cuda:0; pass bf16 or fp32"):
        apply_precision(model, "int8", torch.device("cuda:0"))
    monkeypatch.setattr(precision, "_has_int8_products", lambda: False)
    with pytest.raises(
        ArgumentError, match="for x86 CPUs, this torch has no such products; pass bf16 or fp32"
    ):
        apply_precision(model, "int8", torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not INT8, reason="x86 only")
def test_int8_products_are_no_plain_loop():
    """oneDNN takes one, thousands of times as slow, where it knows no product for the kinds of its inputs."""
    linear, x = nn.Linear(256, 768), torch.randn(512, 256)
    low = Int8Linear(linear)

    def seconds(layer: nn.Module) -> float:
        layer(x)
        start = time.process_time()
        layer(x)
        return time.process_time() - start

    with torch.inference_mode():
        assert min(seconds(low) for _ in range(3)) < 10 * min(seconds(linear) for _ in range(3))
