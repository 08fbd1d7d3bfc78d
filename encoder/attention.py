"""Attention over packed sequences, one function for every device.

`varlen_attention(qkv, plan, window)` takes queries, keys and values of all sequences end to end and
never pads the batch. On a GPU in half precision it is one call of flash-attn, or of torch's own
`varlen_attn` where flash-attn is not installed. Elsewhere it is torch's SDPA, a run of equally long
sequences at a time; a local layer then cuts long sequences into chunks of 2w queries that meet the
4w keys around them, so that its cost grows with the length and not with its square.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.packing import PackedBatch

__all__ = ["AttentionPlan", "varlen_attention"]

# A banded dense product beats chunks while L * L < ceil(L / 2w) * 2w * 4w; 4w is a round figure near it.
DENSE_WINDOWS = 4


@dataclass(frozen=True)
class Run:
    """`count` neighbouring sequences of the same length, of which the first n_keys tokens are seen."""

    count: int
    length: int
    n_keys: int


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """What every layer of one forward pass shares: the boundaries, as host integers and on the device."""

    cu_seqlens: Tensor  # (n + 1,) int32
    max_seqlen: int
    runs: tuple[Run, ...]
    every_token_seen: bool
    masks: dict[tuple[Run, int, torch.dtype], Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: PackedBatch) -> "AttentionPlan":
        runs: list[Run] = []
        for length, n_keys in zip(batch.lengths, batch.n_keys, strict=True):
            last = runs[-1] if runs else None
            if last is not None and (last.length, last.n_keys) == (length, n_keys):
                runs[-1] = Run(last.count + 1, length, n_keys)
            else:
                runs.append(Run(1, length, n_keys))
        return cls(batch.cu_seqlens, max(batch.lengths), tuple(runs), batch.lengths == batch.n_keys)

    def mask(self, run: Run, window: int, like: Tensor) -> Tensor | None:
        """The additive mask of a run's local layers, made once and kept for the layers that follow."""
        key = (run, window, like.dtype)
        if key not in self.masks:
            build = _band_mask if run.length <= DENSE_WINDOWS * window else _chunk_mask
            self.masks[key] = build(run, window, like)
        return self.masks[key]


