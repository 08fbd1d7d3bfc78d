"""LlamaIndex: a vector store over an index, a retriever, a reranker (docs/guides/llamaindex.md). Extra `llamaindex`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from encoder.arguments import shown
from encoder.errors import ArgumentError
from encoder.options import updated
from indexing import Document as Stored
from retriever.hits import Hit
from retriever.integrations.filters import NONE, Condition, Field, all_of, any_of, as_values, said, unsayable
from retriever.integrations.store import Diversity, IndexEncoder, Store, bundled, extra, in_thread, passage_of
from retriever.options import By, Mode, SearchOptions
from retriever.reranking import rerank

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.bridge.pydantic import Field as PydanticField
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise extra("llamaindex", "llama-index-core") from error

__all__ = ["LatewoodReranker", "LatewoodRetriever", "LatewoodVectorStore", "filter_text"]

REF_DOC_ID = "ref_doc_id"
MODES: dict[VectorStoreQueryMode, Mode | None] = {
    VectorStoreQueryMode.DEFAULT: None,  # as the options say, or any search
    VectorStoreQueryMode.MMR: "late",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SPARSE: "lexical",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
}


def filter_text(filters: MetadataFilters | MetadataFilter | str | None) -> str | None:
    """Filters in Latewood's language; a text is in it already. Raises ArgumentError for what cannot be said, with
    the operator's name."""
    return said(filters, _condition)


def _condition(filters: Any) -> Condition:
    if isinstance(filters, MetadataFilter):
        return _leaf(filters)
    if not isinstance(filters, MetadataFilters):
        raise ArgumentError(
            f"filters is {shown(filters)} ({type(filters).__name__}); pass MetadataFilters or a text"
        )
    parts = [_condition(one) for one in filters.filters]
    if not parts or filters.condition in (None, FilterCondition.AND):
        return all_of(parts)
    return any_of(parts) if filters.condition == FilterCondition.OR else ~any_of(parts)


def _leaf(filter: MetadataFilter) -> Condition:
    """As LlamaIndex's own in-memory store reads it: of a missing key, != and nin alone are met, and is_empty."""
    operator, value, name = filter.operator, filter.value, filter.operator.value
    field = Field([filter.key], name)
    if operator in (FilterOperator.EQ, FilterOperator.NE):
        equal = NONE if value is None else field.equals(value)
        return equal if operator == FilterOperator.EQ else ~equal
    if operator in (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE):
        return field.compares(name, value)
    if operator in (FilterOperator.IN, FilterOperator.NIN):
        among = field.among(as_values(value, name))
        return among if operator == FilterOperator.IN else ~among
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        parts = [field.contains(one) for one in as_values(value, name)]
        return any_of(parts) if operator == FilterOperator.ANY else all_of([~field.is_null(), *parts])
    if operator == FilterOperator.CONTAINS:
        return field.contains(value)
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        return field.contains_text(value, ignore_case=operator != FilterOperator.TEXT_MATCH)
    if operator == FilterOperator.IS_EMPTY:
        return field.is_empty()
    raise unsayable(name, [one.value for one in FilterOperator])


