"""MaxSim over stored codes in torch, on any device: the same sums as the numba kernels."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.devices import sent
from encoder.maxsim import max_sum
from retriever.kernels.compiling import usable

__all__ = ["Codes", "Scan", "Tables", "over_passages", "residual_scores"]

SCORES_AT_ONCE = 1 << 24  # of tokens with query tokens: 64 MiB


class Tables(NamedTuple):
    """Of a batch of queries, of n_query tokens each; shorter ones end with zeros. centroids: (nlist, batch, n_query)
    scores. residuals: (m, 256, batch, n_query) scores. scales: (256, 2), scale and gain by the last byte of a
    code. norms: (batch, n_query), lengths of the queries' vectors. sharpness: of `encoder.maxsim.sharpened`."""

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


class Scan:
    """Passages of a segment to be scored, local numbers (n,), and where their tokens may be cut, which is planned here
    so that nothing waits for the device."""

    def __init__(
        self, passages: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], device: torch.device
    ) -> None:
        self.passages = sent(passages, device)
        self._ends = np.cumsum(offsets[passages + 1] - offsets[passages])

    def __len__(self) -> int:
        return len(self._ends)

    def chunks(self, most: int) -> Iterator[tuple[int, int, int]]:
        """First and last passage, and tokens, of stretches of at most `most` tokens, or one passage."""
        first, done = 0, 0
        while first < len(self):
            last = max(int(np.searchsorted(self._ends, done + most, side="right")), first + 1)
            yield first, last, int(self._ends[last - 1]) - done
            first, done = last, int(self._ends[last - 1])


def residual_scores(tables: Tables, stored: Codes, scan: Scan, worth: Tensor | None = None) -> Tensor:
    """MaxSim on the vectors that the codes decode to: (batch, n) float32, -inf for a passage without tokens.

    worth: (batch, n) bool; where it is False the score need not be made, and says nothing. By Triton on a GPU.
    """
    kernel = _kernel(stored.ids.device) if stored.ids.is_cuda else _by_torch
    return kernel(tables, stored, scan, worth)


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


def _example(device: torch.device) -> tuple[Tables, Codes, Scan]:
    """Arguments of the smallest search: a query token, a centroid, a passage of one token."""
    ones, ids = torch.ones(1, 1, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    codes, offsets = ids.new_zeros((1, 2), dtype=torch.uint8), torch.tensor([0, 1], device=device)
    tables = Tables(ones[None], ones.expand(1, 256, 1, 1), ones.expand(256, 2), ones)
    return tables, Codes(ids, codes, offsets), Scan(np.zeros(1, np.int64), np.array([0, 1]), device)


def _by_torch(tables: Tables, stored: Codes, scan: Scan, worth: Tensor | None = None) -> Tensor:
    ids, codes, offsets = stored

    def scores(tokens: Tensor) -> Tensor:
        own = tables.centroids[ids[tokens].long()]  # (n_tokens, batch, n_query)
        total = torch.zeros_like(own)
        for part, table in enumerate(tables.residuals):
            total = total + table[codes[tokens, part].long()]
        scales, gains = tables.scales[codes[tokens, -1].long()].unbind(1)
        scores: Tensor = (own + total * gains[:, None, None]) * scales[:, None, None]
        return scores

    return over_passages(scores, offsets, scan, tables.norms, tables.sharpness)


def over_passages(
    scores: Callable[[Tensor], Tensor], offsets: Tensor, scan: Scan, norms: Tensor, sharpness: float = 0.0
) -> Tensor:
    """MaxSim with some passages, (batch, n), of which SCORES_AT_ONCE scores are held at a time, or a passage's.

    scores: numbers of tokens (n_tokens,) → their scores with the queries' (n_tokens, batch, n_query).
    norms, sharpness: as in `encoder.maxsim.max_sum`.
    """
    passages = scan.passages
    out = norms.new_empty(len(norms), len(scan))
    for first, last, n in scan.chunks(max(1, SCORES_AT_ONCE // max(norms.numel(), 1))):
        some = passages[first:last]
        starts, lengths = offsets[some], offsets[some + 1] - offsets[some]
        local = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(starts - local[:-1], lengths, output_size=n)
        tokens = shift + torch.arange(n, device=shift.device)
        out[:, first:last] = max_sum(scores(tokens), local, norms, sharpness).T
    return out
