"""LangChain: a vector store over an index, a retriever, a reranker (docs/guides/langchain.md). Extra: `langchain`."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from encoder.arguments import shown
from encoder.errors import ArgumentError
from encoder.options import updated
from indexing import Document as Stored
from retriever.hits import Hit
from retriever.integrations.filters import Condition, Field, all_of, any_of, as_values, said, unsayable
from retriever.integrations.store import Diversity, IndexEncoder, Store, bundled, extra, passage_of
from retriever.options import By, Mode, SearchOptions
from retriever.reranking import rerank

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict, PrivateAttr
except ImportError as error:
    raise extra("langchain", "langchain-core") from error

__all__ = ["LatewoodReranker", "LatewoodRetriever", "LatewoodVectorStore", "filter_text"]

LOGICAL: dict[str, Callable[[Iterable[Condition]], Condition]] = {
    "$and": all_of,
    "$or": any_of,
    "$nor": lambda parts: ~any_of(parts),
}
ORDERS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = (
    "$eq", "$ne", *ORDERS, "$in", "$nin", "$between", "$exists", "$contains", "$not_contains", "$ilike", "$not",
)  # fmt: skip


OF_OPTIONS = {"mode", "by", "filter"}  # fields of LatewoodRetriever that stand for those of its options


def filter_text(filter: str | Mapping[str, Any] | None) -> str | None:
    """A filter in Latewood's language. filter: a text in that language, or a dict as LangChain's stores take:
    `{"lang": "py", "stars": {"$gte": 10}}`, with `$and`, `$or`, `$nor` and `$not`.

    Raises ArgumentError for an operator that cannot be said, with its name.
    """
    return said(filter, _condition)


def _condition(filter: Any, where: str = "filter") -> Condition:
    if not isinstance(filter, Mapping):
        raise ArgumentError(
            f"{where} {shown(filter)} is {type(filter).__name__}; pass a dict such as {{'lang': 'py'}}, or a text"
        )
    parts = []
    for key, value in filter.items():
        if key in LOGICAL:
            parts.append(LOGICAL[key](_condition(one, key) for one in as_values(value, key)))
        elif key == "$not":
            parts.append(~_condition(value, key))
        elif not isinstance(key, str) or key.startswith("$"):
            raise unsayable(key, [*LOGICAL, "$not"])
        elif isinstance(value, Mapping):
            parts.append(_operators(key, value))
        else:
            parts.append(Field(key.split("."), "$eq").equals(value))
    return all_of(parts)


def _operators(key: str, operators: Mapping[str, Any]) -> Condition:
    """Of one key, all of several operators."""
    return all_of(_operator(key, operator, value) for operator, value in operators.items())


def _operator(key: str, operator: str, value: Any) -> Condition:
    field = Field(key.split("."), operator)
    if operator in ("$eq", "$ne"):
        condition = field.equals(value)
    elif operator in ORDERS:
        return field.compares(ORDERS[operator], value)
    elif operator in ("$in", "$nin"):
        condition = field.among(as_values(value, operator))
    elif operator in ("$contains", "$not_contains"):
        condition = field.contains(value)
    elif operator == "$between":
        bounds = as_values(value, operator)
        if len(bounds) != 2:
            raise ArgumentError(
                f"the filter's operator '$between' has {len(bounds)} values; pass [least, most]"
            )
        return all_of([field.compares(">=", bounds[0]), field.compares("<=", bounds[1])])
    elif operator == "$exists":
        return ~field.is_null() if value else field.is_null()
    elif operator == "$ilike":
        return field.like(value)
    elif operator == "$not":
        if not isinstance(value, Mapping):
            raise ArgumentError(f"the filter's operator '$not' has the value {shown(value)}; pass a dict")
        return ~_operators(key, value)
    else:
        raise unsayable(operator, OPERATORS)
    return ~condition if operator in ("$ne", "$nin", "$not_contains") else condition


class LatewoodVectorStore(VectorStore):
    """An index as a vector store: it encodes texts itself, so it takes no embeddings.

    Threads and tasks may add and search at once. What is added is on disk when the call returns. Closed by `close`
    or a `with` block; until then no other process writes to the index. Stores of one folder in a process share it.
    """

    def __init__(
        self,
        path: str | Path,
        encoder: IndexEncoder | str | Path | None = None,
        *,
        options: SearchOptions | None = None,
        **settings: Any,
    ) -> None:
        """path: an index folder, made if there is none. encoder: a name or folder, or itself; None for the one that
        made the index, or the bundled model. options: what a search does where it is not told otherwise; its k is
        LangChain's, 4. settings: of a new index, such as `window` (IndexSettings).
        """
        self.options = options or SearchOptions()
        self.store = Store.open(path, encoder, **settings)

    def close(self) -> None:
        """Let go of the index."""
        self.store.close()

    def __enter__(self) -> "LatewoodVectorStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing -------------------------------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts or replace those of the same id; their ids, made where there is none."""
        _refuse(kwargs, "batch_size")  # LangChain's indexing passes it; an index sizes its own commits
        given = list(texts)
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(given):
                raise ArgumentError(f"{len(values)} {name} for {len(given)} texts; pass one each")
        made = [name or str(uuid.uuid4()) for name in ids or [""] * len(given)]
        metadata = [one or {} for one in metadatas or [{}] * len(given)]
        rows = zip(made, given, metadata, strict=True)
        self.store.add({"doc_id": i, "text": text, "metadata": data} for i, text, data in rows)
        return made

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> "LatewoodVectorStore":
        """A store with these texts. embedding: not looked at. kwargs: path, and what else the constructor takes."""
        if "path" not in kwargs:
            raise ArgumentError("from_texts has no path; pass path=..., the folder of the index")
        store = cls(**kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete by id, or all that meet a filter; with neither everything. An id that is not stored is no error."""
        _refuse(kwargs)
        self.store.delete(ids, filter_text(filter))
        return True

    # Reading -------------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids that are stored."""
        return [_document(stored) for stored in self.store.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k best documents. kwargs: filter, as `filter_text` takes it, and fields of SearchOptions."""
        options = self._asked(k, kwargs)
        return [_document(hit, options.by) for hit in self.store.search(query, options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """And their scores, higher is better; what they are the mode says (docs/guides/hybrid.md)."""
        options = self._asked(k, kwargs)
        return [(_document(hit, options.by), hit.score) for hit in self.store.search(query, options)]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """By mode "late", and their scores as shares of the highest that the query could have, 0 to 1."""
        options = self._asked(k, kwargs)
        hits, relevances = self.store.relevances(query, options)
        documents = [_document(hit, options.by) for hit in hits]
        return list(zip(documents, relevances, strict=True))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def similarity_search_by_vector(self, embedding: Any, k: int = 4, **kwargs: Any) -> list[Document]:
        """For a query's token vectors, (n_query, dim): one vector is not what an index of tokens is searched by."""
        options = self._asked(k, kwargs)
        hits = self.store.searcher.search_embeddings(embedding, options)
        return [_document(hit, options.by) for hit in hits]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """k documents that are relevant and unlike one another: of the fetch_k best, by their mean token vectors.
        lambda_mult: 0 for diversity alone, 1 for relevance alone."""
        options, diversity = self._asked(k, kwargs), Diversity(fetch_k, lambda_mult)
        return [_document(hit, options.by) for hit, _ in self.store.diverse(query, options, diversity)]

    def max_marginal_relevance_search_by_vector(self, *args: Any, **kwargs: Any) -> list[Document]:
        raise ArgumentError(
            "an index of token vectors has no search by one vector; use max_marginal_relevance_search"
        )

    def _asked(self, k: int, changes: Mapping[str, Any]) -> SearchOptions:
        return _options(self.options, {**changes, "k": k})


class LatewoodRetriever(BaseRetriever):
    """Searches an index. `invoke(query, k=3, filter=...)` takes the fields of SearchOptions too.

    index: its path, a LatewoodVectorStore or a Searcher. by: "document" gives whole documents, "passage" the passages
    that match. filter: as `filter_text` takes it. options: what else a search takes, and mode, by and filter where they
    are not given. scores, spans: whether metadata get `score`, and `span`, the passage that matched as [start, end) in
    the document's characters.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: Any
    k: int = 4
    mode: Mode | None = None
    by: By = "document"
    filter: str | Mapping[str, Any] | None = None
    options: SearchOptions = SearchOptions()
    scores: bool = False
    spans: bool = False
    _store: Store = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        self._changed({})  # refuses what cannot work
        given = self.index.store if isinstance(self.index, LatewoodVectorStore) else self.index
        self._store = Store.reading(given)

    def reload(self) -> bool:
        """Move to the newest commit of other processes; whether there was one."""
        return self._store.reload()

    def close(self) -> None:
        """Let go of an index that was given by its path."""
        self._store.close()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changes: Any
    ) -> list[Document]:
        options = self._changed(changes)
        return [self._found(hit, options.by) for hit in self._store.search(query, options)]

    def _changed(self, changes: Mapping[str, Any]) -> SearchOptions:
        given = {name: getattr(self, name) for name in self.model_fields_set & OF_OPTIONS}
        return _options(self.options, {"k": self.k, **given, **changes})

    def _found(self, hit: Hit, by: By) -> Document:
        document = _document(hit, by)
        if self.scores:
            document.metadata["score"] = hit.score
        if self.spans:
            document.metadata["span"] = None if hit.passage is None else list(hit.passage.span)
        return document


class LatewoodReranker(BaseDocumentCompressor):
    """Orders documents of any retriever by MaxSim with the query; no index is needed.

    encoder: None for the bundled model, loaded when it is first needed. top_n: how many are kept; None for all. scores:
    whether metadata get `relevance_score`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    encoder: Any = None
    top_n: int | None = None
    scores: bool = False

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        found = []
        for one in rerank(self.encoder or bundled(), query, texts, k=self.top_n):
            document = documents[one.index].model_copy(deep=True)
            if self.scores:
                document.metadata["relevance_score"] = one.score
            found.append(document)
        return found


def _document(stored: Stored | Hit, by: By = "document") -> Document:
    text = (passage_of(stored, by) or stored).text or ""
    return Document(id=stored.doc_id, page_content=text, metadata=stored.metadata)


def _options(options: SearchOptions, changes: Mapping[str, Any]) -> SearchOptions:
    if "filter" in changes:
        changes = {**changes, "filter": filter_text(changes["filter"])}
    return updated(options, changes)


def _refuse(arguments: Mapping[str, Any], *known: str) -> None:
    for name in arguments.keys() - set(known):
        raise ArgumentError(
            f"{name}={shown(arguments[name])} is nothing that Latewood takes here; leave it out"
        )
