"""A sample of passages with their vectors as they were given, by which what the codes lose can be measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from indexing.storage.segment import Segment

__all__ = ["Originals", "chosen", "share_of"]

MOST, SHARE = 1000, 0.01  # passages
Numbers = npt.NDArray[np.int64]
HASH = np.uint64(11_400_714_819_323_198_485)  # 2^64 over the golden ratio (Knuth's multiplicative hashing)


@dataclass(frozen=True, eq=False)
class Originals:
    """passages: (n,) ascending places in a segment. lengths: (n,) tokens of each. vectors: (n_tokens, dim) float16, end
    to end."""

    passages: Numbers
    lengths: Numbers
    vectors: npt.NDArray[np.float16]

    def of(self, wanted: npt.NDArray[np.bool_]) -> "Originals":
        """Those passages alone; wanted: (n,)."""
        rows = np.repeat(wanted, self.lengths)
        return Originals(self.passages[wanted], self.lengths[wanted], self.vectors[rows])

    @classmethod
    def drawn(cls, segment: "Segment", live: npt.NDArray[np.bool_], share: float, seed: int) -> "Originals":
        """Of a segment's live passages; `passages` are places among these alone. None of codes without a sample."""
        wanted = live & chosen(segment.owners, share, seed)
        places = np.cumsum(live) - 1
        if segment.kind == "flat":
            rows = np.repeat(wanted, np.diff(segment.offsets))
            return cls(places[wanted], np.diff(segment.offsets)[wanted], segment.vectors[rows])
        kept = segment.originals.of(wanted[segment.originals.passages])
        return cls(places[kept.passages], kept.lengths, kept.vectors)

    @classmethod
    def joined(cls, parts: Sequence["Originals"], counts: Sequence[int]) -> "Originals":
        """Of segments that become one; counts: how many passages each brings."""
        starts = np.cumsum([0, *counts])
        return cls(
            np.concatenate([part.passages + start for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.vectors for part in parts]),
        )


def share_of(n_passages: int) -> float:
    """Which part of the passages is kept: 1 %, and no more than about a thousand."""
    return min(SHARE, MOST / max(n_passages, 1))


def chosen(owners: Numbers, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which passages are in the sample: by a hash of their document, so that a smaller share is part of a larger."""
    mixed = (owners.astype(np.uint64) + np.uint64(seed) + np.uint64(1)) * HASH
    mixed ^= mixed >> np.uint64(29)
    found: npt.NDArray[np.bool_] = (mixed * HASH >> np.uint64(11)).astype(np.float64) < share * 2.0**53
    return found
