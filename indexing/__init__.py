"""Token embeddings → an index folder: compressed by FAISS, kept with their texts in SQLite."""

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
