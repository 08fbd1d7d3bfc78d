"""A writable server stores what it acknowledges, finds it at once, and refuses the rest."""

import json
import time

import pytest

from encoder.errors import IndexLockedError
from indexing import Index
from retriever.serving import ServeSettings, create_app
from tests.retriever.serving.conftest import TEXTS, detail, make


@pytest.fixture
def client(serve, own):
    return serve({"own": own}, writable=True)


URL = "/v1/indexes/own"


def ndjson(*documents):
    return {
        "content": "".join(json.dumps(one) + "\n" for one in documents),
        "headers": {"content-type": "application/x-ndjson"},
    }


def found(client, query):
    hits = client.post(f"{URL}/search", json={"query": query, "k": 1}).json()["hits"]
    return [(hit["doc_id"], hit["text"]) for hit in hits]


@pytest.mark.slow
def test_a_document_is_added_replaced_and_deleted(client):
    body = {"text": "Rivers run to the sea.", "metadata": {"wet": True}}
    report = client.put(f"{URL}/documents/geo/rivers", json=body).json()
    assert (report["added"], report["documents"], report["unencoded"]) == (1, 5, 0)
    assert report["tokens"] > 4
    assert found(client, "rivers") == [("geo/rivers", body["text"])]
    assert client.get(f"{URL}/documents/geo/rivers").json() == {"doc_id": "geo/rivers", **body}
    assert client.put(f"{URL}/documents/geo/rivers", json=body).json()["unchanged"] == 1
    again = client.put(f"{URL}/documents/geo/rivers", json={"text": "Lakes are still."}).json()
    assert (again["replaced"], again["documents"]) == (1, 5)
    assert client.delete(f"{URL}/documents/geo/rivers").json()["deleted"] == 1
    assert client.delete(f"{URL}/documents/geo/rivers").json()["deleted"] == 0
    detail(client.get(f"{URL}/documents/geo/rivers"), 404)


@pytest.mark.slow
def test_many_come_as_json_or_as_lines(client, own):
    some = [
        {"doc_id": f"d{i}", "text": f"Text number {i} of a river", "metadata": {"i": i}} for i in range(30)
    ]
    report = client.post(f"{URL}/documents", json={"documents": some[:10]}).json()
    assert (report["added"], report["documents"]) == (10, 14)
    report = client.post(f"{URL}/documents", **ndjson(*some)).json()
    assert (report["added"], report["unchanged"], report["documents"]) == (20, 10, 34)
    report = client.post(f"{URL}/delete", json={"filter": "i >= 10 and doc_id != 'd''x'"}).json()
    assert (report["deleted"], report["documents"]) == (20, 14)
    assert client.get("/v1/indexes").json()["indexes"][0]["writable"] is True
    with Index.open(own) as index:
        assert set(index.ids()) == {*TEXTS, *(f"d{i}" for i in range(10))}
        index.verify()


@pytest.mark.slow
def test_texts_first_and_vectors_after(client):
    one = {"doc_id": "late", "text": "Volcanoes erupt."}
    report = client.post(f"{URL}/documents", params={"encode": "false"}, json={"documents": [one]}).json()
    assert (report["added"], report["unencoded"], report["tokens"]) == (1, 1, 0)
    words = client.get(f"{URL}/search", params={"q": "volcanoes", "mode": "lexical"}).json()
    assert [hit["doc_id"] for hit in words["hits"]] == ["late"]
    assert words["unencoded"] == 1
    report = client.put(f"{URL}/documents/other", json={"text": "Geysers too."}).json()
    assert report["unencoded"] == 0  # it makes what waited
    assert found(client, "volcanoes erupt") == [("late", one["text"])]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nope", "line 2 is not JSON"),
        ('{"text": "x"}', "line 2 has no 'doc_id'; give it a string"),
        ('{"doc_id": 3, "text": "x"}', "line 2 has 'doc_id' = 3; give it a string"),
        ('{"doc_id": "x", "text": "x", "meta": {}}', "line 2 has 'meta'; a document has doc_id, text and"),
        ("[1]", "line 2 is a JSON list"),
        ('{"doc_id": "x", "text": "x", "metadata": []}', "line 2 has 'metadata' = []; give it an object"),
    ],
)
def test_a_line_that_is_no_document_is_named(client, line, told):
    content = json.dumps({"doc_id": "fine", "text": "fine"}) + "\n" + line
    answer = client.post(
        f"{URL}/documents", content=content, headers={"content-type": "application/x-ndjson"}
    )
    said = detail(answer, 422)
    assert told in said
    assert "/" not in said.partition(" is ")[0]  # no name of a temporary file
    assert client.get(URL).json()["documents"] == 4


