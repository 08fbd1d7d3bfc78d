"""MaxSim over stored vectors: what decides the order of hits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.maxsim import maxsim_arrays
from indexing.storage.segment import Segment

__all__ = ["TOKENS_AT_ONCE", "score_flat", "top"]

Passages = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
AnyScores = npt.NDArray[np.floating[Any]]

TOKENS_AT_ONCE = (
    1 << 12
)  # vectors held in float32 at a time: 2 MiB at 128 dimensions, which a cache has room for


def top(pids: Passages, scores: AnyScores, k: int) -> tuple[Passages, AnyScores]:
    """The k best, best first, and all that score as the last of them does; equal ones in the order of pids."""
    if k < len(scores):
        kept = scores >= np.partition(scores, -k)[-k]
        pids, scores = pids[kept], scores[kept]
    order = np.lexsort((pids, -scores))
    return pids[order], scores[order]


def score_flat(query: npt.NDArray[np.float32], segment: Segment, sharpness: float = 0.0) -> Scores:
    """Exact MaxSim with every passage of a flat segment: (n_passages,) float32. query: (n_query, dim)."""
    out = np.empty(segment.n_passages, dtype=np.float32)
    offsets = np.asarray(segment.offsets)
    start = 0
    while start < segment.n_passages:
        # As many passages as fit, and one at least.
        stop = int(np.searchsorted(offsets, offsets[start] + TOKENS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), segment.n_passages)
        vectors = segment.decode(int(offsets[start]), int(offsets[stop]), None)
        out[start:stop] = maxsim_arrays(query, vectors, offsets[start : stop + 1] - offsets[start], sharpness)
        start = stop
    return out
