"""Token embeddings → an index folder: compressed by FAISS, kept with their texts in SQLite."""

from indexing.index import Index
from indexing.records import AddReport
from indexing.settings import IndexSettings
from indexing.store import Document

__all__ = ["AddReport", "Document", "Index", "IndexSettings"]
