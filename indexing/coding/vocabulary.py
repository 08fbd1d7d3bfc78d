"""Centroids that belong to vocabulary ids: dealt out, trained and searched within each id.

After Martinico, Nardini, Rulli and Venturini 2026, "Efficient Multivector Retrieval with Token-Aware Clustering and
Hierarchical Indexing" (arXiv 2604.28142).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from encoder.errors import IndexFormatError

__all__ = ["ITERATIONS", "Owners", "nearest", "owners_file", "share_out", "train_within"]

ITERATIONS = 4
DAMPING = 0.8  # centroids grow with this power of an id's count
ROWS_PER_CENTROID = 4  # at least, on average within an id
BLOCK_SCORES = 1 << 21  # products made at a time

Floats: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.int64]


class Owners:
    """Which vocabulary id each centroid belongs to.

    tokens: (nlist,) int32; NO_ID for those of vectors without one. known: (n_ids,) the different ones, ascending.
    order: (nlist,) the centroids, id after id. starts, counts: (n_ids,) where each id's stand in it, and how many.
    """

    def __init__(self, tokens: npt.NDArray[np.int32]) -> None:
        self.tokens = tokens
        self.order = np.argsort(tokens, kind="stable")
        self.known, self.starts, self.counts = np.unique(
            tokens[self.order], return_index=True, return_counts=True
        )

    @property
    def nbytes(self) -> int:
        arrays = (self.tokens, self.order, self.known, self.starts, self.counts)
        return sum(array.nbytes for array in arrays)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # np.save would give the name another ending
            np.save(file, self.tokens)

    @classmethod
    def load(cls, path: Path, nlist: int) -> "Owners":
        """Raises IndexFormatError naming the file, FileNotFoundError where it is missing."""
        try:
            tokens = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise IndexFormatError(f"{path} is damaged; restore it or build the index again") from error
        if tokens.shape != (nlist,) or tokens.dtype != np.int32 or tokens.min() < NO_ID:
            raise IndexFormatError(
                f"{path} holds {tokens.dtype} of shape {tokens.shape}, the codec needs int32 from {NO_ID} up of shape "
                f"({nlist},); restore it or build the index again"
            )
        return cls(tokens)

    def places(self, token_ids: npt.NDArray[np.int32]) -> Ids:
        """(n,) -> (n,): the place of each id in `known`; -1 for one that has no centroid, and for NO_ID."""
        at = np.minimum(np.searchsorted(self.known, token_ids), len(self.known) - 1)
        return np.where((self.known[at] == token_ids) & (token_ids != NO_ID), at, -1)

    def nearest(self, vectors: Floats, token_ids: npt.NDArray[np.int32], centroids: Floats) -> Ids:
        """(n, dim), (n,) -> (n,): of the centroids of a vector's own id the one with the largest inner product; -1
        where its id has none, or it has no id."""
        at = self.places(token_ids)
        found = np.where(at >= 0, self.order[self.starts[at]], -1)
        several = np.flatnonzero((at >= 0) & (self.counts[at] > 1))
        for group, rows in _groups(at[several]):
            start = self.starts[group]
            own = self.order[start : start + self.counts[group]]
            rows = several[rows]
            found[rows] = own[nearest(vectors[rows], centroids[own])[0]]
        return found


def owners_file(codec: str) -> str:
    """The name of the file beside a codec's that says whose its centroids are: (nlist,) int32."""
    return f"{codec.removesuffix('.faiss')}.owners.npy"


def train_within(
    sample: Floats, token_ids: npt.NDArray[np.int32], nlist: int, seed: int
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Spherical k-means within each vocabulary id: (n, dim), (n,) -> centroids (nlist, dim) of unit length and whose
    they are, (nlist,) int32; fewer where there are few vectors. The same sample and seed give the same."""
    groups = list(_groups(token_ids))
    counts = np.array([len(rows) for _, rows in groups], np.int64)
    shares = share_out(counts, np.array([_spread(sample[rows]) for _, rows in groups]), nlist)
    centroids, owners = [], []
    for (token, rows), share in zip(groups, shares.tolist(), strict=True):
        if share:
            centroids.append(_kmeans(sample[rows], share, np.random.default_rng([seed, token + 1])))
            owners.append(np.full(share, token, np.int32))
    return np.concatenate(centroids), np.concatenate(owners)


def share_out(counts: Ids, spreads: npt.NDArray[np.float64], nlist: int) -> Ids:
    """How many of nlist centroids each id gets, by how often it occurs and how variedly: (n_ids,) each.

    The share of an id follows count ** DAMPING * spread, but is at least 1 and at most one for ROWS_PER_CENTROID of
    its vectors. The rarest ids get none where there are more of them than half of nlist.
    """
    least = np.zeros(len(counts), np.int64)
    least[np.argsort(-counts, kind="stable")[: nlist // 2 if nlist > 3 else nlist]] = 1
    weights = least * counts**DAMPING * spreads
    # Equal vectors need no second one.
    most = np.where(weights > 0, np.maximum(counts // ROWS_PER_CENTROID, 1), least)
    if most.sum() <= nlist:
        return most
    low, high = 0.0, nlist / weights[most > 1].min()
    for _ in range(100):
        middle = (low + high) / 2
        if np.clip(weights * middle, least, most).sum() < nlist:
            low = middle
        else:
            high = middle
    wanted = np.clip(weights * low, least, most)
    shares = np.floor(wanted).astype(np.int64)
    parts = np.where(shares < most, wanted - shares, -1.0)
    shares[np.argsort(-parts, kind="stable")[: nlist - int(shares.sum())]] += 1
    return shares


def _groups(keys: npt.NDArray[np.integer]) -> Iterator[tuple[int, Ids]]:
    """Each different key and where it stands, ascending."""
    order = np.argsort(keys, kind="stable")
    different, starts = np.unique(keys[order], return_index=True)
    # Of no keys, np.split makes one part all the same.
    return zip(different.tolist(), np.split(order, starts[1:]), strict=False)


def _spread(rows: Floats) -> float:
    """Mean squared distance of vectors from their mean."""
    mean = rows.mean(axis=0)
    return max(float(np.einsum("ij,ij->", rows, rows) / len(rows) - mean @ mean), 0.0)


def _kmeans(rows: Floats, k: int, random: "np.random.Generator") -> Floats:
    centroids = _unit(rows[random.permutation(len(rows))[:k]] if k > 1 else rows.mean(axis=0)[None])
    for _ in range(ITERATIONS if k > 1 else 0):
        ids, products = nearest(rows, centroids)
        order = np.argsort(ids, kind="stable")
        counts = np.bincount(ids, minlength=k)
        used = counts > 0
        centroids[used] = np.add.reduceat(rows[order], (np.cumsum(counts) - counts)[used], axis=0)
        # One that lost all its vectors takes one of those that lie farthest from theirs.
        centroids[~used] = rows[np.argsort(products, kind="stable")[: k - int(used.sum())]]
        centroids = _unit(centroids)
    return centroids


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit


def nearest(rows: Floats, centroids: Floats) -> tuple[Ids, Floats]:
    """The centroid with the largest inner product, and that product: (n,) each."""
    ids, products = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    step = max(1, BLOCK_SCORES // len(centroids))
    for start in range(0, len(rows), step):
        scores = rows[start : start + step] @ centroids.T
        at = slice(start, start + step)
        ids[at] = scores.argmax(axis=1)
        products[at] = np.take_along_axis(scores, ids[at, None], axis=1)[:, 0]
    return ids, products
