"""The fused kernels: interpreted against torch's functions, compiled for GPUs; what takes over where they cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from encoder.model import fused
from encoder.model.fused import PLAIN, add_norm, geglu, passes_on, rotate_queries_and_keys
from tests.helpers.launches import noted

ROOT = Path(__file__).parent.parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux only")


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@linux
def test_the_kernels_are_as_exact_as_torchs_functions():
    done = run_python(
        "-m", "tests.helpers.fused_kernels", TRITON_INTERPRET="1"
    )  # read when triton is imported
    assert done.stdout.strip() == "equal 32", done.stderr


@pytest.mark.slow
@linux
def test_an_annotation_that_triton_cannot_evaluate_fails_the_compilation(tmp_path):
    source = (ROOT / "encoder" / "model" / "triton_fused.py").read_text()
    altered = source.replace("def _geglu(x, out", "def _geglu(x: Any, out")
    assert altered != source
    (tmp_path / "altered.py").write_text(f"from typing import Any\n{altered}")
    done = run_python(
        "-m",
        "tests.helpers.compile_kernels",
        "90",
        str(tmp_path / "altered.py"),
        TRITON_CACHE_DIR=str(tmp_path),
    )
    assert "NameError" in done.stderr
    assert "Any" in done.stderr
    assert "compiled fused" not in done.stdout


@pytest.fixture
def gpu(monkeypatch):
    fused._on_gpu.cache_clear()
    yield torch.device("cpu")
    fused._on_gpu.cache_clear()


@linux
def test_torch_takes_over_where_triton_cannot_build(gpu):
    """Here it cannot, for want of a GPU; on a machine without a C compiler it cannot either."""
    with pytest.warns(
        RuntimeWarning, match=r"kernels could not be compiled \(.+\); torch computes in their place"
    ):
        assert fused._on_gpu(gpu, torch.float32) is PLAIN
    assert fused._on_gpu(gpu, torch.float32) is PLAIN  # said and tried once


def test_without_triton_torch_computes(gpu, monkeypatch):
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert fused._on_gpu(gpu, torch.float32) is PLAIN


def test_gradients_and_processors_take_torchs_functions(monkeypatch):
    monkeypatch.setattr(fused, "_on_gpu", lambda device, dtype: "triton")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        there = torch.empty(2, 4, device="cuda")
    assert passes_on(there) is PLAIN
    with torch.inference_mode():
        assert passes_on(there) == "triton"
        assert passes_on(torch.ones(2)) is PLAIN


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_functions_are_their_formulas(dtype, grad):
    with torch.set_grad_enabled(grad):
        x, delta = torch.randn(5, 16, dtype=dtype), torch.randn(5, 16, dtype=dtype)
        norm = torch.nn.LayerNorm(16, bias=False, dtype=dtype)
        total, normed = add_norm(x, delta, norm)
        torch.testing.assert_close(total, x + delta)
        torch.testing.assert_close(normed, norm(x + delta))
        a, gate = x[:, :8].clone(), x[:, 8:].clone()
        torch.testing.assert_close(geglu(x.clone()), torch.nn.functional.gelu(a) * gate)
        qkv, angles = torch.randn(5, 3, 2, 6, dtype=dtype), torch.randn(5, 3)
        pairs = torch.complex(qkv[..., :3].float(), qkv[..., 3:].float())
        turned = pairs * torch.polar(torch.ones(5, 3), angles)[:, None, None]
        found = rotate_queries_and_keys(qkv.clone(), angles.cos(), angles.sin())
        expected = torch.cat([turned.real, turned.imag], dim=-1).to(dtype)
        torch.testing.assert_close(found[:, :2], expected[:, :2])
        torch.testing.assert_close(found[:, 2], qkv[:, 2])


@linux
def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from encoder.model import triton_fused

    launched = noted(monkeypatch, triton_fused, "_rotate", "_geglu", "_add_norm")
    with FakeTensorMode():
        qkv, turn = torch.empty(7, 3, 4, 64, device="cuda:1"), torch.empty(7, 32, device="cuda:1")
        x, weight = torch.empty(7, 3000, device="cuda:1"), torch.empty(3000, device="cuda:1")
        triton_fused.rotate(qkv, turn, turn)
        gated = triton_fused.geglu(x)
        total, normed = triton_fused.add_norm(x, x, weight, None, 1e-5)
    assert [launch[:2] for launch in launched] == [((7,), "cuda:1"), ((7, 2), "cuda:1"), ((7,), "cuda:1")]
    assert (gated.shape, total.shape, normed.shape) == ((7, 1500), (7, 3000), (7, 3000))
