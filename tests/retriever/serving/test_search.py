"""Search over HTTP gives what `Searcher` gives, and refuses what it refuses."""

import math
import sqlite3
from contextlib import closing
from dataclasses import fields

import pytest

from indexing import Index
from indexing.reading.corpus import read_folder
from retriever import Searcher, SearchOptions
from retriever.code.search import search_code
from tests.retriever.serving.conftest import TEXTS, detail

QUESTION = "who sets the cost of borrowing?"


@pytest.fixture(scope="module")
def searcher(docs, encoder):
    with Searcher.open(docs, encoder) as searcher:
        yield searcher


def search(client, **asked):
    answer = client.post("/v1/indexes/docs/search", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_pairs(hits):
    return [(hit["doc_id"], hit["score"]) for hit in hits]


def expected(hits):
    return [(hit.doc_id, pytest.approx(hit.score)) for hit in hits]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 2},
        {"mode": "lexical"},
        {"mode": "hybrid", "weights": [2.0, 1.0], "k": 3},
        {"by": "passage", "k": 1},
        {"filter": "length < 53 and short = true"},
        {"nprobe": 2, "ncandidates": 3, "nrerank": 2, "k": 2},
    ],
)
def test_a_search_is_that_of_python(client, searcher, options):
    hits = searcher.search(QUESTION, **options)
    by_post = search(client, query=QUESTION, **options)
    by_get = client.get("/v1/indexes/docs/search", params={"q": QUESTION, **options})
    for found in (by_post, by_get.json()):
        assert as_pairs(found["hits"]) == expected(hits)
        assert (found["index"], found["query"]) == ("docs", QUESTION)
        assert (found["mode"], found["documents"], found["unencoded"]) == (searcher.mode(**options), 4, 0)
        for hit, of in zip(found["hits"], hits, strict=True):
            assert (hit["rank"], hit["text"], hit["metadata"]) == (of.rank, of.text, of.metadata)
            assert hit["passage"]["span"] == list(of.passage.span)
            assert hit["passage"]["text"] == of.passage.text
            assert hit["explanation"] is None
    assert by_get.status_code == 200


@pytest.mark.slow
def test_several_queries_are_answered_in_order(client, searcher):
    texts = ["blood", QUESTION, "shopping"]
    found = search(client, queries=texts, k=1)["results"]
    assert [one["query"] for one in found] == texts
    for text, one in zip(texts, found, strict=True):
        assert as_pairs(one["hits"]) == expected(searcher.search(text, k=1))


def test_an_explanation_adds_up_to_the_score(client, searcher):
    [hit] = search(client, query=QUESTION, k=1, explain="full")["hits"]
    of = searcher.search(QUESTION, k=1)[0].explain()
    told = hit["explanation"]
    assert told["query_tokens"] == list(of.query_tokens)
    assert [(m["query_token"], m["passage_token"], m["line"]) for m in told["matches"]] == [
        (m.query_token, m.passage_token, m.line) for m in of.matches
    ]
    assert math.fsum(m["score"] for m in told["matches"]) == pytest.approx(hit["score"], abs=1e-4)
    assert math.fsum(t["score"] for t in told["tokens"]) == pytest.approx(hit["score"], abs=1e-4)
    assert [t["text"] for t in told["tokens"]] == [t.text for t in of.passage_tokens]
    for row, scores in zip(told["similarity"], of.similarity, strict=True):
        assert row == pytest.approx(scores.tolist(), abs=1e-4)
    assert search(client, query=QUESTION, k=1, explain=True)["hits"][0]["explanation"]["similarity"] is None
    assert search(client, query="bank", k=1, mode="lexical", explain=True)["hits"][0]["explanation"] is None


