"""What each size of a token's code keeps of exact scores, measured on a sample of a corpus before it is built."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID, TokenEmbeddings
from encoder.maxsim import maxsim_arrays
from indexing.coding.codec import Codec
from indexing.coding.sizes import choose_m, choose_nlist

__all__ = ["SIZES", "Size", "recalls", "sample_questions"]

SIZES = (20, 32, 48)
QUESTIONS, WORDS = 64, 8
BEST = 10


@dataclass(frozen=True)
class Size:
    """A choice of `IndexSettings.bytes_per_token`. disk_bytes: of the finished index. recall: of the BEST passages of a
    sample by exact MaxSim the share that the codes keep; None where the sample has too few."""

    bytes_per_token: int
    disk_bytes: int
    recall: float | None


def sample_questions(texts: Sequence[str]) -> list[str]:
    """A few words in a row of texts drawn at random."""
    draw, found = random.Random(0), []
    worded = [words for text in texts if (words := text.split())]
    for _ in range(QUESTIONS if worded else 0):
        words = draw.choice(worded)
        start = draw.randrange(max(1, len(words) - WORDS + 1))
        found.append(" ".join(words[start : start + WORDS]))
    return found


def recalls(
    passages: TokenEmbeddings, questions: TokenEmbeddings, sizes: Sequence[int]
) -> list[float | None]:
    """For each size, how much of a question's best passages are the best on what its codes decode to.

    passages: at least 256 tokens. A codec of fewer tokens has fewer centroids, and leaves a larger error than that of
    the whole corpus will.
    """
    few = min(BEST, len(passages) // 2)
    if few < 2 or not len(questions):
        return [None] * len(sizes)
    ids = passages.token_ids
    if ids is not None and 2 * int((ids != NO_ID).sum()) < len(ids):
        ids = None

    def best(vectors: npt.NDArray[np.float32]) -> list[set[int]]:
        scores = (maxsim_arrays(question, vectors, passages.offsets) for question in questions)
        return [set(np.argsort(-one, kind="stable")[:few].tolist()) for one in scores]

    exact = best(passages.vectors)
    found: list[float | None] = []
    for size in sizes:
        m = choose_m(passages.dim, size)
        codec = Codec.train(passages.vectors, choose_nlist(len(passages.vectors)), m, token_ids=ids)
        kept = best(codec.decode(*codec.encode(passages.vectors, ids)))
        found.append(float(np.mean([len(a & b) / few for a, b in zip(exact, kept, strict=True)])))
    return found