def varlen_attention(qkv: Tensor, plan: AttentionPlan, window: int | None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V within each sequence.

    qkv: (total_tokens, 3, heads, head_dim), rotary embedding already applied.
    window: a token sees |i - j| <= window; None for all tokens of its sequence.
    Returns (total_tokens, heads, head_dim). A token that may see nothing gets zeros.
    """
    half = qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16)
    # The GPU kernels align a window by the end of the keys, so a sequence with unseen tokens (query
    # expansion; short) goes the general way: the same numbers on every device.
    if half and plan.every_token_seen:
        kernel = gpu_kernel()
        if kernel is not None:
            return kernel(qkv, plan.cu_seqlens, plan.max_seqlen, window)
    return sdpa_varlen(qkv, plan, window)


def sdpa_varlen(qkv: Tensor, plan: AttentionPlan, window: int | None) -> Tensor:
    """The portable branch, by torch's scaled_dot_product_attention."""
    outputs = []
    start = 0
    for run in plan.runs:
        stop = start + run.count * run.length
        rows = qkv[start:stop].view(run.count, run.length, *qkv.shape[1:])  # (n, L, 3, H, D)
        outputs.append(_attend(rows, run, plan, window).flatten(0, 1))  # (n * L, H, D)
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(rows: Tensor, run: Run, plan: AttentionPlan, window: int | None) -> Tensor:
    """One run: (n, L, 3, H, D) → (n, L, H, D)."""
    q, k, v = rows.unbind(2)
    k, v = k[:, : run.n_keys], v[:, : run.n_keys]
    if window is None:
        return _sdpa(q, k, v, None)
    mask = plan.mask(run, window, q)
    short = run.length <= DENSE_WINDOWS * window
    out = _sdpa(q, k, v, mask) if short else _chunked(q, k, v, run, window, mask)
    if run.n_keys < run.length:
        # Beyond the last key's window nothing is in sight. The masks let such rows see something, so
        # that no softmax runs over nothing; here they become zero.
        sighted = torch.arange(run.length, device=out.device) - (run.n_keys - 1) <= window
        out = torch.where(sighted[:, None, None], out, out.new_zeros(()))
    return out


def _chunked(q: Tensor, k: Tensor, v: Tensor, run: Run, window: int, mask: Tensor | None) -> Tensor:
    """Chunks of 2w queries against the 4w keys from w before them to w behind: (n, L, H, D)."""
    size = 2 * window
    n, length, heads, dim = q.shape
    chunks = -(-length // size)
    q = F.pad(q, (0, 0, 0, 0, 0, chunks * size - length))
    q = q.view(n * chunks, size, heads, dim)
    # Key row c of chunk s is position s * 2w - w + c: pad w in front, and at the end to fill the last.
    tail = (chunks + 1) * size - window - run.n_keys
    k, v = (F.pad(x, (0, 0, 0, 0, window, tail)) for x in (k, v))
    # unfold is an overlapping view: (n, chunks, H, D, 4w) → (n * chunks, 4w, H, D)
    k, v = (x.unfold(1, 2 * size, size).permute(0, 1, 4, 2, 3).flatten(0, 1) for x in (k, v))
    out = _sdpa(q, k, v, mask)  # (n * chunks, 2w, H, D)
    return out.reshape(n, chunks * size, heads, dim)[:, :length]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """torch wants heads first: (n, Lq, H, D), (n, Lk, H, D) → (n, Lq, H, D)."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
    return out.transpose(1, 2)


def _additive(allowed: Tensor, like: Tensor) -> Tensor:
    """True → 0, False → -inf; a row that allows nothing allows all (its output is not used)."""
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill_(~allowed, -torch.inf)


def _band_mask(run: Run, window: int, like: Tensor) -> Tensor | None:
    """(1, 1, L, n_keys) of a sequence that fits in one dense product; None where all is in the window."""
    if run.length <= window + 1:
        return None
    i = torch.arange(run.length, device=like.device)
    allowed = (i[:, None] - i[None, : run.n_keys]).abs() <= window
    return _additive(allowed, like)[None, None]


def _chunk_mask(run: Run, window: int, like: Tensor) -> Tensor:
    """(count * chunks, 1, 2w, 4w): the band, less what lies before the first key or behind the last."""
    size = 2 * window
    chunks = -(-run.length // size)
    row = torch.arange(size, device=like.device)[:, None]
    col = torch.arange(2 * size, device=like.device)[None, :]
    band = (row + window - col).abs() <= window  # (2w, 4w)
    position = torch.arange(chunks, device=like.device)[:, None] * size - window + col  # (chunks, 4w)
    exists = (position >= 0) & (position < run.n_keys)
    return _additive(band & exists[:, None], like)[:, None].repeat(run.count, 1, 1, 1)


# --- GPU kernels: one signature, (qkv, cu_seqlens, max_seqlen, window) → (total_tokens, heads, head_dim) ---

Kernel = Callable[[Tensor, Tensor, int, int | None], Tensor]


@cache
def gpu_kernel() -> Kernel | None:
    """The best packed kernel that is installed: flash-attn, torch's varlen_attn (2.10 and later), or none."""
    try:
        from flash_attn import flash_attn_varlen_qkvpacked_func
    except ImportError:
        pass
    else:
        return flash_kernel(flash_attn_varlen_qkvpacked_func)
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return torch_kernel(varlen_attn)


def flash_kernel(function: Callable[..., Any]) -> Kernel:
    def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None) -> Tensor:
        both = (-1, -1) if window is None else (window, window)
        out: Tensor = function(qkv, cu_seqlens, max_seqlen, window_size=both)
        return out

    return attend


def torch_kernel(function: Callable[..., Any]) -> Kernel:
    def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None) -> Tensor:
        both = (-1, -1) if window is None else (window, window)
        q, k, v = qkv.unbind(1)
        out: Tensor = function(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, window_size=both)
        return out

    return attend
