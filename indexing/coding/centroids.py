"""Centroids in a byte a dimension, as they are stored and as a search multiplies them, and FAISS itself."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import MissingDependencyError

__all__ = ["BLOCK", "ByteCentroids", "faiss_module"]

BLOCK = 16  # centroids that a search multiplies side by side


@functools.cache
def faiss_module() -> Any:
    # Imported on first use: an index that is still flat, and `latewood --help`, do without it.
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            "faiss is not installed; run: pip install 'latewood[cpu]' (or 'latewood[gpu]')"
        ) from error
    return faiss


@dataclass(frozen=True)
class ByteCentroids:
    """Centroids in a byte a dimension, as FAISS's QT_8bit has them: number n is low + span * (n + 0.5) / 255.

    numbers: (nlist, dim) uint8. low, span: (dim,) float32, the range of each dimension.
    """

    numbers: npt.NDArray[np.uint8]
    low: npt.NDArray[np.float32]
    span: npt.NDArray[np.float32]

    @classmethod
    def of(cls, centroids: npt.NDArray[np.float32], ranges: "ByteCentroids | None" = None) -> "ByteCentroids":
        """(nlist, dim) float32, rounded. ranges: take those of others, to which these may then be added; what lies
        outside is moved to their edge."""
        quantizer = _empty(centroids.shape[1])
        if ranges is None:
            quantizer.train(centroids)
        else:
            ranges._set_ranges(quantizer)
        quantizer.add(centroids)
        return cls.read(quantizer, quantizer.d)

    @classmethod
    def read(cls, quantizer: Any, dim: int) -> "ByteCentroids":
        """The first `dim` dimensions of a FAISS quantiser."""
        faiss = faiss_module()
        numbers = faiss.vector_to_array(quantizer.codes).reshape(quantizer.ntotal, quantizer.d)
        low, span = faiss.vector_to_array(quantizer.sq.trained).reshape(2, quantizer.d)
        return cls(np.ascontiguousarray(numbers[:, :dim]), low[:dim], span[:dim])

    def quantizer(self, padding: int) -> Any:
        """A FAISS quantiser of these centroids, with `padding` more dimensions in which they are 0."""
        faiss = faiss_module()
        made = _empty(len(self.low) + padding)
        more = (0, padding)
        replace(self, low=np.pad(self.low, more), span=np.pad(self.span, more))._set_ranges(made)
        faiss.copy_array_to_vector(np.pad(self.numbers, ((0, 0), more)).ravel(), made.codes)
        made.ntotal = len(self.numbers)
        return made

    def _set_ranges(self, quantizer: Any) -> None:
        faiss_module().copy_array_to_vector(np.concatenate([self.low, self.span]), quantizer.sq.trained)
        quantizer.is_trained = True

    def floats(self, which: npt.NDArray[np.integer[Any]] | None = None) -> npt.NDArray[np.float32]:
        """(nlist, dim) float32, or those asked for, (n,) -> (n, dim). FAISS's own differ in the last bit from one width
        of its loops to another."""
        numbers = self.numbers if which is None else self.numbers[which]
        return self.low + self.span * ((numbers + np.float32(0.5)) / np.float32(255))

    @property
    def nbytes(self) -> int:
        """What they take in memory, in both forms once a search has asked for the second."""
        blocks = self.__dict__.get("blocks")
        return (
            self.numbers.nbytes
            + self.low.nbytes
            + self.span.nbytes
            + (0 if blocks is None else blocks.nbytes)
        )

    @functools.cached_property
    def blocks(self) -> npt.NDArray[np.int8]:
        """(ceil(nlist / BLOCK), ceil(dim / 2), BLOCK, 2), numbers - 128: pairs of dimensions of BLOCK centroids side
        by side. The last centroid fills up the last block, a 0 an odd dimension."""
        nlist, dim = self.numbers.shape
        rows = np.pad(self.numbers, ((0, -nlist % BLOCK), (0, 0)), mode="edge")
        signed = np.pad((rows.astype(np.int16) - 128).astype(np.int8), ((0, 0), (0, dim % 2)))
        return np.ascontiguousarray(signed.reshape(-1, BLOCK, signed.shape[1] // 2, 2).transpose(0, 2, 1, 3))


def _empty(dim: int) -> Any:
    faiss = faiss_module()
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit)
