"""MaxSim over stored codes in torch, on any device: the same sums as the numba kernels."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from encoder.maxsim import max_sum
from retriever.kernels.compiling import usable

__all__ = ["Codes", "Tables", "over_passages", "residual_scores"]

TOKENS_AT_ONCE = 1 << 19  # scored together: 64 MiB of scores at 32 query tokens


class Tables(NamedTuple):
    """Of a query. centroids: (nlist, n_query) scores. residuals: (m, 256, n_query) scores. scales: (256,), by the last
    byte of a code. norms: (n_query,), lengths of the query's vectors. sharpness: of `encoder.maxsim.sharpened`."""

    centroids: Tensor
    residuals: Tensor
    scales: Tensor
    norms: Tensor
    sharpness: float = 0.0


class Codes(NamedTuple):
    """Of a segment. ids: (n_tokens,) int32. codes: (n_tokens, code_bytes) uint8. offsets: (n_passages + 1,)."""

    ids: Tensor
    codes: Tensor
    offsets: Tensor


def residual_scores(tables: Tables, stored: Codes, passages: Tensor) -> Tensor:
    """MaxSim on the vectors that the codes decode to: (n,) float32, -inf for a passage without tokens.

    passages: (n,) which of them. By Triton on a GPU.
    """
    kernel = _kernel(stored.ids.device) if stored.ids.is_cuda else _by_torch
    return kernel(tables, stored, passages)


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


def _example(device: torch.device) -> tuple[Tables, Codes, Tensor]:
    """Arguments of the smallest search: a query token, a centroid, a passage of one token."""
    ones, ids = torch.ones(1, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    codes, offsets = ids.new_zeros((1, 2), dtype=torch.uint8), torch.tensor([0, 1], device=device)
    tables = Tables(ones[:, None], ones.expand(1, 256, 1), ones.expand(256), ones)
    return tables, Codes(ids, codes, offsets), offsets[:1]


def _by_torch(tables: Tables, stored: Codes, passages: Tensor) -> Tensor:
    ids, codes, offsets = stored

    def scores(tokens: Tensor) -> Tensor:
        total = tables.centroids[ids[tokens].long()]  # (n_tokens, n_query)
        for part, table in enumerate(tables.residuals):
            total = total + table[codes[tokens, part].long()]
        return total * tables.scales[codes[tokens, -1].long()][:, None]

    return over_passages(scores, offsets, passages, tables.norms, tables.sharpness)


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
