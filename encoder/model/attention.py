"""Attention over packed sequences, one function for every device.

`varlen_attention(qkv, plan, window)` takes queries, keys and values of all sequences end to end and
never pads the batch. On a GPU (compute capability 8.0 or later) in half precision it is one call of flash-attn, or
of torch's own `varlen_attn` where flash-attn is not installed. Elsewhere it is torch's SDPA, a run of equally long
sequences at a time; a local layer cuts long sequences into chunks of w queries that meet the 3w keys
around them, so that its cost grows with the length and not with its square.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.model.packing import PackedBatch

__all__ = ["AttentionPlan", "branch", "varlen_attention"]

# Up to this many windows one dense product is as cheap as the three calls of a chunked sequence.
DENSE_WINDOWS = 4
# From this length on, copying each head's rows side by side costs less than attention saves on reading them.
LONG = 1024
OLDEST_GPU = (8, 0)  # Ampere: what the packed kernels are made for


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
    seen: Tensor | None = None  # see PackedBatch
    bands: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: PackedBatch) -> "AttentionPlan":
        runs: list[Run] = []
        for length, n_keys in zip(batch.lengths, batch.n_keys, strict=True):
            last = runs[-1] if runs else None
            if last is not None and (last.length, last.n_keys) == (length, n_keys):
                runs[-1] = Run(last.count + 1, length, n_keys)
            else:
                runs.append(Run(1, length, n_keys))
        every = batch.seen is None and batch.lengths == batch.n_keys
        return cls(batch.cu_seqlens, max(batch.lengths), tuple(runs), every, batch.seen)

    def band(self, window: int, like: Tensor) -> Tensor:
        """(4w, 5w) additive mask: row r sees column c where |r + w - c| <= w. Made once for all layers.

        Every mask of a local layer is a corner of it: queries from position p against keys from p - w.
        """
        key = (window, like.dtype)
        if key not in self.bands:
            row = torch.arange(DENSE_WINDOWS * window, device=like.device)[:, None]
            col = torch.arange((DENSE_WINDOWS + 1) * window, device=like.device)[None]
            unseen = (row + window - col).abs() > window
            band = torch.zeros(unseen.shape, dtype=like.dtype, device=like.device)
            self.bands[key] = band.masked_fill_(unseen, -torch.inf)
        return self.bands[key]


def varlen_attention(qkv: Tensor, plan: AttentionPlan, window: int | None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V within each sequence.

    qkv: (total_tokens, 3, heads, head_dim), rotary embedding already applied.
    window: a token sees |i - j| <= window; None for all tokens of its sequence.
    Returns (total_tokens, heads, head_dim). A token that may see nothing gets zeros.
    """
    if plan.seen is not None:
        return _short(qkv, plan.seen, window)
    half = qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16)
    # The GPU kernels align a window by the end of the keys, so a sequence with unseen tokens (query
    # expansion; short) goes the general way: the same numbers on every device.
    if half and plan.every_token_seen:
        kernel = gpu_kernel(local=window is not None)
        if kernel is not None and torch.cuda.get_device_capability(qkv.device) >= OLDEST_GPU:
            return kernel(qkv, plan.cu_seqlens, plan.max_seqlen, window)
    return sdpa_varlen(qkv, plan, window)