def test_every_option_of_a_search_is_in_the_document(client):
    document = client.get("/openapi.json").json()
    body = document["components"]["schemas"]["SearchBody"]["properties"]
    parameters = {p["name"] for p in document["paths"]["/v1/indexes/{name}/search"]["get"]["parameters"]}
    for field in fields(SearchOptions):
        assert body[field.name]["description"] == field.metadata["help"]
        assert field.name in parameters


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"query": "x", "k": 0}, "k=0; input should be greater than or equal to 1"),
        ({"query": "x", "k": "2"}, "k='2'; input should be a valid integer"),
        ({"query": "x", "k": 10**6}, "k=1000000; pass k <= 1000"),
        ({"query": "x", "k": 10**30}, "pass k <= 1000"),
        ({"query": "x", "top_k": 3}, "top_k is not known here"),
        ({"query": "x", "queries": ["y"]}, "pass query, or queries, and not both"),
        ({"k": 3}, "pass query, or queries, and not both"),
        ({"queries": ["x"] * 65}, "65 queries are too many; pass at most 64 a request"),
        ({"query": "x" * 100_001}, "query has 100,001 characters; pass at most 100,000"),
        ({"query": "x", "filter": "a" * 100_001}, "filter has 100,001 characters"),
        ({"query": "x", "filter": "lenght < 3"}, "which no document has ever had; did you mean length?"),
        ({"query": "x", "filter": "about = 'x' or '1'='1'"}, "at position 16; expected the name of a key"),
        ({"query": "x", "filter": "about = 'x"}, "has a quote that is never closed"),
        ({"query": "x", "mode": "fuzzy"}, "mode='fuzzy'; input should be 'late', 'lexical' or 'hybrid'"),
        ({"query": "x", "mode": "lexical", "nprobe": 2}, 'nprobe=2 does nothing in mode "lexical"'),
        (
            {"query": "x", "mode": "late", "weights": [1, 2]},
            'does nothing in mode "late"; pass mode="hybrid"',
        ),
        ({"query": "x", "by": "passage", "mode": "hybrid"}, 'words rank documents: pass by="document"'),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(client, asked, told):
    assert told in detail(client.post("/v1/indexes/docs/search", json=asked), 422)


def test_what_is_not_there_is_told(client):
    assert detail(client.get("/v1/indexes/dosc"), 404) == "there is no index 'dosc'; did you mean docs?"
    assert "there is no document 'hart'" in detail(client.get("/v1/indexes/docs/documents/hart"), 404)
    detail(client.get("/v2/indexes"), 404)
    assert client.put("/v1/indexes").headers["allow"] == "GET"
    assert "the body is no JSON" in detail(
        client.post(
            "/v1/indexes/docs/search", content=b'{"query', headers={"content-type": "application/json"}
        ),
        400,
    )


def test_a_filter_with_a_quote_is_a_value(client, searcher):
    where = "about = '<i>' and doc_id != 'it''s; DROP TABLE documents --'"
    found = search(client, query="x", filter=where)
    assert as_pairs(found["hits"]) == expected(searcher.search("x", filter=where))
    assert found["documents"] == len(found["hits"]) == 4


def test_documents_are_read_by_any_id(client):
    for doc_id in ("shop/cart.py#1", "<b>", "heart"):
        from urllib.parse import quote

        for path in (quote(doc_id, safe=""), quote(doc_id)):
            answer = client.get(f"/v1/indexes/docs/documents/{path}")
            assert answer.status_code == 200
            assert answer.json()["doc_id"] == doc_id
            assert answer.headers["content-type"] == "application/json"


def test_what_an_index_holds(client, docs):
    [info] = client.get("/v1/indexes").json()["indexes"]
    assert info == client.get("/v1/indexes/docs").json()
    with Index.open(docs) as index:
        assert (info["documents"], info["passages"], info["tokens"]) == (4, 4, index.n_tokens)
    assert info["encoder"] == "bundled"
    assert (info["writable"], info["code"], info["unencoded"]) == (False, False, 0)
    keys = {one["key"]: one["values"] for one in info["metadata_keys"]}
    assert keys["about"] == ["<i>"]
    assert sorted(keys["short"]) == [False, True]
    assert keys["length"] == sorted({len(text) for text in TEXTS.values()})


def wait_until_ready(client):
    for _ in range(100):
        if (answer := client.get("/readyz")).status_code == 200:
            return
        assert answer.headers["retry-after"] == "1"
    raise AssertionError("never ready")


def test_it_lives_and_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    wait_until_ready(client)


@pytest.mark.slow
def test_a_model_that_is_gone_leaves_words_and_the_other_indexes(serve, own, docs, caplog):
    with closing(sqlite3.connect(own / "index.db")) as db, db:
        gone = "UPDATE settings SET value = json_set(value, '$.encoder.name', './gone') WHERE key = 'index'"
        db.execute(gone)
    client = serve({"own": own, "docs": docs})
    wait_until_ready(client)
    assert "own: " in caplog.text
    assert client.get("/v1/indexes/own/search", params={"q": "bank", "mode": "lexical"}).json()["hits"]
    assert client.get("/v1/indexes/docs/search", params={"q": "bank"}).json()["hits"]
    assert "./gone" in detail(client.get("/v1/indexes/own/search", params={"q": "bank"}), 503)


@pytest.mark.slow
def test_a_refusal_names_the_index_and_not_where_it_lies(serve, tmp_path, encoder):
    with Index.create(tmp_path / "waiting.index", encoder) as index:
        index.add([{"doc_id": "cod", "text": "Cod is a fish."}], encode=False)
    client = serve({"fish": tmp_path / "waiting.index"})
    told = detail(client.get("/v1/indexes/fish/search", params={"q": "cod", "mode": "late"}), 422)
    assert told.startswith("none of the 1 documents of fish is encoded yet; ")
    assert str(tmp_path) not in told


