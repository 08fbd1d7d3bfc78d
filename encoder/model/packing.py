"""Padding-free batches: sequences end to end in one row of tokens, with their boundaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from encoder.errors import ArgumentError

if TYPE_CHECKING:  # batches are also made without it (encoder/light.py)
    import torch
    from torch import Tensor

__all__ = ["BestFit", "PackedBatch", "filled", "length_sorted_batches", "pack"]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """n sequences packed without padding.

    input_ids: (total_tokens,) int64.
    lengths: n token counts, on the host: attention plans its work from them without a device sync.
    n_keys: how many leading tokens of each sequence may be attended to; the rest (query expansion
        with attention off) are computed but seen by nobody. Equal to lengths in the usual case.
    seen: (total_tokens,) bool, in place of n_keys where the device alone knows them: of one short sequence.
    """

    input_ids: Tensor
    lengths: tuple[int, ...]
    n_keys: tuple[int, ...]
    seen: Tensor | None = None

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(n + 1,) int32 cumulative lengths, as flash-attn wants them; where `to` has put the ids."""
        import torch

        return torch.tensor([0, *self.lengths]).cumsum(0).int()

    @cached_property
    def positions(self) -> Tensor:
        """(total_tokens,) int64, each token's place in its own sequence; where `to` has put the ids."""
        import torch

        lengths = torch.tensor(self.lengths)
        starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths, output_size=sum(self.lengths))
        return torch.arange(len(starts)) - starts

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same, of what `pack` made, there. All its tensors go in one copy, which nothing waits for."""
        import torch

        device = torch.device(device)
        parts = self.input_ids, self.positions, self.cu_seqlens.long()
        here = torch.cat(parts).pin_memory() if device.type == "cuda" else torch.cat(parts)
        there = here.to(device, non_blocking=True)
        ids, positions, cu_seqlens = torch.split(there, [len(part) for part in parts])
        batch = PackedBatch(ids, self.lengths, self.n_keys)
        vars(batch).update(positions=positions, cu_seqlens=cu_seqlens.int())  # as in `filled`
        return batch


def filled(length: int, device: torch.device) -> Callable[[Tensor], PackedBatch]:
    """One sequence of up to `length` tokens as a batch of that many, whatever its own length: its shape says nothing of
    it. The function takes (length + 1,) int64 there: the ids, filled up with any, and how many of them may be seen."""
    import torch

    positions = torch.arange(length, device=device)
    bounds = length * torch.arange(2, dtype=torch.int32, device=device)

    def batch(numbers: Tensor) -> PackedBatch:
        made = PackedBatch(numbers[:length], (length,), (length,), positions < numbers[length])
        vars(made).update(positions=positions, cu_seqlens=bounds)  # a cached_property's place
        return made

    return batch


def pack(sequences: Sequence[Sequence[int]], n_keys: Sequence[int] | None = None) -> PackedBatch:
    """Lists of token ids → one PackedBatch. Empty sequences are refused: they have nothing to encode."""
    import torch

    lengths = tuple(len(s) for s in sequences)
    if not lengths or min(lengths) == 0:
        raise ArgumentError(f"a batch of lengths {list(lengths)} cannot be packed; drop the empty sequences")
    ids = torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.int64)
    return PackedBatch(ids, lengths, lengths if n_keys is None else tuple(n_keys))


def length_sorted_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of at most `token_budget` tokens, longest sequences first.

    Sorting puts equal lengths side by side, where attention runs them as one call; longest first
    shows the peak of memory at the start. A sequence longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and tokens + lengths[i] > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch


class BestFit:
    """Online best-fit packing: sequences go, as they come, into bins of `length` tokens that are nearly full.

    A sequence goes to the open bin that it leaves the least room in; where it fits none, the fullest of
    `n_open` bins is given out for a new one. bins: the open ones, each its sequences.
    """

    def __init__(self, length: int, n_open: int = 128, bins: Sequence[list[list[int]]] = ()) -> None:
        self.length = length
        self.n_open = n_open
        self.bins = list(bins)
        self.room = [length - sum(map(len, sequences)) for sequences in self.bins]

    def gap(self, size: int) -> int:
        """The room that would be lost if a sequence of `size` came now, for want of a bin that takes it."""
        if len(self.bins) < self.n_open or max(self.room) >= size:
            return 0
        return min(self.room)

    def add(self, sequence: list[int]) -> list[list[int]] | None:
        """Takes a sequence; gives out a bin where one is full or must go."""
        size = len(sequence)
        if not 0 < size <= self.length:
            raise ArgumentError(f"a sequence of {size} tokens fits no bin of {self.length}; cut it before")
        best = min((room for room in self.room if room >= size), default=-1)
        given = None
        if best >= 0:
            at = self.room.index(best)
        else:
            if len(self.bins) == self.n_open:
                given = self._give(self.room.index(min(self.room)))
            at = len(self.bins)
            self.bins.append([])
            self.room.append(self.length)
        self.bins[at].append(sequence)
        self.room[at] -= size
        # At most one bin leaves a call: a full one that stays is the next to go.
        return self._give(at) if given is None and not self.room[at] else given

    def _give(self, at: int) -> list[list[int]]:
        self.room.pop(at)
        return self.bins.pop(at)
