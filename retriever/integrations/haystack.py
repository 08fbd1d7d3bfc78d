"""Haystack: a document store over an index, a retriever, a ranker (docs/guides/haystack.md). Extra: `haystack`."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from encoder.arguments import as_integer, shown
from encoder.errors import ArgumentError
from encoder.options import updated
from indexing import Document as Stored
from retriever.hits import Hit
from retriever.integrations.filters import said
from retriever.integrations.haystack_filters import condition
from retriever.integrations.store import IndexEncoder, Store, bundled, extra, in_thread, passage_of
from retriever.options import By, SearchOptions
from retriever.reranking import rerank

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.errors import FilterError
except ImportError as error:
    raise extra("haystack", "haystack-ai") from error

__all__ = ["LatewoodDocumentStore", "LatewoodRanker", "LatewoodRetriever", "filter_text"]

OTHERS = "_haystack"  # the key of metadata for what a Document has beside id, content and meta
KINDS = {bool: "boolean", int: "int", float: "float"}


def filter_text(filters: Mapping[str, Any] | str | None) -> str | None:
    """Haystack's filters in Latewood's language; a text is in it already. Raises FilterError for what is malformed or
    cannot be said, with the operator's name."""
    try:
        return said(filters, condition)
    except ArgumentError as error:
        raise FilterError(str(error)) from error


# Documents ---------------------------------------------------------------------------------------------------


def _record(document: Document) -> dict[str, Any]:
    """As the index stores it: meta are its metadata, and what else there is lies under one key."""
    fields = document.to_dict(flatten=False)
    doc_id, text, metadata = fields.pop("id"), fields.pop("content"), fields.pop("meta")
    if OTHERS in metadata:
        raise ArgumentError(f"document {doc_id!r} has the meta key {OTHERS!r}; give it another name")
    others = {name: value for name, value in fields.items() if value is not None}
    if text is None:
        others["content"] = None
    return {
        "doc_id": doc_id,
        "text": text or "",
        "metadata": {**metadata, OTHERS: others} if others else metadata,
    }


def _document(stored: Stored | Hit, by: By = "document") -> Document:
    metadata = dict(stored.metadata)
    fields = {"id": stored.doc_id, "content": stored.text, "meta": metadata, **metadata.pop(OTHERS, {})}
    if isinstance(stored, Hit):
        fields["score"] = stored.score
    if passage := passage_of(stored, by):
        fields["content"] = passage.text
    return Document.from_dict(fields)


