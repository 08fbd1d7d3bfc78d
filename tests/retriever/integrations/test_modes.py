"""Where no mode is given the adapters and the server rank as `Searcher.search` does; with one, by it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.vector_stores.types import VectorStoreQuery
from starlette.testclient import TestClient
from typer.testing import CliRunner

from encoder import Encoder
from indexing import Index
from retriever import Searcher, SearchOptions
from retriever.cli import app
from retriever.integrations import haystack, langchain, llamaindex
from retriever.serving import ServeSettings, create_app

QUERY = "what is parsed: dates or times?"
TEXTS = ["Parsing dates and times.", "Reading a calendar.", "What is it?", "Drawing charts of sales."]
Asked = Callable[[Searcher, str | None], list[tuple[str, float]]]


@pytest.fixture(scope="module", params=["texts", "vectors"])
def searcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """An index whose documents have texts, and one of vectors alone."""
    encoder, path = Encoder.load(), tmp_path_factory.mktemp("modes") / "x.index"
    ids = [f"d{i}" for i in range(len(TEXTS))]
    with Index.create(path, encoder) as index:
        if request.param == "texts":
            index.add({"doc_id": i, "text": text} for i, text in zip(ids, TEXTS, strict=True))
        else:
            index.add_embeddings(ids, encoder.encode_documents(TEXTS))
    with Searcher.open(path, encoder) as searcher:
        yield searcher


def chosen(mode: str | None) -> dict[str, Any]:
    return {} if mode is None else {"mode": mode}


def langchain_store(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    with langchain.LatewoodVectorStore(searcher.snapshot.folder) as store:
        found = store.similarity_search_with_score(QUERY, 3, **chosen(mode))
    return [(str(document.id), score) for document, score in found]


def langchain_retriever(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    retriever = langchain.LatewoodRetriever(index=searcher, k=3, scores=True, **chosen(mode))
    return [(str(one.id), one.metadata["score"]) for one in retriever.invoke(QUERY)]


def langchain_options(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    """The mode among other options, which the retriever's own fields do not undo."""
    options = SearchOptions(k=9, **chosen(mode))
    retriever = langchain.LatewoodRetriever(index=searcher, k=3, scores=True, options=options)
    return [(str(one.id), one.metadata["score"]) for one in retriever.invoke(QUERY)]


def llamaindex_store(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    options = SearchOptions(**chosen(mode))
    with llamaindex.LatewoodVectorStore(searcher.snapshot.folder, options=options) as store:
        found = store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=3))
    return list(zip(found.ids or [], found.similarities or [], strict=True))


def llamaindex_retriever(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    retriever = llamaindex.LatewoodRetriever(searcher, 3, options=SearchOptions(**chosen(mode)))
    return [(one.node.node_id, one.score or 0.0) for one in retriever.retrieve(QUERY)]


def haystack_retriever(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    store = haystack.LatewoodDocumentStore(str(searcher.snapshot.folder))
    try:
        found = haystack.LatewoodRetriever(store, top_k=3, options=chosen(mode)).run(QUERY)["documents"]
    finally:
        store.close()
    return [(one.id, one.score) for one in found]


def server(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    served = create_app(ServeSettings({"x": searcher.snapshot.folder}))
    with TestClient(served, "http://localhost") as client:
        info = client.get("/v1/indexes/x").json()
        found = client.post("/v1/indexes/x/search", json={"query": QUERY, "k": 3, **chosen(mode)}).json()
    assert info["mode"] == searcher.mode()
    assert found["mode"] == searcher.mode(**chosen(mode))
    return [(hit["doc_id"], hit["score"]) for hit in found["hits"]]


def command(searcher: Searcher, mode: str | None) -> list[tuple[str, float]]:
    flags = [] if mode is None else ["--mode", mode]
    result = CliRunner().invoke(
        app, ["search", str(searcher.snapshot.folder), QUERY, "-k", "3", "--json", *flags]
    )
    assert result.exit_code == 0, result.output
    return [(hit["doc_id"], hit["score"]) for hit in json.loads(result.stdout)]


EVERY: list[Asked] = [
    langchain_store,
    langchain_retriever,
    langchain_options,
    llamaindex_store,
    llamaindex_retriever,
    haystack_retriever,
    server,
    command,
]


@pytest.mark.parametrize("asked", EVERY, ids=lambda asked: asked.__name__)
def test_the_mode_is_that_of_any_search(searcher: Searcher, asked: Asked) -> None:
    modes = (None, "late", "hybrid", "lexical") if searcher.mode() == "hybrid" else (None, "late")
    expected = {mode: searcher.search(QUERY, k=3, **chosen(mode)) for mode in modes}
    if searcher.mode() == "hybrid":  # else nothing here could fail
        assert expected["late"][0].score != pytest.approx(expected["hybrid"][0].score)
    for mode, hits in expected.items():
        found = asked(searcher, mode)
        assert found == [(hit.doc_id, pytest.approx(hit.score, abs=1e-4)) for hit in hits], mode
