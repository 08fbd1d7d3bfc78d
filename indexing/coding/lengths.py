"""The last byte of a code: how long the residual is that its product code points along, and how long the whole.

A vector v with centroid c, whose residual v - c has the direction that the product code k stands for, decodes to
(c + gain * k) * scale. The gain leaves the least error (k is coded for residuals of length 1, whatever theirs is), the
scale gives back the length of v. A byte holds both: LEVELS gains, and for each of them LEVELS scales.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["LEVELS", "Products", "choose_scales", "numbers_of", "plain_scales"]

Floats: TypeAlias = npt.NDArray[np.float32]

LEVELS = 16
GAIN_TAIL = 99.9  # percentile of the training sample that the gains reach to
GAIN_ROOM = 1.15  # and by so much beyond, since residuals of vectors unlike the sample are longer
SCALE_TAILS = (0.5, 99.5)
SCALE_RANGE = (0.9, 1.1)  # one scale of each gain lies so far out at least, for the same reason
ENOUGH = 64  # vectors of a gain from which its scales are chosen; of fewer, those of all gains


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of n vectors v, their centroids c, residuals r = v - c and coded directions k: (n,) each."""

    rk: Floats
    kk: Floats
    ck: Floats
    cc: Floats
    vv: Floats

    @classmethod
    def of(cls, vectors: Floats, residuals: Floats, directions: Floats) -> "Products":
        """(n, dim) each, rotated."""
        vv, vr, rr, rk, vk, kk = (
            np.einsum("ij,ij->i", a, b)
            for a, b in (
                (vectors, vectors),
                (vectors, residuals),
                (residuals, residuals),
                (residuals, directions),
                (vectors, directions),
                (directions, directions),
            )
        )
        return cls(rk, kk, vk - rk, vv - 2 * vr + rr, vv)

    def gains(self) -> Floats:
        """What leaves the least error: (n,)."""
        return np.divide(np.maximum(self.rk, 0), self.kk, out=np.zeros_like(self.rk), where=self.kk > 0)

    def scales(self, gains: Floats) -> Floats:
        """What gives back the length, after these gains: (n,)."""
        found = np.maximum(self.cc + 2 * gains * self.ck + np.square(gains) * self.kk, 0)
        square = np.divide(self.vv, found, out=np.ones_like(found), where=found > 0)
        return np.sqrt(square)


def plain_scales() -> Floats:
    """Gain and scale 1, whatever the byte."""
    return np.ones((LEVELS * LEVELS, 2), np.float32)


def choose_scales(products: Products) -> Floats:
    """(256, 2): scale and gain of each byte, from a sample. Gains ascend, and so do the scales of each; the first gain
    is 0, with a scale of 1, so that what is exact stays exact."""
    wanted = products.gains()
    # Evenly spaced, for a gain's error counts by its square, whatever the gain.
    gains = np.linspace(0, GAIN_ROOM * np.percentile(wanted, GAIN_TAIL), LEVELS, dtype=np.float32)
    chosen = _nearest(gains, wanted)
    lengths = products.scales(gains[chosen])
    table = np.empty((LEVELS, LEVELS, 2), np.float32)
    for level, gain in enumerate(gains):
        own = lengths[chosen == level]
        low, high = np.percentile(own if len(own) >= ENOUGH else lengths, SCALE_TAILS)
        inner = np.linspace(low, high, LEVELS - 2)
        row = np.concatenate([[min(low, SCALE_RANGE[0])], inner, [max(high, SCALE_RANGE[1])]])
        if level == 0:
            row += 1 - row[np.abs(row - 1).argmin()]
        table[level, :, 0], table[level, :, 1] = np.maximum(row, 0), gain
    return table.reshape(-1, 2)


def numbers_of(scales: Floats, products: Products) -> npt.NDArray[np.uint8]:
    """The byte of each vector: (256, 2) and n products -> (n,)."""
    table = scales.reshape(LEVELS, LEVELS, 2)
    gains = table[:, 0, 1]
    level = _nearest(gains, products.gains())
    rows = table[:, :, 0]
    middles = (rows[:, 1:] + rows[:, :-1]) / 2
    wanted = products.scales(gains[level])
    within = (wanted[:, None] > middles[level]).sum(axis=1)
    numbers: npt.NDArray[np.uint8] = (LEVELS * level + within).astype(np.uint8)
    return numbers


def _nearest(levels: Floats, wanted: Floats) -> npt.NDArray[np.int64]:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, wanted)
