"""Codecs of random numbers: nothing is trained."""

import numpy as np

from indexing.coding.centroids import ByteCentroids
from indexing.coding.codec import Codec

__all__ = ["random_codec"]


def random_codec(
    random: np.random.Generator, nlist: int, *, m: int, part: int, positive: bool = False
) -> Codec:
    """Of dim m * part, centroids of unit length, scales from 0.5 to 2, gains to 1.5. positive: centroids and residuals
    alike."""
    dim = m * part
    centroids = random.standard_normal((nlist, dim)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    residuals = 0.1 * random.standard_normal((m, 256, part)).astype(np.float32)
    if positive:
        centroids, residuals = np.abs(centroids) + 0.01, np.abs(residuals)
    rotation = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    scales = np.stack([np.tile(np.linspace(0.5, 2, 16), 16), np.repeat(np.linspace(0, 1.5, 16), 16)], axis=1)
    scales = scales.astype(np.float32)
    return Codec(ByteCentroids.of(centroids), residuals, scales, rotation)
