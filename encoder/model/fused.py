"""What a layer does between its matrix products: rotary embedding, GeGLU, adding and norming.

Each is one function for every device: in torch, and on a GPU without gradients a Triton kernel that reads and writes
once (triton_fused.py), of which the function in torch is the oracle.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.compiling import working

__all__ = ["PLAIN", "Passes", "add_norm", "geglu", "passes_on", "rotate_queries_and_keys"]

ROTATED_ROWS = 256


class Passes(NamedTuple):
    """rotate: (qkv, cos, sin) → qkv. geglu: (x,) → gated. add_norm: (x, delta, weight, bias, eps) → sum and normed."""

    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    geglu: Callable[[Tensor], Tensor]
    add_norm: Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]


def rotate_queries_and_keys(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021), halves form: pairs are (i, i + D / 2). (T, 3, H, D) → the same.

    Angles and products are float32. Without gradients the input may be overwritten.
    """
    return passes_on(qkv).rotate(qkv, cos, sin)


def geglu(x: Tensor) -> Tensor:
    """The first half activated, the second as its gate: (T, 2 I) → (T, I). Without gradients x may be overwritten."""
    return passes_on(x).geglu(x)


def add_norm(x: Tensor, delta: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x + delta, and that normed: (T, d) each."""
    return passes_on(x).add_norm(x, delta, norm.weight, norm.bias, norm.eps)


def passes_on(x: Tensor) -> Passes:
    """Those for a tensor: of its device, and with gradients torch's."""
    if not x.is_cuda or torch.is_grad_enabled():
        return PLAIN
    return _on_gpu(x.device, x.dtype)


@functools.cache
def _on_gpu(device: torch.device, dtype: torch.dtype) -> Passes:
    """Triton's, if it builds there, which takes a C compiler too; else torch's, said once."""
    if importlib.util.find_spec("triton") is None:
        return PLAIN
    line = "the encoder's GPU kernels could not be compiled ({reason}); torch computes in their place, a little slower"

    def by_triton() -> Passes:
        from encoder.model import triton_fused

        ones = torch.ones(1, 6, 64, device=device, dtype=dtype)
        triton_fused.rotate(ones.reshape(1, 3, 2, 64), ones[0, :1, :32].float(), ones[0, :1, :32].float())
        triton_fused.geglu(ones[0])
        triton_fused.add_norm(ones[0], ones[0], ones[0, 0], None, 1e-5)
        return Passes(triton_fused.rotate, triton_fused.geglu, triton_fused.add_norm)

    def by_torch() -> Passes:
        return PLAIN

    return working(by_triton, by_torch, lambda: (), line)()


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Without gradients float32 input is rotated where it lies, some tokens at a time: on a CPU the copies, and what
    does not stay in its cache, cost more than the arithmetic."""
    cos, sin = cos[:, None, None], sin[:, None, None]  # (T, 1, 1, D / 2)
    if not torch.is_grad_enabled() and qkv.dtype == torch.float32:
        rows = len(qkv) if qkv.is_cuda else ROTATED_ROWS
        for start in range(0, len(qkv), rows):
            at = slice(start, start + rows)
            x1, x2 = qkv[at, :2].chunk(2, dim=-1)  # (rows, 2, H, D / 2), views
            c, s = cos[at], sin[at]
            first = (x1 * c).addcmul_(x2, s, value=-1.0)
            x2.mul_(c).addcmul_(x1, s)
            x1.copy_(first)
        return qkv
    qk, v = qkv[:, :2].float(), qkv[:, 2:]
    x1, x2 = qk.chunk(2, dim=-1)
    rotated = torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
    return torch.cat((rotated.to(qkv.dtype), v), dim=1)


def _geglu(x: Tensor) -> Tensor:
    activated, gate = x.chunk(2, dim=-1)  # (T, I) each
    activated = F.gelu(activated)
    # Without gradients the product may overwrite: one pass over memory less.
    return activated * gate if torch.is_grad_enabled() else activated.mul_(gate)


def _add_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + delta
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


PLAIN = Passes(_rotate, _geglu, _add_norm)