class LatewoodDocumentStore:
    """An index as a document store. It encodes contents itself, so documents need no embedding; what they have is kept.

    Opened when it is first used. Threads and tasks may write and search at once; stores of one folder in a process
    share it, and until the last is closed no other process writes to it. Each method has a twin with `_async` after
    its name.
    """

    def __init__(
        self,
        path: str,
        encoder: str | IndexEncoder | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """path: an index folder, made where there is none. encoder: of a new index, a name or folder as `Encoder.load`
        takes it, or the encoder itself; None for the bundled model. settings: of a new index, such as {"window": 512}
        (IndexSettings).
        """
        self.path = str(path)
        self.encoder = encoder
        self.settings = settings
        self._store: Store | None = None
        self._opening = threading.Lock()

    def to_dict(self) -> dict[str, Any]:
        """What makes it again. An encoder that was given as an object is left out: the index knows its own."""
        name = self.encoder if isinstance(self.encoder, str) else None
        if name is not self.encoder:
            self.count_documents()  # the index must be there for that
        return default_to_dict(self, path=self.path, encoder=name, settings=self.settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LatewoodDocumentStore":
        return default_from_dict(cls, data)

    @property
    def store(self) -> Store:
        """What it writes to and searches."""
        with self._opening:
            if self._store is None:
                self._store = Store.open(self.path, self.encoder, **(self.settings or {}))
            return self._store

    def close(self) -> None:
        """Let go of the index; it is opened again when it is used."""
        with self._opening:
            if self._store is not None:
                self._store.close()
            self._store = None

    # Documents -----------------------------------------------------------------------------------------------

    def count_documents(self) -> int:
        return len(self.store.now)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that meet the filters, in the order of writing."""
        return [_document(stored) for stored in self.store.matching(filter_text(filters))]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Write documents; how many. Of ids that are there NONE and FAIL raise DuplicateDocumentError and write
        nothing, SKIP leaves the old documents, OVERWRITE replaces them. Of one id twice in a call the last counts, or
        the first with SKIP."""
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise ArgumentError(f"documents is {shown(documents)}; pass a list of Documents")
        rows: dict[str, dict[str, Any]] = {}
        for one in map(_record, documents):
            if policy != DuplicatePolicy.SKIP or one["doc_id"] not in rows:
                rows[one["doc_id"]] = one
        with self.store.writing():  # nobody writes between the look and the leap
            if policy != DuplicatePolicy.OVERWRITE:
                stored = self.store.now.reader.find(list(rows))
                known = [doc_id for doc_id in rows if doc_id in stored]
                if policy != DuplicatePolicy.SKIP and (known or len(rows) < len(documents)):
                    ids = [one.id for one in documents]
                    twice = known[0] if known else next(i for i in ids if ids.count(i) > 1)
                    raise DuplicateDocumentError(
                        f"document {twice!r} is there already; pass OVERWRITE or SKIP"
                    )
                for doc_id in known:
                    del rows[doc_id]
            self.store.add(list(rows.values()))
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(rows)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; one that is not there is no error."""
        self.store.delete(document_ids)

    def delete_all_documents(self) -> None:
        self.store.delete()

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that meet the filters, which must not be empty; how many."""
        return self.store.delete(filter=_some(filters))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Merge meta into that of the documents that meet the filters, which must not be empty; how many. Nothing is
        encoded."""
        if OTHERS in meta:
            raise ArgumentError(f"meta has the key {OTHERS!r}; give it another name")
        with self.store.writing() as index:
            found = self.store.matching(_some(filters))
            changed = {stored.doc_id: {**stored.metadata, **meta} for stored in found}
            index.update_metadata(changed)
            return len(changed)

    # What there is -------------------------------------------------------------------------------------------

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        return sum(1 for _ in self.store.now.ids(filter_text(filters)))

    def count_unique_metadata_by_filter(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """How many different values each field of meta has among the documents that meet the filters."""
        found = list(self._meta(filters))
        keys = [name.removeprefix("meta.") for name in metadata_fields]
        return {key: len(_different(meta.get(key) for meta in found)) for key in keys}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """{field of meta: {"type": "keyword", "int", "float" or "boolean"}}, by the value that was written last."""
        kinds: dict[str, str] = {}
        for meta in self._meta():
            kinds |= {
                key: KINDS.get(type(value), "keyword") for key, value in meta.items() if value is not None
            }
        return {key: {"type": kind} for key, kind in kinds.items()}

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """{"min": ..., "max": ...} of a field's numbers or strings; None where there are none, or both."""
        key = metadata_field.removeprefix("meta.")
        values = [meta[key] for meta in self._meta() if isinstance(meta.get(key), int | float | str)]
        if len({isinstance(value, str) for value in values}) != 1:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """A page of a field's different values, ordered as texts, and how many there are. search_term: part of the
        value, in any letter case."""
        key = metadata_field.removeprefix("meta.")
        values = _different(meta.get(key) for meta in self._meta(filters))
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    def _meta(self, filters: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        for stored in self.store.matching(filter_text(filters)):
            yield {key: value for key, value in stored.metadata.items() if key != OTHERS}

    count_documents_async = in_thread(count_documents)
    filter_documents_async = in_thread(filter_documents)
    write_documents_async = in_thread(write_documents)
    delete_documents_async = in_thread(delete_documents)
    delete_all_documents_async = in_thread(delete_all_documents)
    delete_by_filter_async = in_thread(delete_by_filter)
    update_by_filter_async = in_thread(update_by_filter)
    count_documents_by_filter_async = in_thread(count_documents_by_filter)
    count_unique_metadata_by_filter_async = in_thread(count_unique_metadata_by_filter)
    get_metadata_fields_info_async = in_thread(get_metadata_fields_info)
    get_metadata_field_min_max_async = in_thread(get_metadata_field_min_max)
    get_metadata_field_unique_values_async = in_thread(get_metadata_field_unique_values)


def _some(filters: dict[str, Any]) -> str:
    """Filters of what changes documents: forgotten ones must not change them all."""
    if (text := filter_text(filters)) is None:
        raise FilterError("filters is empty; pass some, or use delete_all_documents")
    return text


def _different(values: Any) -> list[Any]:
    """Without those that are equal in type and value, and without None."""
    return list({repr(value): value for value in values if value is not None}.values())


# Components --------------------------------------------------------------------------------------------------


@component
class LatewoodRetriever:
    """Searches a LatewoodDocumentStore."""

    def __init__(
        self,
        document_store: LatewoodDocumentStore,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        options: dict[str, Any] | None = None,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """options: what else a search takes, fields of SearchOptions: {"mode": "late"}, {"by": "passage"} for the
        passages that match. filter_policy: what becomes of `filters` where `run` is given others."""
        if not isinstance(document_store, LatewoodDocumentStore):
            raise ArgumentError(
                f"document_store is {type(document_store).__name__}; pass a LatewoodDocumentStore"
            )
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.options = options
        self.filter_policy = filter_policy
        self._asked(None, None)  # refuses what cannot work

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            options=self.options,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LatewoodRetriever":
        given = dict(data.get("init_parameters", {}))
        if "filter_policy" in given:
            given["filter_policy"] = FilterPolicy.from_str(given["filter_policy"])
        return default_from_dict(cls, {**data, "init_parameters": given})

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """{"documents": the best, with their scores}."""
        options = self._asked(filters, top_k)
        hits = self.document_store.store.search(query, options)
        return {"documents": [_document(hit, options.by) for hit in hits]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, query, filters, top_k)

    def _asked(self, filters: dict[str, Any] | None, top_k: int | None) -> SearchOptions:
        chosen = apply_filter_policy(self.filter_policy, self.filters, filters)
        changes = {"k": self.top_k if top_k is None else top_k, "filter": filter_text(chosen)}
        return updated(SearchOptions(), {**(self.options or {}), **changes})


@component
class LatewoodRanker:
    """Orders documents of any retriever by MaxSim of their contents with the query; no index is needed."""

    def __init__(self, encoder: str | None = None, top_k: int = 10) -> None:
        """encoder: a name or folder as `Encoder.load` takes it; None for the bundled model. Loaded by `warm_up`."""
        self.encoder = encoder
        self.top_k = as_integer(top_k, "top_k", 1)
        self._loaded: IndexEncoder | None = None

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, encoder=self.encoder, top_k=self.top_k)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LatewoodRanker":
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the encoder."""
        if self._loaded is None:
            from encoder import Encoder  # imports torch

            self._loaded = bundled() if self.encoder is None else Encoder.load(self.encoder)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """{"documents": the top_k best, with their scores}."""
        self.warm_up()
        assert self._loaded is not None
        texts = [document.content or "" for document in documents]
        k = as_integer(self.top_k if top_k is None else top_k, "top_k", 1)
        ranked = rerank(self._loaded, query, texts, k=k) if documents else []
        return {"documents": [replace(documents[one.index], score=one.score) for one in ranked]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)