@pytest.mark.slow
def test_what_is_no_document_is_refused(client):
    for body, told in [
        ({"documents": [{"doc_id": "x"}]}, "there is no documents.0.text"),
        (
            {"documents": [{"doc_id": "x", "text": None}]},
            "documents.0.text=None; input should be a valid string",
        ),
        ({"documents": [{"doc_id": "x", "text": "y", "id": 3}]}, "documents.0.id is not known here"),
        ({"documents": [{"doc_id": "a\0b", "text": "y"}]}, "has a NUL character"),
        ({"docs": []}, "there is no documents"),
    ]:
        assert told in detail(client.post(f"{URL}/documents", json=body), 422)
    assert "send application/json or application/x-ndjson" in detail(
        client.post(f"{URL}/documents", content="x", headers={"content-type": "text/csv"}), 415
    )
    assert "the body is no JSON" in detail(
        client.post(f"{URL}/documents", content=b"\xff{", headers={"content-type": "application/json"}), 400
    )
    assert "lenght" in detail(client.post(f"{URL}/delete", json={"filter": "lenght = 1"}), 422)
    detail(client.put(f"{URL}/documents/", json={"text": "no id"}), 422)
    assert client.get(URL).json()["documents"] == 4


def test_a_server_that_is_only_read_refuses_to_write(serve, own):
    client = serve({"own": own})
    for answer in (
        client.put(f"{URL}/documents/x", json={"text": "x"}),
        client.delete(f"{URL}/documents/heart"),
        client.post(f"{URL}/documents", json={"documents": []}),
        client.post(f"{URL}/documents", **ndjson({"doc_id": "x", "text": "x"})),
        client.post(f"{URL}/delete", json={"filter": "length > 0"}),
    ):
        assert detail(answer, 403) == "own is only read here; start the server with --writable"
    assert client.get(URL).json()["documents"] == 4


def test_another_writer_is_named_at_the_start(own):
    from starlette.testclient import TestClient

    with Index.open(own, writable=True):
        app = create_app(ServeSettings({"own": own}, writable=True))
        with pytest.raises(IndexLockedError, match="is being written by process"), TestClient(app):
            pass


@pytest.mark.slow
def test_an_index_of_vectors_takes_words_alone(serve, tmp_path):
    with Index.create(tmp_path / "v", dim=4) as index:
        index.add_embeddings(["a"], [[[1, 0, 0, 0]]], ["alpha"])
    client = serve({"own": tmp_path / "v"}, writable=True)
    body = {"text": "beta"}
    assert "has no encoder; pass encode=false" in detail(client.put(f"{URL}/documents/b", json=body), 422)
    assert client.put(f"{URL}/documents/b", json=body, params={"encode": "false"}).json()["added"] == 1
    hits = client.get(f"{URL}/search", params={"q": "beta", "mode": "lexical"}).json()["hits"]
    assert [hit["doc_id"] for hit in hits] == ["b"]
    told = detail(client.get(f"{URL}/search", params={"q": "beta"}), 422)
    assert "was built from vectors and names no encoder; search with mode 'lexical'" in told


def test_a_folder_is_not_written_to(serve, tmp_path):
    with pytest.raises(Exception, match="is a folder, whose documents are its files"):
        serve({"own": tmp_path}, writable=True)


@pytest.mark.slow
def test_uploads_beyond_a_limit_are_refused(serve, own):
    from retriever.serving import Limits

    client = serve({"own": own}, writable=True, limits=Limits(max_body=2000, max_upload=5000))
    long, short = {"doc_id": "l", "text": "x" * 2000}, {"doc_id": "s", "text": "x" * 900}
    assert "line 2 has more than 2,000 bytes" in detail(
        client.post(f"{URL}/documents", **ndjson(short, long)), 413
    )
    assert "more than 5,000 bytes" in detail(client.post(f"{URL}/documents", **ndjson(*[short] * 6)), 413)
    assert "more than 2,000 bytes" in detail(client.post(f"{URL}/documents", json={"documents": [long]}), 413)
    assert client.post(f"{URL}/documents", **ndjson(*[short] * 5)).json()["added"] == 1


def test_an_index_that_takes_the_place_of_the_served_one_is_served_and_not_written(
    serve, own, encoder, tmp_path
):
    client = serve({"own": own}, writable=True)
    make(tmp_path / "next", encoder, {"new": "A comet came by and was seen by night."})
    own.rename(tmp_path / "old")
    (tmp_path / "next").rename(own)
    deadline = time.monotonic() + 30
    while True:
        answer = client.get("/v1/indexes/own/search", params={"q": "dogs and cats"}).json()
        if [hit["doc_id"] for hit in answer["hits"]] == ["new"]:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer["documents"] == 1
    assert client.get("/v1/indexes/own").json()["documents"] == 1
    refused = client.put("/v1/indexes/own/documents/more", json={"text": "more"})
    assert "moved, deleted or replaced" in detail(refused, 503)
    assert client.get("/v1/indexes/own/documents/more").status_code == 404
