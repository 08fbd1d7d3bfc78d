"""Query → hits: candidate generation over compressed vectors, then MaxSim."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retriever.explaining import Explanation
    from retriever.hits import Hit, Hits, Passage
    from retriever.importing import ImportOptions, ImportReport, import_index
    from retriever.options import Scoring, SearchOptions
    from retriever.reranking import Ranked, rerank, rerank_embeddings
    from retriever.searcher import Searcher

__all__ = [
    "Explanation",
    "Hit",
    "Hits",
    "ImportOptions",
    "ImportReport",
    "Passage",
    "Ranked",
    "Scoring",
    "SearchOptions",
    "Searcher",
    "import_index",
    "rerank",
    "rerank_embeddings",
]

_HOMES = {
    "retriever.explaining": ("Explanation",),
    "retriever.hits": ("Hit", "Hits", "Passage"),
    "retriever.importing": ("ImportOptions", "ImportReport", "import_index"),
    "retriever.options": ("Scoring", "SearchOptions"),
    "retriever.reranking": ("Ranked", "rerank", "rerank_embeddings"),
    "retriever.searcher": ("Searcher",),
}


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: torch takes seconds, and the command line must answer before."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
