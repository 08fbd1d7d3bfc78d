"""Packed attention against a dense masked softmax, and the GPU kernels' arguments against a stand-in."""

import functools
import importlib.util
import inspect
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from encoder.model.attention import (
    AttentionPlan,
    branch,
    flash_kernel,
    gpu_kernel,
    sdpa_varlen,
    torch_kernel,
    varlen_attention,
)
from encoder.model.packing import filled, pack
from encoder.model.precision import default_precision

HEADS, DIM = 2, 8


def make(lengths, n_keys=None, seed=0):
    batch = pack([[1] * n for n in lengths], n_keys)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), 3, HEADS, DIM, generator=generator), AttentionPlan.of(batch)


def plain_attention(qkv, lengths, n_keys, window):
    """The definition: every token of a sequence against every one it may see. Nothing in sight gives zeros."""
    outputs = []
    for rows, keys in zip(qkv.split(list(lengths)), n_keys, strict=True):
        q, k, v = rows.unbind(1)  # (L, H, D)
        scores = torch.einsum("ihd,jhd->hij", q, k) / DIM**0.5
        i, j = torch.arange(len(rows))[:, None], torch.arange(len(rows))[None]
        allowed = j < keys
        if window is not None:
            allowed = allowed & ((i - j).abs() <= window)
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
        outputs.append(torch.einsum("hij,jhd->ihd", weights, v))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 2, 5, 64])
