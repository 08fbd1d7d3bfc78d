"""MaxSim over stored codes in torch, on any device: the same sums as the numba kernels."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from encoder.maxsim import max_sum
from retriever.kernels.compiling import usable

__all__ = ["over_passages", "residual_scores"]

TOKENS_AT_ONCE = 1 << 19  # scored together: 64 MiB of scores at 32 query tokens


def residual_scores(
    centroids: Tensor,
    residuals: Tensor,
    scales: Tensor,
    ids: Tensor,
    codes: Tensor,
    offsets: Tensor,
    passages: Tensor,
    norms: Tensor,
    sharpness: float = 0.0,
) -> Tensor:
    """MaxSim on the vectors that the codes decode to: (n,) float32, -inf for a passage without tokens.

    centroids: (nlist, n_query) scores. residuals: (m, 256, n_query) scores. scales: (256,), by the
    last byte of a code. ids: (n_tokens,). codes: (n_tokens, code_bytes) uint8. offsets: (n_passages + 1,).
    passages: (n,) which of them. norms: (n_query,), lengths of the query's vectors. By Triton on a GPU.
    """
    kernel = _kernel(ids.device) if ids.is_cuda else _by_torch
    return kernel(centroids, residuals, scales, ids, codes, offsets, passages, norms, sharpness)


@functools.cache
def _kernel(device: torch.device) -> Callable[..., Tensor]:
    """Triton's, if it builds there, which takes a C compiler too; else torch's, said once."""
    if importlib.util.find_spec("triton") is None:
        return _by_torch

    def by_triton(*arguments: Any) -> Tensor:
        from retriever.kernels.triton_codes import residual_maxsim

        return residual_maxsim(*arguments)

    kernel: Callable[..., Tensor] = usable(by_triton, _by_torch, functools.partial(_example, device))
    return kernel


def _example(device: torch.device) -> tuple[Any, ...]:
    """Arguments of the smallest search: a query token, a centroid, a passage of one token."""
    ids, codes = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.uint8)
    tables = torch.zeros(1, 1), torch.zeros(1, 256, 1), torch.ones(256)
    tensors = *tables, ids, codes, torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1)
    return (*(tensor.to(device) for tensor in tensors), 0.0)


def _by_torch(
    centroids: Tensor,
    residuals: Tensor,
    scales: Tensor,
    ids: Tensor,
    codes: Tensor,
    offsets: Tensor,
    passages: Tensor,
    norms: Tensor,
    sharpness: float,
) -> Tensor:
    def scores(tokens: Tensor) -> Tensor:
        total = centroids[ids[tokens].long()]  # (n_tokens, n_query)
        for part, table in enumerate(residuals):
            total = total + table[codes[tokens, part].long()]
        return total * scales[codes[tokens, -1].long()][:, None]

    return over_passages(scores, offsets, passages, norms, sharpness)


def over_passages(
    scores: Callable[[Tensor], Tensor],
    offsets: Tensor,
    passages: Tensor,
    norms: Tensor | None = None,
    sharpness: float = 0.0,
) -> Tensor:
    """MaxSim with some passages, (n,), whose tokens are scored TOKENS_AT_ONCE at a time, or a passage.

    scores: numbers of tokens (n_tokens,) → their scores with the query's (n_tokens, n_query).
    norms, sharpness: as in `encoder.maxsim.max_sum`.
    """
    starts, lengths = offsets[passages], offsets[passages + 1] - offsets[passages]
    ends = lengths.cumsum(0)
    out = torch.empty(len(passages), dtype=torch.float32, device=offsets.device)
    first = 0
    while first < len(passages):
        done = 0 if first == 0 else int(ends[first - 1])
        last = int(torch.searchsorted(ends, done + TOKENS_AT_ONCE, right=True))
        last = min(max(last, first + 1), len(passages))
        local = torch.cat([ends.new_zeros(1), lengths[first:last].cumsum(0)])
        shift = torch.repeat_interleave(starts[first:last] - local[:-1], lengths[first:last])
        tokens = shift + torch.arange(len(shift), device=shift.device)
        out[first:last] = max_sum(scores(tokens), local, norms, sharpness)
        first = last
    return out
