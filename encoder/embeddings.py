"""TokenEmbeddings: the vectors of a batch of texts, packed without padding."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_list, as_rows, as_vectors
from encoder.errors import ArgumentError

__all__ = ["NO_ID", "TokenEmbeddings"]

NO_ID = -1


@dataclass(frozen=True, eq=False)
class TokenEmbeddings:
    """Token vectors of n texts, end to end.

    vectors: (total_tokens, dim) float32, each row of unit length when an `Encoder` made it.
    offsets: (n + 1,) int64, cumulative token counts; text i owns rows offsets[i]:offsets[i + 1].
    truncated: how many of the n texts were longer than the encoder's length and lost their tail.
    token_ids: (total_tokens,) int32, the entry of a vocabulary that each vector stands for, NO_ID where it stands for
        none or for several; None where nothing is known of it. An `Encoder` that does not pool gives them.
    """

    vectors: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    truncated: int = 0
    token_ids: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        if vectors.ndim != 2:
            raise ArgumentError(f"vectors has shape {vectors.shape}; pass (total_tokens, dim)")
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(vectors):
            raise ArgumentError(
                f"offsets must run from 0 to total_tokens={len(vectors)}, got shape {offsets.shape} "
                f"from {offsets[:1].tolist()} to {offsets[-1:].tolist()}; pass cumulative token counts"
            )
        if np.any(np.diff(offsets) < 0):
            raise ArgumentError("offsets decrease; pass cumulative token counts")
        if self.token_ids is not None:
            object.__setattr__(self, "token_ids", _checked_ids(self.token_ids, len(vectors)))
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "offsets", offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> npt.NDArray[np.float32]:
        """Vectors of text i: (n_tokens, dim), a view."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        i %= len(self)
        return self.vectors[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text: (n,) int64."""
        return np.diff(self.offsets)

    def means(self) -> npt.NDArray[np.float32]:
        """One vector a text, the mean of its tokens' scaled to unit length: (n, dim). Zeros where there is no token."""
        sums = np.zeros((len(self), self.dim), np.float32)
        for row, vectors in zip(sums, self, strict=True):
            row[:] = vectors.sum(axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        means: npt.NDArray[np.float32] = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
        return means

    @classmethod
    def of(cls, values: Any, name: str, dim: int) -> "TokenEmbeddings":
        """Finite vectors of several texts as callers give them: packed already, or one (n_tokens, dim) array a text."""
        packed = (
            values if isinstance(values, cls) else cls.from_list(as_list(values, name, "arrays"), dim, name)
        )
        for i, vectors in enumerate(packed):
            as_vectors(vectors, f"{name}[{i}]", dim)
        return packed

    @classmethod
    def from_list(
        cls, arrays: Iterable[npt.ArrayLike], dim: int, name: str = "embeddings"
    ) -> "TokenEmbeddings":
        """Pack one (n_tokens, dim) array a text; a text without tokens may be any empty array.

        Raises ArgumentError, naming the array, for one of another shape or not of numbers.
        """
        rows = [as_rows(a, f"{name}[{i}]", dim) for i, a in enumerate(arrays)]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(r) for r in rows], out=offsets[1:])
        return cls(np.concatenate([np.zeros((0, dim), np.float32), *rows]), offsets)


def _checked_ids(token_ids: Any, n_tokens: int) -> npt.NDArray[np.int32]:
    given = np.asarray(token_ids)
    if given.shape != (n_tokens,) or given.dtype.kind not in "iu":
        raise ArgumentError(
            f"token_ids has shape {given.shape} of {given.dtype}; pass ({n_tokens},) integers, one a vector"
        )
    low, high = (int(given.min()), int(given.max())) if n_tokens else (0, 0)
    if low < NO_ID or high >= 1 << 31:
        raise ArgumentError(
            f"token_ids run from {low} to {high}; pass ids of a vocabulary, from 0 up, or {NO_ID} for none"
        )
    return np.ascontiguousarray(given, dtype=np.int32)
