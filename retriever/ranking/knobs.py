"""How much a search looks at: defaults from k and the index's size, tuned settings, and what cannot work."""

import math
from dataclasses import dataclass

from encoder.errors import ArgumentError
from indexing.settings import TunedSearch
from retriever.options import SearchOptions

__all__ = ["SearchSettings", "choose"]

COARSE = 256  # tokens a centroid


@dataclass(frozen=True)
class SearchSettings:
    """The numbers that a search goes by: see SearchOptions."""

    nprobe: int
    ncandidates: int
    nrerank: int


def choose(
    options: SearchOptions, k: int, *, nlist: int | None, n: int, tokens: int, tuned: TunedSearch | None
) -> SearchSettings:
    """What a search for k hits uses. nlist: None while all is flat. n, tokens: documents (or passages, where these are
    ranked) and vectors of the index. Raises ArgumentError for what cannot work.

    tuned: takes the place of the defaults for every k up to the one it was measured at.
    """
    lists = 1 if nlist is None else nlist
    default = _default(k, n, 0 if nlist is None else tokens // nlist)
    if tuned is not None and k <= tuned.k:
        default = SearchSettings(tuned.nprobe, tuned.ncandidates, tuned.nrerank)
    nprobe, ncandidates, nrerank = options.nprobe, options.ncandidates, options.nrerank
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


def _default(k: int, n: int, share: int) -> SearchSettings:
    """By measurement on nfcorpus, cranfield and codedoc_python: docs/internals/search.md.

    share: tokens a centroid. Where it is large, fewer lists hold as many passages, but centroids alone rank them
    worse, so that more must be scored on their residuals.
    """
    nprobe = max(16, min(32, k // 3), k // 8)
    nrerank = max(128, 4 * k, min(512, share))
    return SearchSettings(
        nprobe=nprobe if share <= COARSE else nprobe // 2,
        ncandidates=max(512, 10 * k, 8 * math.isqrt(n), 2 * nrerank),
        nrerank=nrerank,
    )
