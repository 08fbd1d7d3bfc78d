"""How much a search looks at: defaults from k and the index's size, tuned settings, and what cannot work."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from encoder.arguments import as_integer, as_list, as_number
from encoder.errors import ArgumentError
from indexing.settings import TunedSearch

__all__ = ["Mode", "SearchSettings", "checked", "choose"]

Mode: TypeAlias = Literal["late", "lexical", "hybrid"]

COARSE = 256  # tokens a centroid


@dataclass(frozen=True)
class SearchSettings:
    """nprobe: centroids looked up a query token. ncandidates: passages kept of those that have one, by the
    scores of the lists they are in; all their tokens are then looked at, by centroids alone. nrerank: passages
    kept after that, and scored on their residuals. Flat segments are always scored whole."""

    nprobe: int
    ncandidates: int
    nrerank: int


def choose(
    k: int,
    *,
    nlist: int | None,
    passages: int,
    tokens: int,
    tuned: TunedSearch | None,
    nprobe: int | None = None,
    ncandidates: int | None = None,
    nrerank: int | None = None,
) -> SearchSettings:
    """What a search for k hits uses. nlist: None while all is flat. passages, tokens: what the index holds.
    Raises ArgumentError for what cannot work together; `checked` has seen each by itself.

    tuned: takes the place of the defaults for every k up to the one it was measured at.
    """
    lists = 1 if nlist is None else nlist
    default = _default(k, passages, 0 if nlist is None else tokens // nlist)
    if tuned is not None and k <= tuned.k:
        default = SearchSettings(tuned.nprobe, tuned.ncandidates, tuned.nrerank)
    chosen = SearchSettings(
        nprobe=min(lists, default.nprobe) if nprobe is None else nprobe,
        ncandidates=max(default.ncandidates, nrerank or 0) if ncandidates is None else ncandidates,
        nrerank=min(default.nrerank, ncandidates or 1 << 62) if nrerank is None else nrerank,
    )
    if nlist is not None and chosen.nprobe > nlist:
        raise ArgumentError(f"nprobe={nprobe} exceeds nlist={nlist}; pass nprobe <= {nlist}")
    if chosen.nrerank < k:
        raise ArgumentError(f"nrerank={chosen.nrerank} is below k={k}; pass nrerank >= {k}")
    if chosen.ncandidates < chosen.nrerank:
        raise ArgumentError(
            f"ncandidates={chosen.ncandidates} is below nrerank={chosen.nrerank}; pass ncandidates >= nrerank"
        )
    return chosen


def _default(k: int, passages: int, share: int) -> SearchSettings:
    """By measurement on nfcorpus, cranfield and codedoc_python: docs/search.md.

    share: tokens a centroid. Where it is large, fewer lists hold as many passages, but centroids alone rank them
    worse, so that more must be scored on their residuals.
    """
    nprobe = max(16, min(32, k // 3), k // 8)
    nrerank = max(128, 4 * k, min(512, share))
    return SearchSettings(
        nprobe=nprobe if share <= COARSE else nprobe // 2,
        ncandidates=max(512, 10 * k, 8 * math.isqrt(passages), 2 * nrerank),
        nrerank=nrerank,
    )


def checked(
    k: int, knobs: Mapping[str, int | None], mode: Mode = "late", weights: Sequence[float] | None = None
) -> tuple[int, dict[str, int | None], tuple[float, float]]:
    """Everything that one may ask of a search, before anything runs: k and the knobs as integers, and the weights.

    Raises ArgumentError for what is none, and for what does nothing in the mode.
    """
    k = as_integer(k, "k", 1)
    whole = {name: None if value is None else as_integer(value, name, 1) for name, value in knobs.items()}
    if mode not in get_args(Mode):
        raise ArgumentError(f"mode={mode!r}; pass one of {', '.join(get_args(Mode))}")
    for name, value in whole.items():
        if mode == "lexical" and value is not None:
            raise ArgumentError(f'{name}={value} does nothing in mode "lexical"; leave it out')
    if weights is None:
        return k, whole, (1.0, 1.0)
    if mode != "hybrid":
        raise ArgumentError(f'weights={weights} does nothing in mode "{mode}"; pass mode="hybrid"')
    numbers = [
        as_number(weight, f"weights[{i}]") for i, weight in enumerate(as_list(weights, "weights", "numbers"))
    ]
    if len(numbers) != 2 or min(numbers) < 0 or sum(numbers) == 0:
        raise ArgumentError(f"weights={weights}; pass two numbers >= 0, for late and lexical, not both 0")
    return k, whole, (numbers[0], numbers[1])
