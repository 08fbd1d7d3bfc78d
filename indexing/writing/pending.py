"""What the next commit will do: passages that wait for it, and what delete, rename and the like change."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_list, shown
from encoder.errors import ArgumentError
from indexing.storage.store import DocumentRow, Store
from indexing.writing.records import AddReport, Record, check_doc_id, metadata_json

__all__ = ["Pending", "deletion", "new_metadata", "renaming"]


@dataclass
class Pending:
    """What the next commit will do.

    passages: by doc_id, in order of arrival, with float16 vectors. deleted: pids. metadata:
    doc_id to pid and new JSON. renamed: pid to new doc_id.
    """

    passages: dict[str, tuple[Record, npt.NDArray[Any]]] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    metadata: dict[str, tuple[int, str]] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)
    tokens: int = 0

    def plan(
        self, batch: Sequence[Record], stored: dict[str, DocumentRow], report: AddReport
    ) -> list[Record]:
        """Decide the fate of each record, counted in `report`; those to encode are given back."""
        todo: dict[str, Record] = {}
        for record in batch:
            doc_id = record.doc_id
            row = stored.get(doc_id)
            # The newest state of this doc_id: in this batch, in this commit, or in the store.
            known = todo.get(doc_id) or (self.passages[doc_id][0] if doc_id in self.passages else None)
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
                    self.deleted.add(row.pid)
                    self.metadata.pop(doc_id, None)
            elif record.metadata != old_metadata:
                report.replaced += 1
                if known is not None:
                    known.metadata = record.metadata
                elif row is not None:
                    self.metadata[doc_id] = (row.pid, record.metadata)
            else:
                report.unchanged += 1
        return list(todo.values())

    def put(self, records: Sequence[Record], offsets: npt.NDArray[np.int64], rows: npt.NDArray[Any]) -> None:
        """Take in encoded passages: record i has the rows offsets[i]:offsets[i + 1]."""
        for i, record in enumerate(records):
            self.passages.pop(record.doc_id, None)
            self.passages[record.doc_id] = record, rows[offsets[i] : offsets[i + 1]]
        # Passages without tokens take room too.
        self.tokens += len(rows) + len(records)


def deletion(store: Store, doc_ids: Iterable[str] | None, filter: str | None) -> Pending:
    """See Index.delete."""
    pending = Pending()
    if filter is not None:
        pending.deleted = set(store.matching(store.condition(filter)).tolist())
    else:
        given = as_list(doc_ids, "doc_ids", "doc_ids")
        for doc_id in given:
            check_doc_id(doc_id)
        found = store.find(list(dict.fromkeys(given)))
        pending.deleted = {row.pid for row in found.values()}
    return pending


def new_metadata(store: Store, metadata: Mapping[str, Mapping[str, Any]]) -> Pending:
    """See Index.update_metadata."""
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"metadata is {type(metadata).__name__}; pass {{doc_id: metadata}}")
    pending = Pending()
    stored = _stored(store, metadata)
    for doc_id, value in metadata.items():
        text = metadata_json(value, f"doc_id {shown(doc_id)} has ")
        if text != stored[doc_id].metadata:
            pending.metadata[doc_id] = stored[doc_id].pid, text
    return pending


def renaming(store: Store, doc_ids: Mapping[str, str]) -> Pending:
    """See Index.rename."""
    if not isinstance(doc_ids, Mapping):
        raise ArgumentError(f"doc_ids is {type(doc_ids).__name__}; pass {{old doc_id: new doc_id}}")
    pending = Pending()
    stored = _stored(store, doc_ids)
    for new in doc_ids.values():
        check_doc_id(new)
    known = store.find(list(dict.fromkeys(doc_ids.values())))
    taken: set[str] = set()
    for old, new in doc_ids.items():
        if new in taken or (new in known and new not in doc_ids):
            raise ArgumentError(f"doc_id {new!r} for {old!r} is taken; pass another")
        taken.add(new)
        pending.renamed[stored[old].pid] = new
    return pending


def _stored(store: Store, doc_ids: Iterable[str]) -> dict[str, DocumentRow]:
    """The rows of these doc_ids. Raises ArgumentError for one that is no doc_id, or is not stored."""
    given = list(doc_ids)
    for doc_id in given:
        check_doc_id(doc_id)
    found = store.find(given)
    for doc_id in given:
        if doc_id not in found:
            raise ArgumentError(f"doc_id {doc_id!r} is not stored; store it by add")
    return found
