"""Token embeddings → an index folder: compressed by FAISS, kept with their texts in SQLite."""

from indexing.index import Index
from indexing.settings import IndexSettings
from indexing.storage.reader import Document
from indexing.storage.snapshot import Snapshot
from indexing.writing.records import AddReport

__all__ = ["AddReport", "Document", "Index", "IndexSettings", "Snapshot"]
