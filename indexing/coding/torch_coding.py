"""What a codec computes, as matrix products in torch on a device: k-means, the nearest centroids, residual codes.

The same lines on every device. Which vectors are compared with which centroids is planned on the processor, where
vocabulary ids come from, so that no step waits for a number that the device has. Vectors go there once, codes come back
once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.devices import roomy, sent
from indexing.coding.lengths import LEVELS
from indexing.coding.vocabulary import share_out

if TYPE_CHECKING:
    from indexing.coding.codec import Codec

__all__ = ["DeviceCoder", "Plan", "kmeans", "product_centroids", "train_centroids"]

Floats: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.int64]

TILE = 1 << 25  # numbers made at a time: 128 MiB of float32
ROWS = (32, 512)  # vectors of a tile: as many as it has centroids, between these
CODES = 256  # one byte a sub-vector
DIM = 128  # about that of the vectors


@dataclass(frozen=True, eq=False)
class Tiles:
    """Equal products: vectors `rows` (n, size) with the `width` centroids from `first` (n,) on, of which `count` (n,)
    are their own."""

    rows: Tensor
    first: Tensor
    count: Tensor
    width: int


class Plan:
    """Vectors in groups, each with centroids of its own, neighbours in a list: what `kmeans` and `nearest` go by.

    order: (n,) the vectors, group after group. bounds: (n_groups + 1,), where each group starts in it. first, counts:
    (n_groups,), a group's first centroid and how many it has, one at least.
    """

    def __init__(self, order: Ids, bounds: Ids, first: Ids, counts: Ids, device: torch.device) -> None:
        self.order, self.bounds, self.first, self.counts = order, bounds, first, counts
        self.device = device
        # (n,) the first of each vector's centroids: of most ids the only one
        self.alone = self._there(_of_each(first, order, np.diff(bounds)))
        self.tiles = list(self._tiles())

    @classmethod
    def of_all(cls, n: int, nlist: int, device: torch.device) -> "Plan":
        """All vectors are compared with all centroids."""
        return cls(np.arange(n), np.array([0, n]), np.array([0]), np.array([nlist]), device)

    def _tiles(self) -> Iterator[Tiles]:
        """Groups of about as many centroids together, cut so that padding is little."""
        several = np.flatnonzero(self.counts > 1)
        widths = 1 << np.ceil(np.log2(self.counts[several])).astype(np.int64)
        for width in np.unique(widths).tolist():
            groups = several[widths == width]
            size = min(max(width, ROWS[0]), ROWS[1], max(TILE // width, 1))
            starts, ends = self.bounds[groups], self.bounds[groups + 1]
            n = -(-(ends - starts) // size)
            group = np.repeat(np.arange(len(groups)), n)
            tile = np.arange(len(group)) - np.repeat(np.cumsum(n) - n, n)
            rows = (starts[group] + tile * size)[:, None] + np.arange(size)  # (n_tiles, size)
            rows = self.order[np.minimum(rows, ends[group][:, None] - 1)]  # the last row fills a tile up
            first, counts = self.first[groups][group], self.counts[groups][group]
            step = max(1, TILE // (size * width + (size + width) * DIM))
            for at in (slice(i, i + step) for i in range(0, len(group), step)):
                yield Tiles(self._there(rows[at]), self._there(first[at]), self._there(counts[at]), width)

    def _there(self, numbers: Ids) -> Tensor:
        return sent(numbers, self.device)


def nearest(vectors: Tensor, centroids: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Of the centroids of a vector's group the one with the largest inner product, and that product: (n,) each. The
    product is not made, and 0, where a group has but one."""
    ids, products = plan.alone.clone(), vectors.new_zeros(len(vectors))
    for tile in plan.tiles:
        places = torch.arange(tile.width, device=ids.device).minimum(tile.count[:, None] - 1)
        own = tile.first[:, None] + places  # (n, width); the last one again where there are fewer
        scores = torch.bmm(vectors[tile.rows], centroids[own].transpose(1, 2))  # (n, size, width)
        best, at = scores.max(dim=2)
        ids[tile.rows], products[tile.rows] = own.gather(1, at), best
    return ids, products


def kmeans(vectors: Tensor, plan: Plan, iterations: int, seed: int) -> Tensor:
    """Spherical k-means within each group: (n, dim) → (n_centroids, dim) of unit length.

    A centroid that lost all its vectors takes one of those of its group that lie farthest from theirs. On a GPU sums
    are in no fixed order, so that the same seed gives nearly the same.
    """
    sizes, n_centroids = np.diff(plan.bounds), int(plan.counts.sum())
    random = np.random.default_rng(seed)
    # A random order within each group: its first vectors are where its centroids start.
    shuffled = plan.order[
        np.lexsort((random.random(len(plan.order)), np.repeat(np.arange(len(sizes)), sizes)))
    ]
    # (n_centroids,) each: where its group's vectors begin, and how many centroids earlier groups have.
    begin = np.repeat(plan.bounds[:-1], plan.counts)
    before_it = np.repeat(np.cumsum(plan.counts) - plan.counts, plan.counts)
    centroids = _unit(vectors[plan._there(shuffled[begin + np.arange(n_centroids) - before_it])])
    of_row = plan._there(_of_each(np.arange(len(sizes)), plan.order, sizes))
    begins, earlier = plan._there(begin), plan._there(before_it)
    for _ in range(iterations):
        ids, products = nearest(vectors, centroids, plan)
        sums, counts = _sums(vectors, ids, n_centroids)
        order = products.argsort()
        order = order[of_row[order].argsort(stable=True)]  # by group, the farthest first
        empty = counts == 0
        before = torch.cat([empty.new_zeros(1, dtype=torch.int64), empty.cumsum(0)])
        rank = before[1:] - 1 - before[earlier]  # of an empty one among those of its group
        far = vectors[order[(begins + rank.clamp_min(0)).clamp_max(len(order) - 1)]]
        centroids = _unit(torch.where(empty[:, None], far, sums))
    return centroids


