"""MaxSim over stored vectors: what decides the order of hits."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.maxsim import maxsim
from indexing.codec import Codec
from indexing.segment import Segment
from retriever.candidates import blocks, gather_tokens

__all__ = ["rerank"]

TOKENS_AT_ONCE = 1 << 16  # decoded vectors held at a time: 32 MiB at 128 dimensions


def rerank(
    query: Tensor, segment: Segment, passages: npt.NDArray[np.int64], codec: Codec | None
) -> npt.NDArray[np.float32]:
    """Exact MaxSim of a query with passages of a segment, on the vectors that the segment decodes to.

    query: (n_query, dim) float32. passages: (n,) local numbers. Returns (n,) float32.
    """
    out = np.empty(len(passages), dtype=np.float32)
    lengths = segment.offsets[passages + 1] - segment.offsets[passages]
    for at in blocks(lengths, TOKENS_AT_ONCE):
        tokens, offsets = gather_tokens(segment, passages[at])
        if len(tokens) and tokens[-1] - tokens[0] + 1 == len(tokens):  # neighbours: no need to pick them out
            vectors = segment.decode(int(tokens[0]), int(tokens[-1]) + 1, codec)
        else:
            vectors = segment.take(tokens, codec)
        out[at] = maxsim(query, torch.from_numpy(vectors), torch.from_numpy(offsets)).numpy()
    return out