class LatewoodVectorStore(BasePydanticVectorStore):
    """An index as a vector store. It encodes the texts of nodes and queries itself, so nodes need no embedding.

    Threads and tasks may add and search at once. What is added is on disk when the call returns. Closed by `close`
    or a `with` block; until then no other process writes to the index. Stores of one folder in a process share it.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    path: str
    settings: dict[str, Any] = PydanticField(default_factory=dict)
    _store: Store = PrivateAttr()
    _options: SearchOptions = PrivateAttr()

    def __init__(
        self,
        path: str | Path,
        encoder: IndexEncoder | str | Path | None = None,
        *,
        options: SearchOptions | None = None,
        settings: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """path: an index folder, made if there is none. encoder: a name or folder, or itself; None for the one that
        made the index, or the bundled model. options: what a search does where a query does not say otherwise.
        settings: of a new index, such as {"window": 512} (IndexSettings). fields: those that `to_dict` gives.
        """
        fields |= {"path": str(path), "settings": dict(settings or {})}
        super().__init__(**fields)
        self._options = options or SearchOptions()
        self._store = Store.open(path, encoder, **self.settings)

    @classmethod
    def class_name(cls) -> str:
        return "LatewoodVectorStore"

    @property
    def client(self) -> Store:
        """What it writes to and searches."""
        return self._store

    def close(self) -> None:
        """Let go of the index."""
        self._store.close()

    def __enter__(self) -> "LatewoodVectorStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing -------------------------------------------------------------------------------------------------

    def add(self, /, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes or replace those of the same id; their ids. Their texts are encoded without metadata."""
        self._store.add(
            {
                "doc_id": node.node_id,
                "text": node.get_content(metadata_mode=MetadataMode.NONE),
                "metadata": node_to_metadata_dict(node, remove_text=True),
            }
            for node in nodes
        )
        return [node.node_id for node in nodes]

    def delete(self, /, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a source document."""
        self._store.delete(filter=Field([REF_DOC_ID], "==").equals(ref_doc_id).met)

    def delete_nodes(
        self,
        /,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id and filters, those that meet both where both are given; with neither all."""
        self._store.delete(filter=_selected(filters, node_ids=node_ids))

    def clear(self) -> None:
        """Delete all nodes."""
        self._store.delete()

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Nothing to do: each change is on disk, in `path`, when its call returns."""

    # Reading -------------------------------------------------------------------------------------------------

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes by id and filters, in the order of adding; with neither all."""
        return [_node(stored) for stored in self._store.matching(_selected(filters, node_ids=node_ids))]

    def query(self, /, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes for `query_str`. Modes: default as any search (docs/guides/hybrid.md), mmr by MaxSim,
        text_search and sparse by words, hybrid by both, alpha being the share of MaxSim. kwargs: fields of
        SearchOptions, and mmr_threshold."""
        if not query.query_str:
            raise ArgumentError(
                "the query has no query_str; this store searches by text, not by an embedding"
            )
        if query.mode not in MODES:
            modes = ", ".join(mode.value for mode in MODES)
            raise ArgumentError(f"mode={query.mode.value!r} is none that Latewood has; pass one of {modes}")
        threshold = kwargs.pop("mmr_threshold", query.mmr_threshold)
        asked = updated(self._asked(query), kwargs)
        if query.mode == VectorStoreQueryMode.MMR:
            diversity = Diversity(max(20, 4 * asked.k), 0.5 if threshold is None else threshold)
            found = self._store.diverse(query.query_str, asked, diversity)
        else:
            found = [(hit, hit.score) for hit in self._store.search(query.query_str, asked)]
        return VectorStoreQueryResult(
            nodes=[_node(hit, asked.by) for hit, _ in found],
            similarities=[score for _, score in found],
            ids=[hit.doc_id for hit, _ in found],
        )

    def _asked(self, query: VectorStoreQuery) -> SearchOptions:
        mode, k = MODES[query.mode] or self._options.mode, query.similarity_top_k
        changes: dict[str, Any] = {}
        if mode == "lexical":
            k = query.sparse_top_k or k
        elif mode == "hybrid":
            k = query.hybrid_top_k or k
            if query.alpha is not None:
                changes["weights"] = (query.alpha, 1 - query.alpha)
        # VectorStoreIndex passes empty lists where it asks for no ids in particular.
        filter = _selected(query.filters, node_ids=query.node_ids or None, doc_ids=query.doc_ids or None)
        return replace(self._options, k=k, mode=mode, filter=filter, **changes)

    # In other threads: LlamaIndex's own would hold up the loop -----------------------------------------------

    async_add = in_thread(add)
    adelete = in_thread(delete)
    adelete_nodes = in_thread(delete_nodes)
    aclear = in_thread(clear)
    aget_nodes = in_thread(get_nodes)
    aquery = in_thread(query)


class LatewoodRetriever(BaseRetriever):
    """Searches an index; nothing else is needed, no embedding model and no VectorStoreIndex."""

    def __init__(
        self,
        index: LatewoodVectorStore | Any,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        *,
        filters: MetadataFilters | str | None = None,
        options: SearchOptions | None = None,
        **kwargs: Any,
    ) -> None:
        """index: a LatewoodVectorStore, the path of an index, or a Searcher. filters: MetadataFilters, or a text in
        Latewood's language. options: what else a search takes, such as mode, and by="passage" for the passages that
        match, which have `start_char_idx` and `end_char_idx`. kwargs: of LlamaIndex's BaseRetriever.
        """
        asked = {"k": similarity_top_k, "filter": filter_text(filters)}
        self._options = updated(options or SearchOptions(), asked)
        self._store = Store.reading(index.client if isinstance(index, LatewoodVectorStore) else index)
        super().__init__(**kwargs)

    def reload(self) -> bool:
        """Move to the newest commit of other processes; whether there was one."""
        return self._store.reload()

    def close(self) -> None:
        """Let go of an index that was given by its path."""
        self._store.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._store.search(query_bundle.query_str, self._options)
        return [NodeWithScore(node=_node(hit, self._options.by), score=hit.score) for hit in hits]

    _aretrieve = in_thread(_retrieve)


class LatewoodReranker(BaseNodePostprocessor):
    """Orders nodes of any retriever by MaxSim of their texts, without metadata, with the query; no index is needed.

    encoder: None for the bundled model, loaded when it is first needed. top_n: how many are kept; None for all.
    """

    encoder: Any = PydanticField(default=None, exclude=True)
    top_n: int | None = None

    @classmethod
    def class_name(cls) -> str:
        return "LatewoodReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ArgumentError("no query to rank nodes by; pass query_str=... or query_bundle=...")
        if not nodes:
            return []
        texts = [one.node.get_content(metadata_mode=MetadataMode.NONE) for one in nodes]
        ranked = rerank(self.encoder or bundled(), query_bundle.query_str, texts, k=self.top_n)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in ranked]


def _selected(
    filters: MetadataFilters | str | None,
    *,
    node_ids: list[str] | None = None,
    doc_ids: list[str] | None = None,
) -> str | None:
    """One filter of what must all be met; None where nothing is asked."""
    parts = []
    if (text := filter_text(filters)) is not None:
        parts.append(Condition(f"({text})", f"not ({text})"))
    if node_ids is not None:
        parts.append(Field([], "in").among(node_ids))
    if doc_ids is not None:
        parts.append(Field([REF_DOC_ID], "in").among(doc_ids))
    return all_of(parts).met if parts else None


def _node(stored: Stored | Hit, by: By = "document") -> BaseNode:
    """The node as it was added, or, of an index that was made without LlamaIndex, one of the document's text."""
    if "_node_content" in stored.metadata:
        node = metadata_dict_to_node(stored.metadata, text=stored.text)
    else:
        node = TextNode(id_=stored.doc_id, text=stored.text or "", metadata=stored.metadata)
    if passage := passage_of(stored, by):
        node.set_content(passage.text)
        if isinstance(node, TextNode):
            node.start_char_idx, node.end_char_idx = passage.span
    return node
