"""QueryTables: what a query's tokens score with every centroid and every residual code, computed once."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.maxsim import sharpened_array
from indexing.coding.centroids import BLOCK, ByteCentroids
from indexing.coding.codec import Codec
from retriever.kernels.compiling import compiled
from retriever.kernels.products import extremes, fill_levels, multiply

__all__ = ["BYTE_LANES", "QueryTables"]

# Lanes of a block: the least that hold the query. 32 bytes, or 16 numbers of 16 bits, are one AVX2 register.
BYTE_LANES = (8, 16, 32)
RESIDUAL_LANES = (8, 16)
CACHE_LINE = 64  # bytes
UNITS = 64  # of a gain in a step of levels


@dataclass(frozen=True)
class QueryTables:
    """A query token is a lane; lanes come in blocks, and those beyond n_query hold zeros.

    centroids: (nlist, lanes) float32, query token · centroid; lanes are 8, or a multiple of 16.
    residuals: (blocks, m, 256, 8 or 16) int16, query token · residual sub-vector, in steps.
    residual_steps: (lanes,) float32, such that the sum of m of them fits into 16 bits.
    most: (ceil(nlist / 16), lanes) float32, the largest of each 16 rows of `centroids`.
    levels: (byte_blocks, nlist, 8, 16 or 32) uint8, of `centroids`, rounded to steps from the least of each lane.
    gains: (byte_blocks, 8, 16 or 32, 256) int32, what a lane's level adds to a score, in units.
    floor: the sum of what the lanes' floors count.
    scales: (256, 2) float32, the codec's: scale and gain.
    norms: (lanes,) float32, lengths of the query's vectors. sharpness: of `encoder.maxsim.sharpened`.
    """

    n_query: int
    centroids: npt.NDArray[np.float32]
    most: npt.NDArray[np.float32]
    residuals: npt.NDArray[np.int16]
    residual_steps: npt.NDArray[np.float32]
    levels: npt.NDArray[np.uint8]
    gains: npt.NDArray[np.int32]
    floor: float
    unit: float
    scales: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]
    sharpness: float

    @classmethod
    def of(cls, query: npt.NDArray[np.float32], codec: Codec, sharpness: float = 0.0) -> "QueryTables":
        """query: (n_query, dim) float32."""
        n_query = len(query)
        width = next((n for n in RESIDUAL_LANES if n >= n_query), RESIDUAL_LANES[-1])
        blocks = -(-n_query // width)
        padded = np.zeros((blocks * width, codec.turned_dim), dtype=np.float32)
        padded[:n_query] = codec.rotated(query)
        centroids, most, least = _centroid_scores(padded, codec.byte_centroids)
        parts = padded.reshape(blocks, width, codec.m, codec.turned_dim // codec.m).transpose(0, 2, 3, 1)
        exact = np.matmul(codec.pq_centroids, parts)  # (m, 256, part) @ (blocks, m, part, width)
        residuals = _aligned(exact.shape, np.int16)
        steps = np.empty((blocks, width), np.float32)
        _in_steps(exact, residuals, steps)
        # Every lane has its own floor, which cancels where passages are compared, and all have one step, or
        # their sum would not be a sum of scores.
        low, high = extremes(most, least)
        widest = float((high - low)[:n_query].max(initial=0.0))
        lanes = next((n for n in BYTE_LANES if n >= n_query), BYTE_LANES[-1])
        # Fresh zeros cost more than the levels themselves.
        made = np.zeros if blocks * width % lanes else np.empty
        levels = made((-(-n_query // lanes), codec.nlist, lanes), dtype=np.uint8)
        fill_levels(centroids, low, np.float32(255.0 / widest if widest else 0.0), levels)
        norms = np.zeros(blocks * width, np.float32)
        norms[:n_query] = np.sqrt(np.einsum("ij,ij->i", query, query))
        gains, floor, unit = _gains(low[:n_query], widest / 255.0, norms[:n_query], sharpness, levels.shape)
        return cls(
            n_query,
            centroids,
            most,
            residuals,
            steps.ravel(),
            levels,
            gains,
            floor,
            unit,
            codec.scales,
            norms,
            sharpness,
        )

    def counted(self, best: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What scores of query tokens count (`encoder.maxsim.sharpened`): (n_query, n) -> the same."""
        return sharpened_array(best, self.norms[: self.n_query, None], self.sharpness)


def _gains(
    low: npt.NDArray[np.float32],
    step: float,
    norms: npt.NDArray[np.float32],
    sharpness: float,
    levels: tuple[int, ...],
) -> tuple[npt.NDArray[np.int32], float, float]:
    """For lanes that begin at `low` and levels of that shape: gains, the floor of all lanes, and the unit."""
    blocks, _, lanes = levels
    unit = step / UNITS if step else 1.0
    gains = np.zeros((blocks * lanes, 256), dtype=np.int32)
    scores = low[:, None] + np.float32(step) * np.arange(256, dtype=np.float32)  # (n_query, 256)
    counted = sharpened_array(scores, norms[:, None], sharpness)
    gains[: len(low)] = np.rint((counted - counted[:, :1]) / np.float32(unit))
    return gains.reshape(blocks, lanes, 256), float(counted[:, 0].sum(dtype=np.float64)), unit


def _centroid_scores(
    query: npt.NDArray[np.float32], centroids: ByteCentroids
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """query: (lanes, dim) → products (nlist, lanes) and the most and least of each BLOCK of them."""
    n = len(centroids.blocks)
    scores = _aligned((n * BLOCK, len(query)))
    most, least = np.empty((2, n, len(query)), dtype=np.float32)
    multiply(query, centroids, (scores, most, least))
    return scores[: len(centroids.numbers)], most, least


def _aligned(shape: tuple[int, ...], kind: Any = np.float32) -> npt.NDArray[Any]:
    """An empty array that begins at a cache line: no load of eight lanes then touches two. Numpy promises 16
    bytes, and where it gives no more, the residual kernel took 41 ns a token instead of 28."""
    size = np.dtype(kind).itemsize * math.prod(shape)
    raw = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    array: npt.NDArray[Any] = raw[start : start + size].view(kind).reshape(shape)
    return array


@compiled
def _in_steps(
    exact: npt.NDArray[np.float32], numbers: npt.NDArray[np.int16], steps: npt.NDArray[np.float32]
) -> None:
    """exact: (blocks, m, 256, lanes) → numbers of the same shape, and steps (blocks, lanes)."""
    blocks, m, entries, lanes = exact.shape
    largest, up = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    for block in range(blocks):
        steps[block, :] = 0
        for part in range(m):
            largest[:] = 0
            for entry in range(entries):
                for q in range(lanes):
                    largest[q] = max(largest[q], abs(exact[block, part, entry, q]))
            for q in range(lanes):
                steps[block, q] += largest[q]
        for q in range(lanes):
            # m roundings of half a step are kept free
            up[q] = (32767 - m) / steps[block, q] if steps[block, q] > 0 else 0
            steps[block, q] = 1 / up[q] if up[q] > 0 else 0
        for part in range(m):
            for entry in range(entries):
                for q in range(lanes):
                    value = exact[block, part, entry, q] * up[q]
                    numbers[block, part, entry, q] = np.int16(math.floor(value + np.float32(0.5)))
