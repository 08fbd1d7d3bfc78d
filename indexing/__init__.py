"""Token embeddings → an index folder: compressed by FAISS, kept with their texts in SQLite."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexing.exchange.opening import export_vectors, open_vectors
    from indexing.exchange.source import VectorSource
    from indexing.index import Index
    from indexing.settings import IndexSettings
    from indexing.storage.reader import Document
    from indexing.storage.snapshot import Snapshot
    from indexing.writing.given import VectorBatch
    from indexing.writing.records import AddReport

__all__ = [
    "AddReport",
    "Document",
    "Index",
    "IndexSettings",
    "Snapshot",
    "VectorBatch",
    "VectorSource",
    "export_vectors",
    "open_vectors",
]

_HOMES = {
    "AddReport": "indexing.writing.records",
    "Document": "indexing.storage.reader",
    "Index": "indexing.index",
    "IndexSettings": "indexing.settings",
    "Snapshot": "indexing.storage.snapshot",
    "VectorBatch": "indexing.writing.given",
    "VectorSource": "indexing.exchange.source",
    "export_vectors": "indexing.exchange.opening",
    "open_vectors": "indexing.exchange.opening",
}


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: a search needs none of what writes."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
