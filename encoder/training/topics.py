"""Which examples of a source are about the same thing, by BM25: what a batch must tell apart."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import CorpusError, MissingDependencyError
from encoder.training.pairs import Example

__all__ = ["Topics"]

WORDS_INDEXED = 120  # of a document, after its query
WORDS_ASKED = 24


class Topics:
    """The examples of one source, searched by the words of another of them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingDependencyError(
                "topical batches need bm25s; pip install 'latewood[distill]'"
            ) from error
        self.examples = examples
        self.tokenize: Any = partial(bm25s.tokenize, stopwords="en", show_progress=False)
        self.searcher: Any = bm25s.BM25()
        words = self.tokenize([self._text(e, WORDS_INDEXED) for e in examples])
        if not any(words.ids):
            raise CorpusError(
                f"none of {len(examples)} examples has a word to tell its topic by; leave topics out"
            )
        self.searcher.index(words, show_progress=False)

    @staticmethod
    def _text(example: Example, words: int) -> str:
        return " ".join([example.query, *example.documents[0].split()[:words]])

    def grown(self, seeds: Sequence[int], size: int) -> list[int]:
        """Rows of examples: each seed and those most like it, in equal shares of `size`, none twice."""
        asked = self.tokenize([self._text(self.examples[i], WORDS_ASKED) for i in seeds])
        depth = min(len(self.examples), 2 * size)
        found: npt.NDArray[np.int64] = self.searcher.retrieve(
            asked, k=depth, show_progress=False, return_as="documents"
        )
        taken = dict.fromkeys(int(i) for i in seeds)
        for i, rows in enumerate(found):
            upto = len(seeds) + (size - len(seeds)) * (i + 1) // len(seeds)
            for row in rows:
                if len(taken) >= upto:
                    break
                taken[int(row)] = None
        # Too few of them are alike: from the beginning of the source.
        for row in range(len(self.examples)):
            if len(taken) >= size:
                break
            taken[row] = None
        return list(taken)
