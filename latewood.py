"""Latewood: late-interaction retrieval. The names that most programs need, each loaded when it is first used."""

TYPE_CHECKING = False  # as type checkers know it; typing itself takes time to load
if TYPE_CHECKING:
    from encoder import Encoder, LatewoodError, TokenEmbeddings
    from indexing import AddReport, Document, Index, IndexSettings, Snapshot
    from retriever import Hit, Hits, Scoring, Searcher, SearchOptions, rerank, rerank_embeddings

    __version__: str

__all__ = [
    "AddReport",
    "Document",
    "Encoder",
    "Hit",
    "Hits",
    "Index",
    "IndexSettings",
    "LatewoodError",
    "Scoring",
    "SearchOptions",
    "Searcher",
    "Snapshot",
    "TokenEmbeddings",
    "__version__",
    "rerank",
    "rerank_embeddings",
]

_HOMES = {
    "encoder": ("Encoder", "LatewoodError", "TokenEmbeddings"),
    "indexing": ("AddReport", "Document", "Index", "IndexSettings", "Snapshot"),
    "retriever": ("Hit", "Hits", "Scoring", "SearchOptions", "Searcher", "rerank", "rerank_embeddings"),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("latewood")
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(home), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'latewood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
