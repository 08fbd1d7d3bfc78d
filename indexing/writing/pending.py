"""What the next commit will do: documents that wait for it, and what delete, rename and the like change."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encoder.arguments import as_list, shown
from encoder.errors import ArgumentError
from indexing.storage.reader import Reader
from indexing.storage.tables import DocumentRow
from indexing.writing.encoding import Passages
from indexing.writing.records import AddReport, Record, check_doc_id, metadata_json

__all__ = ["Pending", "deletion", "new_metadata", "renaming"]


@dataclass
class Pending:
    """What the next commit will do.

    documents: by doc_id, in order of arrival, with their passages, or None where these come later. encoded: passages
    of documents that are stored already, by number. deleted: documents. metadata: doc_id to document and new JSON.
    renamed: document to new doc_id. cost: of the passages, in tokens. chars: of the texts.
    """

    documents: dict[str, tuple[Record, Passages | None]] = field(default_factory=dict)
    encoded: dict[int, Passages] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    metadata: dict[str, tuple[int, str]] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)
    cost: int = 0
    chars: int = 0

    def __bool__(self) -> bool:
        return bool(self.documents or self.encoded or self.deleted or self.metadata or self.renamed)

    def plan(
        self, batch: Sequence[Record], stored: dict[str, DocumentRow], report: AddReport
    ) -> list[Record]:
        """Decide the fate of each record, counted in `report`; those that are new or changed are given back."""
        todo: dict[str, Record] = {}
        for record in batch:
            doc_id = record.doc_id
            row = stored.get(doc_id)
            # The newest state of this doc_id: in this batch, in this commit, or in the store.
            known = todo.get(doc_id) or (self.documents[doc_id][0] if doc_id in self.documents else None)
            if known is not None:
                old_hash, old_metadata = known.content_hash, known.metadata
            elif row is not None:
                old_hash = row.content_hash
                old_metadata = self.metadata[doc_id][1] if doc_id in self.metadata else row.metadata
            else:
                report.added += 1
                todo[doc_id] = record
                continue
            if record.content_hash != old_hash:
                report.replaced += 1
                todo.pop(doc_id, None)  # the last one also takes its place in the order
                todo[doc_id] = record
                if row is not None:
                    self.deleted.add(row.document)
                    self.metadata.pop(doc_id, None)
            elif record.metadata != old_metadata:
                report.replaced += 1
                if known is not None:
                    known.metadata = record.metadata
                elif row is not None:
                    self.metadata[doc_id] = (row.document, record.metadata)
            else:
                report.unchanged += 1
        return list(todo.values())

    def put(self, record: Record, passages: Passages | None) -> None:
        """Take in a new or changed document."""
        self.documents.pop(record.doc_id, None)
        self.documents[record.doc_id] = record, passages
        self.cost += passages.cost if passages else 0
        self.chars += len(record.text or "") + len(record.metadata)

    def put_encoded(self, document: int, passages: Passages) -> None:
        """Take in the passages of a document that is stored without."""
        self.encoded[document] = passages
        self.cost += passages.cost


def deletion(reader: Reader, doc_ids: Iterable[str] | None, filter: str | None) -> Pending:
    """See Index.delete."""
    pending = Pending()
    if filter is not None:
        pending.deleted = set(reader.matching(reader.condition(filter)).tolist())
    else:
        given = as_list(doc_ids, "doc_ids", "doc_ids")
        for doc_id in given:
            check_doc_id(doc_id)
        found = reader.find(list(dict.fromkeys(given)))
        pending.deleted = {row.document for row in found.values()}
    return pending


def new_metadata(reader: Reader, metadata: Mapping[str, Mapping[str, Any]]) -> Pending:
    """See Index.update_metadata."""
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"metadata is {type(metadata).__name__}; pass {{doc_id: metadata}}")
    pending = Pending()
    stored = _stored(reader, metadata)
    for doc_id, value in metadata.items():
        text = metadata_json(value, f"doc_id {shown(doc_id)} has ")
        if text != stored[doc_id].metadata:
            pending.metadata[doc_id] = stored[doc_id].document, text
    return pending


def renaming(reader: Reader, doc_ids: Mapping[str, str]) -> Pending:
    """See Index.rename."""
    if not isinstance(doc_ids, Mapping):
        raise ArgumentError(f"doc_ids is {type(doc_ids).__name__}; pass {{old doc_id: new doc_id}}")
    pending = Pending()
    stored = _stored(reader, doc_ids)
    for new in doc_ids.values():
        check_doc_id(new)
    known = reader.find(list(dict.fromkeys(doc_ids.values())))
    taken: set[str] = set()
    for old, new in doc_ids.items():
        if new in taken or (new in known and new not in doc_ids):
            raise ArgumentError(f"doc_id {new!r} for {old!r} is taken; pass another")
        taken.add(new)
        pending.renamed[stored[old].document] = new
    return pending


def _stored(reader: Reader, doc_ids: Iterable[str]) -> dict[str, DocumentRow]:
    """The rows of these doc_ids. Raises ArgumentError for one that is no doc_id, or is not stored."""
    given = list(doc_ids)
    for doc_id in given:
        check_doc_id(doc_id)
    found = reader.find(given)
    for doc_id in given:
        if doc_id not in found:
            raise ArgumentError(f"doc_id {doc_id!r} is not stored; store it by add")
    return found
