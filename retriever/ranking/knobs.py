"""How much a search looks at: defaults from k and the index's size, tuned settings, and what cannot work."""

import math
from dataclasses import dataclass

from encoder.errors import ArgumentError
from indexing.settings import TunedSearch
from retriever.options import SearchOptions

__all__ = ["SearchSettings", "Size", "choose"]

COARSE = 256  # tokens a centroid


@dataclass(frozen=True)
class SearchSettings:
    """The numbers that a search goes by: see SearchOptions."""

    nprobe: int
    ncandidates: int
    nrerank: int


@dataclass(frozen=True)
class Size:
    """Of an index. ranked: documents, or passages where these are ranked. nlist: None while all is flat."""

    ranked: int
    passages: int
    tokens: int
    nlist: int | None

    @property
    def share(self) -> int:
        """Tokens a centroid."""
        return 0 if self.nlist is None else self.tokens // self.nlist

    @property
    def each(self) -> float:
        """Passages of what is ranked."""
        return max(1.0, self.passages / max(self.ranked, 1))


def choose(options: SearchOptions, k: int, size: Size, tuned: TunedSearch | None) -> SearchSettings:
    """What a search for k hits uses. Raises ArgumentError for what cannot work.

    tuned: takes the place of the defaults for every k up to the one it was measured at.
    """
    nlist = size.nlist
    lists = 1 if nlist is None else nlist
    default = _default(k, size)
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


def _default(k: int, size: Size) -> SearchSettings:
    """By measurement on nfcorpus, cranfield, codedoc_python and, of long documents, qmsum_summ:
    docs/internals/search.md, docs/lab/2026-11-29-long-documents.md.

    Where there are many tokens a centroid, fewer lists hold as many passages, but centroids alone rank them worse, so
    that more must be scored on their residuals. Where a document has several passages, fewer are as much work.
    """
    nprobe = max(16, min(32, k // 3), k // 8)
    fine = size.share <= COARSE
    nrerank = max(64, 4 * k, math.ceil(max(96, min(512, size.share)) / size.each))
    candidates = math.ceil(max(384, (6 if fine else 8) * math.isqrt(size.passages)) / size.each)
    return SearchSettings(
        nprobe=nprobe if fine else nprobe // 2,
        ncandidates=max(candidates, 10 * k, 2 * nrerank),
        nrerank=nrerank,
    )