@pytest.mark.slow
def test_a_commit_of_another_process_is_seen(serve, own, encoder):
    import time

    client = serve({"own": own})
    assert client.get("/v1/indexes/own").json()["documents"] == 4
    with Index.open(own, encoder, writable=True) as index:
        index.add([{"doc_id": "new", "text": "Rivers run to the sea."}])
        until = time.monotonic() + 1
        while client.get("/v1/indexes/own").json()["documents"] != 5:
            assert time.monotonic() < until
    [hit] = client.post("/v1/indexes/own/search", json={"query": "rivers", "k": 1}).json()["hits"]
    assert hit["doc_id"] == "new"


@pytest.fixture(scope="module")
def code(serve, tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("code")
    (folder / "shop").mkdir()
    (folder / "shop" / "cart.py").write_text(
        "def add_to_cart(item, cart):\n    '''Put an item into the basket.'''\n    cart.append(item)\n\n\n"
        "def check_password(user, password):\n    return user.hash == digest(password)\n"
    )
    (folder / "notes.md").write_text("# Baskets\n\nHow baskets are made of willow.\n")
    with Index.create(folder / "code.index", encoder) as index:
        index.add(read_folder(folder))
    return serve({"code": folder / "code.index"}), folder / "code.index"


@pytest.mark.slow
def test_code_is_ranked_by_its_rules(code, encoder):
    client, folder = code
    asked = {"query": "put a thing into the basket", "explain": True, "text": False}
    answer = client.post("/v1/indexes/code/search", json=asked).json()
    with Searcher.open(folder, encoder) as searcher:
        hits = search_code(searcher, asked["query"])
    assert client.get("/v1/indexes/code").json()["code"] is True
    assert [(h["rank"], h["doc_id"], h["score"]) for h in answer["hits"]] == [
        (h.rank, h.doc_id, pytest.approx(h.score)) for h in hits
    ]
    first = answer["hits"][0]
    assert (first["code"]["path"], first["code"]["line"], first["code"]["symbol"]) == (
        "shop/cart.py",
        1,
        "add_to_cart",
    )
    assert [line["text"] for line in first["code"]["lines"]] == ["    '''Put an item into the basket.'''"]
    assert math.fsum(first["reasons"].values()) == pytest.approx(first["score"], abs=1e-4)
    assert first["explanation"]["matches"]
    assert first["text"] is None
    assert first["passage"]["text"].startswith("def add_to_cart")


@pytest.mark.slow
def test_code_is_narrowed_as_by_the_flags(code):
    client, _ = code

    def paths(**asked):
        answer = client.post("/v1/indexes/code/search", json={"query": "basket", **asked})
        assert answer.status_code == 200, answer.text
        return {hit["code"]["path"] for hit in answer.json()["hits"]}

    assert paths() == {"shop/cart.py", "notes.md"}
    assert paths(languages=["py"]) == paths(paths=["shop/"]) == paths(regex="pass\\w+d") == {"shop/cart.py"}
    assert paths(regex="no such text") == set()
    by_get = client.get("/v1/indexes/code/search", params={"q": "basket", "paths": ["*.md", "!x"]})
    assert [hit["doc_id"] for hit in by_get.json()["hits"]] == ["notes.md::Baskets"]
    plain = client.post("/v1/indexes/code/search", json={"query": "basket", "code": False}).json()
    assert {hit["code"] for hit in plain["hits"]} == {None}
    told = detail(
        client.post("/v1/indexes/code/search", json={"query": "x", "code": False, "regex": "x"}), 422
    )
    assert "are of code; leave them out, or pass code=true" in told


@pytest.mark.slow
def test_a_regex_that_explodes_is_refused_while_others_are_answered(code, monkeypatch):
    client, _ = code
    monkeypatch.setattr("retriever.code.search.REGEX_SECONDS", 0.2)
    asked = {"query": "x", "regex": "(.|.)*[0-9]"}
    assert "takes more than 0.2 s" in detail(client.post("/v1/indexes/code/search", json=asked), 422)


@pytest.mark.slow
def test_arrays_and_objects_are_no_values_of_a_filter(serve, tmp_path, encoder):
    with Index.create(tmp_path / "x", encoder) as index:
        metadata = {"tags": ["a"], "repo": {"name": "r"}, "n": 1, "odd key": True}
        index.add([{"doc_id": "d", "text": "t", "metadata": metadata}])
    keys = serve({"x": tmp_path / "x"}).get("/v1/indexes/x").json()["metadata_keys"]
    assert {one["key"]: one["values"] for one in keys} == {
        "tags": None,
        "repo": None,
        "repo.name": ["r"],
        "n": [1],
        '"odd key"': [True],
    }