def _of_each(values: Ids, order: Ids, sizes: Ids) -> Ids:
    """A group's value for each of its vectors: (n_groups,) -> (n,). order, sizes: of the vectors, group after group."""
    found = np.empty(len(order), np.int64)
    found[order] = np.repeat(values, sizes)
    return found


def _sums(vectors: Tensor, ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The sum and the number of each cluster's vectors: (n, dim), (n,)."""
    sums = vectors.new_zeros(n, vectors.shape[1]).index_add_(0, ids, vectors)
    return sums, vectors.new_zeros(n).index_add_(0, ids, vectors.new_ones(len(ids)))


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return unit


def train_centroids(
    sample: Floats,
    token_ids: npt.NDArray[np.int32] | None,
    nlist: int,
    iterations: int,
    seed: int,
    device: torch.device,
) -> tuple[Floats, npt.NDArray[np.int32] | None]:
    """`vocabulary.train_within`, or k-means over all where no ids are given: centroids and whose they are."""
    with _roomy(device):
        vectors = torch.tensor(sample, device=device)  # may be too large to be page-locked
        if token_ids is None:
            plan = Plan.of_all(len(sample), nlist, device)
            return kmeans(vectors, plan, iterations, seed).cpu().numpy(), None
        order = np.argsort(token_ids, kind="stable")
        tokens, sizes = np.unique(token_ids, return_counts=True)
        shares = share_out(sizes, _spreads(vectors, order, sizes), nlist)
        kept = shares > 0
        order = order[np.repeat(kept, sizes)]
        vectors = vectors[sent(order, device)]  # of ids that have a centroid, id after id
        tokens, sizes, shares = tokens[kept], sizes[kept], shares[kept]
        bounds, first = np.concatenate([[0], np.cumsum(sizes)]), np.cumsum(shares) - shares
        plan = Plan(np.arange(len(order)), bounds, first, shares, device)
        return kmeans(vectors, plan, iterations, seed).cpu().numpy(), np.repeat(tokens, shares)


def _spreads(vectors: Tensor, order: Ids, sizes: Ids) -> npt.NDArray[np.float64]:
    """Mean squared distance of each group's vectors from their mean. order, sizes: group after group."""
    of_row = sent(_of_each(np.arange(len(sizes)), order, sizes), vectors.device)
    sums, counts = _sums(vectors, of_row, len(sizes))
    squares, _ = _sums(vectors.square().sum(dim=1, keepdim=True), of_row, len(sizes))
    spreads = (squares[:, 0] - sums.square().sum(dim=1) / counts) / counts
    found: npt.NDArray[np.float64] = spreads.clamp_min(0).double().cpu().numpy()
    return found


def product_centroids(residuals: Floats, m: int, iterations: int, seed: int, device: torch.device) -> Floats:
    """k-means of each of m sub-vectors: (n, dim) → (m, 256, dim / m)."""
    n = len(residuals)
    chosen = np.random.default_rng(seed).permutation(n)[:CODES]
    with _roomy(device):
        rows = sent(residuals, device)
        parts = rows.reshape(n, m, -1).transpose(0, 1).contiguous()  # (m, n, part)
        centroids = parts[:, sent(chosen, device)]
        of_part = CODES * torch.arange(m, device=device)[:, None]
        for _ in range(iterations):
            codes, distances = _codes(parts, centroids)
            sums, counts = _sums(parts.flatten(0, 1), (codes + of_part).flatten(), m * CODES)
            empty = (counts == 0).reshape(m, CODES)
            farthest = distances.topk(CODES, dim=1).indices.gather(1, (empty.cumsum(1) - 1).clamp_min(0))
            far = parts.gather(1, farthest[:, :, None].expand_as(centroids))
            means = (sums / counts.clamp_min(1)[:, None]).reshape_as(centroids)
            centroids = torch.where(empty[:, :, None], far, means)
        return centroids.cpu().numpy()


def _codes(parts: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of 256 places of each sub-vector, and its squared distance: (m, n, part), (m, 256, part) → (m, n)."""
    halves = centroids.square().sum(dim=2)[:, None] / 2  # (m, 1, 256)
    step = max(1, TILE // (len(parts) * CODES))
    found = [
        torch.baddbmm(halves, part, centroids.transpose(1, 2), alpha=-1).min(dim=2)
        for part in torch.split(parts, step, dim=1)
    ]
    values = torch.cat([own.values for own in found], dim=1)
    return torch.cat([own.indices for own in found], dim=1), 2 * values + parts.square().sum(dim=2)


class DeviceCoder:
    """A codec on a device: `Codec.encode` and what it is made of."""

    def __init__(self, codec: "Codec", device: torch.device) -> None:
        self.device = device
        self.m, self.nlist, self.owners = codec.m, codec.nlist, codec.owners
        # The centroids of an id side by side.
        order = np.arange(codec.nlist) if codec.owners is None else codec.owners.order
        self._numbers, self._sorted = self._there(order), self._there(codec.centroids[order])
        self._rotation = self._there(codec.rotation)
        self._parts = self._there(codec.pq_centroids)  # (m, 256, part)
        self._scales = self._there(codec.scales)

    def _there(self, array: npt.NDArray[Any]) -> Tensor:
        with _roomy(self.device):
            return sent(array, self.device)

    def encode(
        self, vectors: npt.NDArray[np.floating[Any]], token_ids: npt.NDArray[np.int32] | None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """(n, dim) → centroid_ids (n,) and codes (n, m + 1)."""
        with _roomy(self.device):
            plan = self._plan(len(vectors), token_ids)
            rows = self._there(vectors).float() @ self._rotation
            places, _ = nearest(rows, self._sorted, plan)
            own = self._sorted[places]
            residuals = rows - own
            codes = self._by_part(residuals / residuals.norm(dim=1, keepdim=True).clamp_min(1e-30))
            last = self._last_bytes(rows, own, residuals, self._decoded(codes))
            ids = self._numbers[places].to(torch.int32)
            numbers = ids[:, None].contiguous().view(torch.uint8)  # (n, 4)
            packed = torch.cat([numbers, codes.T.to(torch.uint8), last[:, None]], dim=1).cpu().numpy()
        return np.ascontiguousarray(packed[:, :4]).view(np.int32)[:, 0], packed[:, 4:].copy()

    def nearest(self, rotated: Floats, token_ids: npt.NDArray[np.int32] | None) -> Ids:
        """`Codec.assign` of vectors that are rotated: (n, dim) → (n,)."""
        with _roomy(self.device):
            plan = self._plan(len(rotated), token_ids)
            places, _ = nearest(self._there(rotated), self._sorted, plan)
            return self._numbers[places].cpu().numpy()

    def direction_codes(self, directions: Floats) -> npt.NDArray[np.uint8]:
        """(n, dim) of length 1 → (n, m)."""
        with _roomy(self.device):
            codes: npt.NDArray[np.uint8] = (
                self._by_part(self._there(directions)).T.to(torch.uint8).cpu().numpy()
            )
            return codes

    def _plan(self, n: int, token_ids: npt.NDArray[np.int32] | None) -> Plan:
        """Tokens by vocabulary id; those of none that has centroids are one group, compared with all."""
        if self.owners is None or token_ids is None:
            return Plan.of_all(n, self.nlist, self.device)
        place = self.owners.places(token_ids)  # (n,), -1 for none
        order = np.argsort(place, kind="stable")
        groups, starts = np.unique(place[order], return_index=True)
        none = groups < 0
        first = np.where(none, 0, self.owners.starts[groups])
        counts = np.where(none, self.nlist, self.owners.counts[groups])
        return Plan(order, np.append(starts, n), first, counts, self.device)

    def _last_bytes(self, rows: Tensor, own: Tensor, residuals: Tensor, directions: Tensor) -> Tensor:
        """As `lengths.numbers_of`: (n,) uint8. own: the centroids."""
        squares = directions.square().sum(dim=1)
        wanted = (residuals * directions).sum(dim=1).clamp_min(0) / squares.clamp_min(1e-30)
        table = self._scales.reshape(LEVELS, LEVELS, 2)
        gains, lengths = table[:, 0, 1].contiguous(), table[:, :, 0]
        level = torch.searchsorted((gains[1:] + gains[:-1]) / 2, wanted)
        found = (own + gains[level][:, None] * directions).norm(dim=1)
        scale = torch.where(found > 0, rows.norm(dim=1) / found, 1.0)
        within = (scale[:, None] > ((lengths[:, 1:] + lengths[:, :-1]) / 2)[level]).sum(dim=1)
        return (LEVELS * level + within).to(torch.uint8)

    def _by_part(self, residuals: Tensor) -> Tensor:
        """(n, dim) → (m, n) numbers of the nearest places."""
        return _codes(residuals.reshape(len(residuals), self.m, -1).transpose(0, 1), self._parts)[0]

    def _decoded(self, codes: Tensor) -> Tensor:
        """(m, n) → (n, dim)."""
        places = codes[:, :, None].expand(-1, -1, self._parts.shape[2])
        return self._parts.gather(1, places).transpose(0, 1).flatten(1)


def _roomy(device: torch.device) -> AbstractContextManager[None]:
    return roomy(
        f"{device} has too little memory to build an index ({{reason}}); leave device out to build on the processor"
    )