def sdpa_varlen(qkv: Tensor, plan: AttentionPlan, window: int | None) -> Tensor:
    """The portable branch, by torch's scaled_dot_product_attention."""
    outputs: list[Tensor] = []  # (tokens, H, D) each, in the order of the tokens
    start = 0
    for run in plan.runs:
        stop = start + run.count * run.length
        rows = torch.unflatten(qkv[start:stop], 0, (run.count, run.length))  # (n, L, 3, H, D)
        q, k, v = rows.permute(2, 0, 3, 1, 4)  # (n, H, L, D) each
        k, v = k[:, :, : run.n_keys], v[:, :, : run.n_keys]
        if window is None:
            if run.length >= LONG:
                q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            outputs.append(_sdpa(q, k, v, None))
        elif run.length <= DENSE_WINDOWS * window:
            outputs.append(_dense_local(q, k, v, plan, window))
        else:
            for i in range(run.count):
                outputs += _chunked_local(q[i], k[i], v[i], plan, window)
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _short(qkv: Tensor, seen: Tensor, window: int | None) -> Tensor:
    """One short sequence, of which the device alone knows what may be seen. In float32, which costs nothing here."""
    q, k, v = qkv.float().permute(1, 2, 0, 3)  # (H, L, D) each
    at = torch.arange(len(qkv), device=qkv.device)
    hidden = ~seen if window is None else ~seen | ((at[:, None] - at).abs() > window)
    scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5  # (H, L, L)
    # Where nothing is in sight all weights are NaN: zeros, as in the general branch.
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1).masked_fill(hidden, 0.0)
    out: Tensor = (weights @ v).transpose(0, 1).to(qkv.dtype)
    return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(n, H, Lq, D), (n, H, Lk, D) → (n * Lq, H, D)."""
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(0, 1)


def _dense_local(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int) -> Tensor:
    """Short sequences, one product under a band: (n, H, L, D) → (n * L, H, D)."""
    length, n_keys = q.shape[2], k.shape[2]
    sighted = min(length, n_keys + window)  # beyond the last key's window nothing is in sight: zeros
    mask = None
    if length > window + 1:
        mask = plan.band(window, q)[:sighted, window : window + n_keys]
    out = _sdpa(q[:, :, :sighted], k, v, mask)
    if sighted < length:
        out = F.pad(torch.unflatten(out, 0, (-1, sighted)), (0, 0, 0, 0, 0, length - sighted)).flatten(0, 1)
    return out


def _chunked_local(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int) -> list[Tensor]:
    """One long sequence: (H, L, D) → its output rows in order, (rows, H, D) each.

    Chunks of w queries meet the 3w keys around them. All chunks whose keys exist run as one call on
    overlapping views, so nothing is copied; the first chunk and what is left at the end are two more.
    """
    (heads, length, dim), n_keys = q.shape, k.shape[1]
    sighted = min(length, n_keys + window)
    middle = max(0, n_keys // window - 2)  # chunks 1 to middle see keys up to (middle + 2) * w
    end = (middle + 1) * window
    band = plan.band(window, q)
    near = 2 * window
    outputs = [
        _sdpa(
            q[None, :, :window],
            k[None, :, :near],
            v[None, :, :near],
            band[:window, window : window + min(near, n_keys)],
        )
    ]
    if middle:
        chunks = torch.unflatten(q[:, window:end], 1, (middle, window)).transpose(0, 1)  # (chunks, H, w, D)
        # unfold is an overlapping view: (H, chunks, D, 3w) → (chunks, H, 3w, D)
        keys, values = (x.unfold(1, 3 * window, window)[:, :middle].permute(1, 0, 3, 2) for x in (k, v))
        outputs.append(_sdpa(chunks, keys, values, band[:window, : 3 * window]))
    if end < sighted:
        first = end - window
        rest = band[: sighted - end, : n_keys - first]
        outputs.append(_sdpa(q[None, :, end:sighted], k[None, :, first:], v[None, :, first:], rest))
    if sighted < length:  # beyond the last key's window nothing is in sight
        outputs.append(q.new_zeros(length - sighted, heads, dim))
    return outputs


# --- GPU kernels: one signature, (qkv, cu_seqlens, max_seqlen, window) → (total_tokens, heads, head_dim) ---

Kernel = Callable[[Tensor, Tensor, int, int | None], Tensor]


@cache
def gpu_kernel(*, local: bool) -> Kernel | None:
    """The best packed kernel that is installed: flash-attn, torch's varlen_attn, or none.

    The first torch versions with varlen_attn have no window: there it serves global layers only.
    """
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
    if local and "window_size" not in inspect.signature(varlen_attn).parameters:
        return None
    return torch_kernel(varlen_attn)


def branch(device: torch.device) -> str:
    """Which of these attention takes on a device in half precision, and why, for `latewood doctor --device`."""
    if device.type != "cuda":
        return f"SDPA: the packed kernels are for GPUs, and {device} is none"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return f"SDPA: compute capability {capability[0]}.{capability[1]} is below 8.0"
    if importlib.util.find_spec("flash_attn") is not None:
        return "flash-attn, which is installed"
    if gpu_kernel(local=True) is not None:
        return "torch's varlen_attn: flash-attn is not installed"
    if gpu_kernel(local=False) is not None:
        return "torch's varlen_attn in global layers, SDPA in local ones: this torch's knows no windows"
    return "SDPA: flash-attn is not installed, and this torch has no varlen_attn"


def flash_kernel(function: Callable[..., Any]) -> Kernel:
    def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None) -> Tensor:
        both = (-1, -1) if window is None else (window, window)
        out: Tensor = function(qkv, cu_seqlens, max_seqlen, window_size=both)
        return out

    return attend


def torch_kernel(function: Callable[..., Any]) -> Kernel:
    def attend(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None) -> Tensor:
        q, k, v = qkv.unbind(1)
        local = {} if window is None else {"window_size": (window, window)}
        out: Tensor = function(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **local)
        return out

    return attend
