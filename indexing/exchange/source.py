"""What a file, a table or another library's index gives: documents with their vectors, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.checkpoints.folder import first_line
from encoder.embeddings import TokenEmbeddings
from encoder.errors import CorpusError
from indexing.writing.given import VectorBatch

__all__ = ["BATCH_TOKENS", "VectorSource", "checked_offsets", "cut", "mapped", "packed"]

BATCH_TOKENS = 1 << 15  # of 128 dimensions 16 MiB in float32


@dataclass(frozen=True, eq=False)
class VectorSource:
    """Documents with vectors, in their order, read as often as `batches` is called, in bounded memory.

    kind: whose form it is. documents: how many; None where only reading tells. places: where a source keeps no ids,
    these are places in it, of which there are so many, some maybe without a document; None where it has ids. encoder:
    what loaded the encoder that made the vectors, and fingerprint what it is known by, where the source says so. lost:
    what of the source is not in the batches, a line each. code_bytes: what a token of 128 dimensions takes in the
    source's codes; None for vectors that are whole.
    """

    kind: str
    dim: int
    batches: Callable[[], Iterator[VectorBatch]]
    documents: int | None = None
    places: int | None = None
    encoder: dict[str, Any] | None = None
    fingerprint: str | None = None
    lost: tuple[str, ...] = ()
    code_bytes: int | None = None


def cut(lengths: npt.NDArray[np.int64], most: int = BATCH_TOKENS) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of neighbours with about `most` tokens; a longer one is a run of its own."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def packed(
    vectors: npt.NDArray[Any],
    lengths: Sequence[int] | npt.NDArray[Any],
    token_ids: npt.NDArray[Any] | None = None,
) -> TokenEmbeddings:
    """Vectors end to end, (n_tokens, dim), and how many each text has."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenEmbeddings(vectors.astype(np.float32, copy=False), offsets, 0, token_ids)


def mapped(path: Path, remedy: str) -> npt.NDArray[Any]:
    """An .npy file. To be called for each reading: pages of an earlier map count as this process's memory.

    Raises CorpusError, with the remedy, for what cannot be read.
    """
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except (ValueError, OSError, EOFError) as error:
        raise CorpusError(f"{path} cannot be read ({first_line(error)}); {remedy}") from None


def checked_offsets(offsets: npt.NDArray[Any], n_tokens: int, where: str) -> npt.NDArray[np.int64]:
    """Raises CorpusError unless they run from 0 to n_tokens and never decrease."""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise CorpusError(
            f"{where} holds {offsets.dtype} of shape {offsets.shape}; give it (n + 1,) integers"
        )
    found = offsets.astype(np.int64)
    if found[0] != 0 or found[-1] != n_tokens or (np.diff(found) < 0).any():
        raise CorpusError(
            f"{where} runs from {found[0]} to {found[-1]}, and there are {n_tokens} vectors; give it cumulative counts "
            "of tokens, from 0"
        )
    return found
