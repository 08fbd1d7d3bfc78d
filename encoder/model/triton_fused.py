"""fused.py's functions as Triton kernels, a program a token; sums and products in float32. After flash-attention's
`rotary.py` and `layer_norm.py` and Liger's `geglu.py`, from which they take how to cut the work.

Tests: tests/encoder/test_fused.py interprets them and compiles them for GPUs.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["add_norm", "geglu", "rotate"]

GEGLU_BLOCK = 1024

if importlib.util.find_spec("triton") is not None:  # it has wheels for Linux only
    import triton
    import triton.language as tl

    # Triton evaluates annotations of parameters, and fails on names such as Any: they have none but tl.constexpr.
    # Those in the plural, and affine, are tuples.
    @triton.jit  # type: ignore[untyped-decorator]
    def _rotate(qkv, turns, sizes, block_heads: tl.constexpr, block_half: tl.constexpr):  # type: ignore[no-untyped-def]
        cos, sin = turns
        heads, half = sizes
        token = tl.program_id(0).to(tl.int64)
        head = tl.arange(0, block_heads)[:, None]  # queries' heads, then keys'
        pair = tl.arange(0, block_half)[None, :]
        there = (head < 2 * heads) & (pair < half)
        at = qkv + token * (6 * heads * half) + head * (2 * half) + pair
        turn = token * half + pair
        c, s = (
            tl.load(cos + turn, mask=pair < half, other=0.0),
            tl.load(sin + turn, mask=pair < half, other=0.0),
        )
        x1 = tl.load(at, mask=there, other=0.0).to(tl.float32)
        x2 = tl.load(at + half, mask=there, other=0.0).to(tl.float32)
        tl.store(at, (x1 * c - x2 * s).to(qkv.dtype.element_ty), mask=there)
        tl.store(at + half, (x2 * c + x1 * s).to(qkv.dtype.element_ty), mask=there)

    @triton.jit  # type: ignore[untyped-decorator]
    def _geglu(x, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
        token = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * block + tl.arange(0, block)
        there = column < width
        a = tl.load(x + token * 2 * width + column, mask=there, other=0.0).to(tl.float32)
        gate = tl.load(x + token * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
        activated = 0.5 * a * (1.0 + tl.erf(a * 0.7071067811865476))
        tl.store(out + token * width + column, (activated * gate).to(out.dtype.element_ty), mask=there)

    @triton.jit  # type: ignore[untyped-decorator]
    def _add_norm(rows, affine, outs, width, eps, block: tl.constexpr):  # type: ignore[no-untyped-def]
        x, delta = rows
        weight, bias = affine
        total, normed = outs
        token = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block)
        there = column < width
        at = token * width + column
        added = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        added += tl.load(delta + at, mask=there, other=0.0).to(tl.float32)
        rounded = added.to(total.dtype.element_ty)  # what later layers see is what is normed
        tl.store(total + at, rounded, mask=there)
        row = rounded.to(tl.float32)
        mean = tl.sum(row, axis=0) / width
        centred = tl.where(there, row - mean, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
        out = centred * scale * tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
        if bias is not None:
            out += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
        tl.store(normed + at, out.to(normed.dtype.element_ty), mask=there)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Where it lies."""
    tokens, _, heads, dim = qkv.shape
    assert qkv.is_contiguous()
    blocks = triton.next_power_of_2(2 * heads), triton.next_power_of_2(dim // 2)
    with _on(qkv):
        _rotate[(tokens,)](qkv, (cos, sin), (heads, dim // 2), *blocks, enable_fp_fusion=True)
    return qkv


def geglu(x: Tensor) -> Tensor:
    tokens, width = x.shape[0], x.shape[1] // 2
    x, out = x.contiguous(), x.new_empty(tokens, width)
    block = min(triton.next_power_of_2(width), GEGLU_BLOCK)
    with _on(x):
        _geglu[(tokens, triton.cdiv(width, block))](x, out, width, block, enable_fp_fusion=True)
    return out


def add_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    x, delta = x.contiguous(), delta.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    tokens, width = x.shape
    block = triton.next_power_of_2(width)
    with _on(x):
        _add_norm[(tokens,)](
            (x, delta), (weight, bias), (total, normed), width, eps, block, enable_fp_fusion=True
        )
    return total, normed


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on torch's current device, whichever the tensors are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
