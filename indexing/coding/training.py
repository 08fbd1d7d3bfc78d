"""The parts of which a codec is trained: centroids, codes of residuals, a rotation."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexing.coding.centroids import faiss_module
from indexing.coding.sizes import PQ_CENTROIDS, part_dims
from indexing.coding.vocabulary import ITERATIONS, Owners, train_within

if TYPE_CHECKING:
    import torch

__all__ = [
    "HNSW_NLIST",
    "KMEANS_ITERATIONS",
    "balanced_directions",
    "product_centroids",
    "quantizer_of",
    "train_centroids",
]

KMEANS_ITERATIONS = 3
PQ_ITERATIONS = 10  # 25 take 1.8 s more and lower the error by .4 % (docs/lab/2026-11-29-codes.md)
HNSW_NLIST = 16384  # from here on a graph over the centroids assigns faster than comparing with all of them
HNSW_EF = 32  # measured at 16,384 centroids: twice as fast, 99.1 % the same centroid


def train_centroids(
    sample: npt.NDArray[np.float32],
    token_ids: npt.NDArray[np.int32] | None,
    nlist: int,
    seed: int,
    device: "torch.device | None",
) -> tuple[npt.NDArray[np.float32], Owners | None, Any]:
    """k-means, within each vocabulary id where these are given: centroids (nlist, dim) of unit length, whose they are,
    and FAISS's index of them, where it is FAISS that made them."""
    if device is not None:
        from indexing.coding import torch_coding

        iterations = KMEANS_ITERATIONS if token_ids is None else ITERATIONS
        found, tokens = torch_coding.train_centroids(sample, token_ids, nlist, iterations, seed, device)
        return found, None if tokens is None else Owners(tokens), None
    if token_ids is not None:
        found, own = train_within(sample, token_ids, nlist, seed)
        return found, Owners(own), None
    faiss = faiss_module()
    n, dim = sample.shape
    kmeans = faiss.Clustering(dim, nlist)
    kmeans.niter, kmeans.spherical, kmeans.seed = KMEANS_ITERATIONS, True, seed
    kmeans.min_points_per_centroid, kmeans.max_points_per_centroid = 1, n
    quantizer = quantizer_of(dim, nlist, links=16, construction=40)
    kmeans.train(sample, quantizer)
    return faiss.vector_to_array(kmeans.centroids).reshape(nlist, dim), None, quantizer


def product_centroids(
    residuals: npt.NDArray[np.float32], m: int, seed: int, device: "torch.device | None"
) -> npt.NDArray[np.float32]:
    """(n, a multiple of m) -> (m, 256, its m-th part): k-means of each sub-vector."""
    if device is not None:
        from indexing.coding.torch_coding import product_centroids

        return product_centroids(residuals, m, PQ_ITERATIONS, seed, device)
    faiss = faiss_module()
    pq = faiss.ProductQuantizer(residuals.shape[1], m, 8)
    pq.cp.seed, pq.cp.niter, pq.cp.min_points_per_centroid = seed, PQ_ITERATIONS, 1
    pq.train(residuals)
    centroids: npt.NDArray[np.float32] = faiss.vector_to_array(pq.centroids).reshape(m, PQ_CENTROIDS, -1)
    return centroids


def balanced_directions(residuals: npt.NDArray[np.float32], m: int) -> npt.NDArray[np.float32]:
    """(dim, a multiple of m) with orthonormal rows: principal directions of the residuals, dealt out to m sub-vectors
    so that the product of variances is about the same in all (OPQ's parametric solution, Ge et al. 2013). Where m does
    not divide dim, some have a direction less, and a zero."""
    dim = residuals.shape[1]
    room = part_dims(dim, m)
    moment = residuals.T.astype(np.float64) @ residuals
    values, directions = np.linalg.eigh(moment)  # ascending
    logs = np.log(np.maximum(values[::-1], values[-1] * 1e-12 + np.finfo(np.float64).tiny))
    parts: list[list[int]] = [[] for _ in range(m)]
    for direction in range(dim):
        open_parts = [part for part in parts if len(part) < room]
        # Of the parts with room the one that has least, by variances as multiples of the smallest.
        min(open_parts, key=lambda part: sum(logs[i] - logs[-1] for i in part)).append(direction)
    balanced = np.zeros((dim, m, room), np.float32)
    for at, part in enumerate(parts):
        balanced[:, at, : len(part)] = directions[:, ::-1][:, part]
    return balanced.reshape(dim, -1)


def quantizer_of(dim: int, nlist: int, *, links: int, construction: int) -> Any:
    """An empty index that finds a vector's centroid, exactly or by a graph; k-means does with a coarser graph."""
    faiss = faiss_module()
    if nlist < HNSW_NLIST:
        return faiss.IndexFlatIP(dim)
    index = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = construction, HNSW_EF
    return index