@pytest.mark.parametrize(("length", "n_keys"), [(16, 16), (9, 9), (9, 4), (9, 1)])
def test_a_sequence_that_is_filled_up_has_the_same_attention(window, length, n_keys):
    """What fills up is seen by nobody, whatever it is."""
    qkv, _ = make([16])
    qkv[length:] = 1e4
    plan = AttentionPlan.of(filled(16, torch.device("cpu"))(torch.tensor([*[7] * 16, n_keys])))
    expected = plain_attention(qkv[:length], [length], [n_keys], window)
    torch.testing.assert_close(varlen_attention(qkv, plan, window)[:length], expected)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    window=st.sampled_from([None, 1, 4, 8]),
)
def test_equals_the_definition(data, lengths, window):
    """Lengths below and above four windows: dense products and chunks, with and without unseen tokens."""
    n_keys = [data.draw(st.integers(1, n)) for n in lengths] if data.draw(st.booleans()) else list(lengths)
    qkv, plan = make(lengths, n_keys)
    expected = plain_attention(qkv, lengths, n_keys, window)
    torch.testing.assert_close(sdpa_varlen(qkv, plan, window), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_equal_neighbours_run_as_one(window):
    qkv, plan = make([40, 40, 40, 7])
    assert [(r.count, r.length) for r in plan.runs] == [(3, 40), (1, 7)]
    expected = plain_attention(qkv, [40, 40, 40, 7], [40, 40, 40, 7], window)
    torch.testing.assert_close(varlen_attention(qkv, plan, window), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("n_keys", [None, [3, 30]])
def test_gradients_are_finite_and_the_definitions(n_keys):
    """Chunks hold rows past the end, whose softmax must not turn the gradient into NaN."""
    lengths = [5, 41]
    qkv, plan = make(lengths, n_keys)
    ours, theirs = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    sdpa_varlen(ours, plan, 4).square().sum().backward()
    i = plain_attention(theirs, lengths, n_keys or lengths, 4)
    i.square().sum().backward()
    expected = theirs.grad.nan_to_num(0.0)  # the oracle's own softmax over nothing
    torch.testing.assert_close(ours.grad, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 4, 8])
@pytest.mark.parametrize("n_keys", [None, [3, 30, 70]])
def test_low_precision_errs_at_most_twice_as_much_as_plain_torch(dtype, window, n_keys):
    """flash-attention's rule: against float32 of the same rounded input, dense, banded and chunked."""
    lengths = [5, 30, 70]
    qkv, plan = make(lengths, n_keys, seed=3)
    low = qkv.to(dtype)
    exact = plain_attention(low.float(), lengths, n_keys or lengths, window)
    plain = plain_attention(low, lengths, n_keys or lengths, window)
    ours = sdpa_varlen(low, plan, window)
    assert ours.dtype == dtype
    allowed = 2 * (plain.float() - exact).abs().max()
    assert allowed > 0
    assert (ours.float() - exact).abs().max() <= allowed


def flash_stand_in(
    qkv,
    cu_seqlens,
    max_seqlen,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    """flash_attn_varlen_qkvpacked_func (flash-attn 2.8): its parameters, its checks, the plain computation."""
    assert (softcap, alibi_slopes, deterministic, return_attn_probs) == (0.0, None, False, False)
    assert qkv.ndim == 4
    assert qkv.shape[1] == 3
    assert cu_seqlens.dtype == torch.int32
    assert (dropout_p, softmax_scale, causal) == (0.0, None, False)
    lengths = cu_seqlens.diff().tolist()
    assert max_seqlen == max(lengths)
    left, right = window_size
    assert left == right
    return plain_attention(qkv, lengths, lengths, None if left == -1 else left)


def varlen_attn_stand_in(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
):
    """torch.nn.attention.varlen.varlen_attn (torch 2.13), likewise."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k
    return flash_stand_in(torch.stack([query, key, value], 1), cu_seq_q, max_q, window_size=window_size)


@pytest.mark.parametrize("kernel", [flash_kernel(flash_stand_in), torch_kernel(varlen_attn_stand_in)])
@pytest.mark.parametrize("window", [None, 4])
def test_gpu_kernels_are_called_with_what_they_take(kernel, window):
    qkv, plan = make([3, 50, 17])
    expected = sdpa_varlen(qkv, plan, window)
    torch.testing.assert_close(
        kernel(qkv, plan.cu_seqlens, plan.max_seqlen, window), expected, atol=2e-6, rtol=0
    )


@pytest.fixture
def kernels(monkeypatch):
    """A machine with a GPU of that compute capability and without flash-attn."""
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    gpu_kernel.cache_clear()
    yield lambda major, minor: monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: (major, minor)
    )
    gpu_kernel.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_torchs_own_kernel_takes_what_a_gpu_gives_it(kernels, monkeypatch, window, dtype):
    """The real function, on tensors that have a device and a shape and no numbers."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    kernels(9, 0)
    monkeypatch.setattr("encoder.model.attention.sdpa_varlen", None)
    calls, real = [], varlen.varlen_attn

    @functools.wraps(real)
    def noted(*args, **kwargs):
        calls.append(inspect.signature(real).bind(*args, **kwargs).arguments)
        return real(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", noted)
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(12, 3, 2, 64, dtype=dtype, device="cuda")
        cu_seqlens = torch.empty(3, dtype=torch.int32, device="cuda")
        out = varlen_attention(qkv, AttentionPlan(cu_seqlens, 7, (), every_token_seen=True), window)
    assert (out.shape, out.dtype, out.device) == ((12, 2, 64), dtype, torch.device("cuda:0"))
    [call] = calls
    assert (call["max_q"], call["max_k"]) == (7, 7)
    assert call.get("window_size", (-1, -1)) == ((-1, -1) if window is None else (4, 4))


def test_without_a_window_torchs_kernel_serves_global_layers_alone(kernels, monkeypatch):
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        return varlen_attn_stand_in(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

    monkeypatch.setattr(varlen, "varlen_attn", older)
    assert gpu_kernel(local=True) is None
    qkv, plan = make([3, 50, 17])
    found = gpu_kernel(local=False)(qkv, plan.cu_seqlens, plan.max_seqlen, None)
    torch.testing.assert_close(found, sdpa_varlen(qkv, plan, None), atol=2e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_a_gpu_that_the_kernels_are_not_made_for_takes_the_portable_branch(kernels, monkeypatch, window):
    kernels(7, 5)
    monkeypatch.setattr("encoder.model.attention.sdpa_varlen", lambda *_: "portable")
    with FakeTensorMode():
        qkv = torch.empty(12, 3, 2, 64, dtype=torch.float16, device="cuda")
        cu_seqlens = torch.empty(3, dtype=torch.int32, device="cuda")
    plan = AttentionPlan(cu_seqlens, 7, (), every_token_seen=True)
    assert varlen_attention(qkv, plan, window) == "portable"


def test_the_doctor_knows_which_kernel_is_taken(kernels, monkeypatch):
    gpu, find = torch.device("cuda:0"), importlib.util.find_spec
    monkeypatch.setattr(
        "encoder.model.attention.importlib.util.find_spec",
        lambda name: None if name == "flash_attn" else find(name),
    )
    kernels(7, 5)
    assert branch(gpu) == "SDPA: compute capability 7.5 is below 8.0"
    assert default_precision(gpu) == "fp16"
    kernels(9, 0)
    assert branch(gpu) == "torch's varlen_attn: flash-attn is not installed"
    assert default_precision(gpu) == "bf16"
    monkeypatch.setattr("encoder.model.attention.gpu_kernel", lambda local: None if local else flash_stand_in)
    assert (
        branch(gpu)
        == "torch's varlen_attn in global layers, SDPA in local ones: this torch's knows no windows"
    )
    monkeypatch.setattr("encoder.model.attention.gpu_kernel", lambda local: None)
    assert branch(gpu) == "SDPA: flash-attn is not installed, and this torch has no varlen_attn"
    monkeypatch.setattr("encoder.model.attention.importlib.util.find_spec", lambda name: object())
    assert branch(gpu) == "flash-attn, which is installed"


def test_stand_in_has_the_parameters_of_flash_attn():
    flash = pytest.importorskip("flash_attn")
    theirs = inspect.signature(flash.flash_attn_varlen_qkvpacked_func).parameters
    ours = inspect.signature(flash_stand_in).parameters
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
