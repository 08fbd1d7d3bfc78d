"""Query → hits: candidate generation over compressed vectors, then MaxSim."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retriever.hits import Hit
    from retriever.reranking import Ranked, rerank, rerank_embeddings
    from retriever.searcher import Searcher

__all__ = ["Hit", "Ranked", "Searcher", "rerank", "rerank_embeddings"]

_HOMES = {
    "Hit": "retriever.hits",
    "Ranked": "retriever.reranking",
    "Searcher": "retriever.searcher",
    "rerank": "retriever.reranking",
    "rerank_embeddings": "retriever.reranking",
}


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: torch takes seconds, and the command line must answer before."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
