"""What a user may choose of a search: SearchOptions, and how matches are scored: Scoring."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from encoder.arguments import as_integer, as_list, as_number, shown
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS, check_sharpness
from encoder.options import option

__all__ = ["By", "Mode", "Scoring", "SearchOptions"]

Mode: TypeAlias = Literal["late", "lexical", "hybrid"]
By: TypeAlias = Literal["document", "passage"]
MOST = (1 << 31) - 1  # of what is counted: no index has as many passages


@dataclass(frozen=True)
class SearchOptions:
    """What a search looks for and how hard it looks.

    mode: "late" ranks by token embeddings (MaxSim) what is encoded. "lexical" ranks by BM25 the documents that have
    a word of the query, maybe fewer than k, and needs no encoder. "hybrid" adds the two up (docs/guides/hybrid.md).
    None: hybrid; late by passage, for vectors, and where no document has a text (`Searcher.mode`).
    filter: the k best of the documents whose metadata meet it, and fewer only if fewer do (docs/guides/filters.md).
    nprobe: centroids looked up a query token. ncandidates: documents kept of those that have one, by the scores of
    the lists they are in; all tokens of their passages are then looked at, by centroids alone. nrerank: documents
    kept after that, and scored on their residuals. With by="passage" both count passages. None picks them from k
    and the index's size; flat segments are always scored whole.
    """

    k: int = option(10, "Hits to return; of code, files with hits.", "-k")
    by: By = option("document", "What is ranked: documents, each by its best passage, or passages.")
    mode: Mode | None = option(
        None, "Rank by token embeddings (late), by words (lexical), or by both (hybrid); both if not given."
    )
    weights: tuple[float, float] | None = option(
        None, "Of late and of lexical in mode hybrid; 1 and 0.25 if not given.", metavar="LATE LEXICAL"
    )
    filter: str | None = option(
        None, "Only documents whose metadata meet this, as in: lang = 'py' and stars >= 10."
    )
    nprobe: int | None = option(None, "Centroids looked up for each token of the query.")
    ncandidates: int | None = option(None, "Documents that are looked at by centroids.")
    nrerank: int | None = option(None, "Documents that are scored on their residual codes.")

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("by", get_args(By))):
            value = getattr(self, name)
            if value is None and name == "mode":
                continue
            if not (isinstance(value, str) and value in known):
                raise ArgumentError(f"{name}={shown(value)}; pass one of {', '.join(known)}")
        for name in ("k", "nprobe", "ncandidates", "nrerank"):
            value = getattr(self, name)
            if value is None and name != "k":
                continue
            if self.mode == "lexical" and name != "k":
                raise ArgumentError(f'{name}={shown(value)} does nothing in mode "lexical"; leave it out')
            object.__setattr__(self, name, number := as_integer(value, name, 1))
            if number > MOST:
                raise ArgumentError(f"{name}={shown(number)}; pass {name} <= {MOST}")
        if self.filter is not None and not isinstance(self.filter, str):
            raise ArgumentError(f"filter={shown(self.filter)} is {type(self.filter).__name__}; pass a string")
        if self.by == "passage" and self.mode not in (None, "late"):
            raise ArgumentError(
                f'by="passage" with mode="{self.mode}"; words rank documents: pass by="document"'
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", self._checked_weights())

    def _checked_weights(self) -> tuple[float, float]:
        if self.mode not in (None, "hybrid"):
            raise ArgumentError(
                f'weights={shown(self.weights)} does nothing in mode "{self.mode}"; pass mode="hybrid"'
            )
        given = as_list(self.weights, "weights", "numbers")
        numbers = [as_number(weight, f"weights[{i}]") for i, weight in enumerate(given)]
        if len(numbers) != 2 or min(numbers) < 0 or not 0 < sum(numbers) < math.inf:
            raise ArgumentError(
                f"weights={shown(tuple(given))}; pass two numbers >= 0, for late and lexical, not both 0"
            )
        return numbers[0], numbers[1]


@dataclass(frozen=True)
class Scoring:
    """How matches of tokens are scored in searches for texts. With idf=False and sharpness=0 scores are plain MaxSim.

    idf: a query's tokens weigh by how rare their words are in the index (`weighting.idf_weights`); not for vectors
    given as such, nor for encoders without `query_tokens`. sharpness: how much more near matches of tokens count than
    far ones (`encoder.maxsim.sharpened`), 0 to 20.
    """

    idf: bool = option(True, "Weigh the query's tokens by how rare their words are in the index.")
    sharpness: float = option(
        SHARPNESS, "How much more near matches of tokens count than far ones; 0: not at all."
    )

    def __post_init__(self) -> None:
        if not isinstance(self.idf, bool):
            raise ArgumentError(f"idf={shown(self.idf)} is {type(self.idf).__name__}; pass True or False")
        check_sharpness(self.sharpness)
