"""Weights of query tokens: a word that few passages of the index have says more than one that all have."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from encoder.tokenizer import Token
from indexing.storage.fulltext import word_spans

__all__ = ["idf_weights"]

LEAST_IDF = 0.3  # of a word in every passage, and of punctuation


def idf_weights(
    text: str,
    tokens: Sequence[Token],
    n_passages: int,
    frequencies: Callable[[Sequence[str]], Sequence[int]],
) -> npt.NDArray[np.float32]:
    """A weight for each token of a query: (len(tokens),) float32.

    frequencies: words → in how many of the `n_passages` each is. A token weighs the square root of the
    inverse document frequency, ln((n + 1) / (df + 1)), of its word, the rarest where it touches several.
    A word that no passage has, as a misspelt one, says nothing of that kind: a token that touches no other weighs
    as the mean of the others. These weights are then divided by their mean. Markers, expansion tokens and the like
    weigh 1.

    MaxSim with IDF weights is Weighted Chamfer (arXiv 2511.16106); the square root, and words in place of
    a tokenizer's pieces, measured better here (docs/internals/search.md).
    """
    spans = word_spans(text)
    words = [text[start:stop] for start, stop in spans]
    found_in = frequencies(words)
    weights = np.ones(len(tokens), dtype=np.float32)
    known, unknown = [], []
    for i, token in enumerate(tokens):
        if token.span is None:
            continue
        first, last = token.span
        own = [df for df, (start, stop) in zip(found_in, spans, strict=True) if start < last and first < stop]
        if own and not any(own):
            unknown.append(i)
            continue
        rarest = min((df for df in own if df), default=n_passages)
        weights[i] = math.sqrt(max(LEAST_IDF, math.log((n_passages + 1) / (rarest + 1))))
        known.append(i)
    # Divided by the mean of all, to which those at the mean add nothing, so theirs is 1.
    if known:
        weights[known] /= weights[known].mean()
    return weights
