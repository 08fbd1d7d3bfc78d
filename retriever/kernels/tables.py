"""QueryTables: what a query's tokens score with every centroid and every residual code, computed once."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexing.codec import Codec
from retriever.kernels.compiling import compiled, in_parts

__all__ = ["BYTE_LANES", "FLOAT_LANES", "QueryTables"]

BYTE_LANES = 32  # one AVX2 register, or two of NEON
BLAS_STEPS = 1 << 17  # multiply-adds; OpenBLAS starts threads from 1 << 18
CACHE_LINE = 64  # bytes
FLOAT_LANES = 8  # one AVX2 register; blocks of 16 or 32 take no less time a lane and pad short queries more


@dataclass(frozen=True)
class QueryTables:
    """A query token is a lane; lanes come in blocks, and those beyond n_query hold zeros.

    centroids: (nlist, float_blocks * 8) float32, query token · centroid.
    residuals: (float_blocks, m, 256, 8) float32, query token · residual sub-vector.
    levels: (byte_blocks, nlist, 32) uint8, of `centroids`: score = floor of the lane + step * level, rounded.
    floor: the sum of all lanes' floors.
    scales: (256,) float32, the codec's.
    """

    n_query: int
    centroids: npt.NDArray[np.float32]
    residuals: npt.NDArray[np.float32]
    levels: npt.NDArray[np.uint8]
    floor: float
    step: float
    scales: npt.NDArray[np.float32]

    @classmethod
    def of(cls, query: npt.NDArray[np.float32], codec: Codec) -> "QueryTables":
        """query: (n_query, dim) float32."""
        n_query = len(query)
        blocks = -(-n_query // FLOAT_LANES)
        padded = np.zeros((blocks * FLOAT_LANES, codec.dim), dtype=np.float32)
        padded[:n_query] = query
        centroids = _aligned((codec.nlist, blocks * FLOAT_LANES))
        _products(codec.centroids, np.ascontiguousarray(padded.T), centroids)
        parts = padded.reshape(blocks, FLOAT_LANES, codec.m, codec.dim // codec.m).transpose(0, 2, 3, 1)
        residuals = _aligned((blocks, codec.m, codec.pq_centroids.shape[1], FLOAT_LANES))
        np.matmul(codec.pq_centroids, parts, out=residuals)  # (m, 256, part) @ (blocks, m, part, 8)
        levels = np.zeros((-(-n_query // BYTE_LANES), codec.nlist, BYTE_LANES), dtype=np.uint8)
        floor, step = _quantise(centroids, n_query, levels)
        return cls(n_query, centroids, residuals, levels, floor, step, codec.scales)


def _aligned(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An empty array that begins at a cache line: no load of eight lanes then touches two. Numpy promises 16
    bytes, and where it gives no more, the residual kernel takes 41 ns a token instead of 28."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(np.float32).reshape(shape)


def _products(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """out = left @ right, in blocks of rows so small that BLAS does each on the thread that asks for it.

    Its own threads spin while they wait, which on a busy machine made 0.7 ms into 16, and they would come on
    top of those that search already has. On one thread the blocks are as fast as the whole or faster.
    """
    n, dim = left.shape
    lanes = right.shape[1]
    rows = min(n, max(1, BLAS_STEPS // max(1, dim * lanes)))
    blocks = n // rows

    def work(part: slice) -> None:
        at, n_blocks = slice(part.start * rows, part.stop * rows), part.stop - part.start
        np.matmul(left[at].reshape(n_blocks, rows, dim), right, out=out[at].reshape(n_blocks, rows, lanes))

    in_parts(work, np.full(blocks, rows * dim * lanes // 32))
    np.matmul(left[blocks * rows :], right, out=out[blocks * rows :])


@compiled
def _quantise(
    scores: npt.NDArray[np.float32], n_query: int, levels: npt.NDArray[np.uint8]
) -> tuple[float, float]:
    """Fill levels; return the sum of floors, and the step.

    Every lane has its own floor, which cancels where passages are compared, and all have one step, or their
    sum would not be a sum of scores.
    """
    lanes = levels.shape[2]
    low = scores[0].copy()
    high = scores[0].copy()
    for c in range(scores.shape[0]):
        for q in range(scores.shape[1]):
            low[q] = min(low[q], scores[c, q])
            high[q] = max(high[q], scores[c, q])
    widest = np.float32(0.0)
    floor = 0.0
    for q in range(n_query):
        widest = max(widest, high[q] - low[q])
        floor += low[q]
    if widest == 0:
        return floor, 0.0
    up = np.float32(255.0) / widest
    for block in range(levels.shape[0]):
        start = block * lanes
        for c in range(scores.shape[0]):
            for q in range(min(lanes, n_query - start)):
                level = (scores[c, start + q] - low[start + q]) * up + np.float32(0.5)
                levels[block, c, q] = np.uint8(np.int32(level))
    return floor, float(widest) / 255.0
