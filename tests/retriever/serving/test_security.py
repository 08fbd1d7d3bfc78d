"""Who may ask, and how much: each refusal with its status and its one line."""

import json
from urllib.parse import quote

import pytest

from encoder.errors import ArgumentError
from indexing import Index
from retriever.serving import Limits, ServeSettings
from retriever.serving.settings import named_folders
from tests.retriever.serving.conftest import detail

TOKEN = "k3y-of-many-letters"
URL = "/v1/indexes/docs"


@pytest.fixture(scope="module")
def guarded(serve, docs, tmp_path_factory):
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    return serve({"docs": docs}, token_file=str(file))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"]
)
def test_names_of_this_machine_are_served(client, host):
    assert client.get(URL, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:80", "[::2]", "", "a:b:c"],
)
def test_a_foreign_host_is_refused(client, host):
    told = detail(client.get(URL, headers={"host": host}), 403)
    assert told.startswith(f"the Host is {host!r}; call this server as localhost, or start it with")


def test_a_host_that_was_named_is_served(serve, docs):
    client = serve({"docs": docs}, allowed_hosts=("search.example",))
    assert client.get(URL, headers={"host": "Search.example:443"}).status_code == 200
    detail(client.get(URL, headers={"host": "other.example"}), 403)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://localhost:9999",
        "http://localhost.evil.example",
        "localhost",
    ],
)
def test_a_foreign_origin_is_refused(client, origin):
    for answer in (
        client.get(URL, headers={"origin": origin}),
        client.post(f"{URL}/search", json={"query": "x"}, headers={"origin": origin}),
        client.get("/", headers={"origin": origin}),
    ):
        assert "--cors ORIGIN" in detail(answer, 403)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "given",
    [
        {"cors": ("*",)},
        {"cors": ("null",)},
        {"cors": ("site.example",)},
        {"cors": ("https://site.example", "https://site.example/")},
        {"cors": ("https://Site.example",)},
        {"allowed_hosts": ("search.example:443",)},
        {"allowed_hosts": ("http://search.example",)},
        {"allowed_hosts": ("",)},
        {"allowed_hosts": ("[2001:db8::1]",)},
    ],
)
def test_a_site_that_no_request_could_name_is_refused(docs, given):
    [(name, values)] = given.items()
    shown = {"cors": "cors", "allowed_hosts": "allow_host"}[name]
    with pytest.raises(ArgumentError) as refused:
        ServeSettings({"docs": docs}, **given)
    assert str(refused.value).startswith(f"{shown}={values[-1]!r} is no ")
    fine = {
        "cors": ("https://site.example", "http://[::1]:80"),
        "allowed_hosts": ("Search.example", "2001:db8::1"),
    }
    ServeSettings({"docs": docs}, **fine)


@pytest.mark.slow
def test_pages_of_this_server_and_of_sites_that_were_named_may_ask(serve, docs):
    client = serve({"docs": docs}, cors=("https://site.example",))
    assert client.get(URL, headers={"origin": "http://localhost"}).status_code == 200
    site = {"origin": "https://site.example"}
    answer = client.post(f"{URL}/search", json={"query": "x"}, headers=site)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, site["origin"])
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert client.options(f"{URL}/search", headers=site | wanted).status_code == 200
    foreign = client.options(f"{URL}/search", headers={"origin": "https://evil.example"} | wanted)
    assert foreign.status_code == 400
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        None,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer é",
    ],
)
def test_without_the_token_nothing_is_told(guarded, given):
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    for path in (
        "/v1/indexes",
        URL,
        f"{URL}/search?q=x",
        f"{URL}/documents/heart",
        "/metrics",
        "/openapi.json",
        "/no",
    ):
        answer = guarded.get(path, headers=headers)
        assert "send the header Authorization: Bearer TOKEN" in detail(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    detail(guarded.post("/v2/rerank", json={"query": "q", "documents": []}, headers=headers), 401)
    for path in ("/healthz", "/", "/page/app.js"):
        assert guarded.get(path, headers=headers).status_code == 200


def test_with_the_token_all_is_served(guarded):
    for scheme in ("Bearer", "bearer"):
        assert guarded.get(URL, headers={"authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_a_token_of_the_environment(serve, docs, monkeypatch):
    monkeypatch.setenv("LATEWOOD_TOKEN", TOKEN)
    client = serve({"docs": docs}, host="0.0.0.0")
    detail(client.get(URL, headers={"host": "any.example"}), 401)
    ours = {"host": "any.example", "authorization": f"Bearer {TOKEN}"}
    assert client.get(URL, headers=ours).status_code == 200


def test_beyond_this_machine_a_token_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("LATEWOOD_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "search.example"):
        with pytest.raises(
            ArgumentError, match="can be reached from other machines; pass --token-file FILE, set "
        ):
            ServeSettings(host=host)
        assert ServeSettings(host=host, auth=False).token is None
    for host in ("127.0.0.1", "::1", "localhost"):
        assert ServeSettings(host=host).loopback
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "odd").write_bytes(b"\xff\xfe\xff")
    for name, told in (("empty", "is empty"), ("none", "No such file"), ("odd", "it is no text")):
        with pytest.raises(ArgumentError, match=told):
            ServeSettings(token_file=str(tmp_path / name))


def test_every_answer_has_the_policy_of_the_page(client):
    for path in ("/", "/page/app.js", URL, "/no", "/healthz"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-cache"
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.slow
@pytest.mark.parametrize(
    "doc_id", ["../secret", "../../etc/passwd", "a/../../b", "..", "/etc/passwd", "a\\..\\b"]
)
def test_dots_in_a_document_id_are_only_an_id(serve, tmp_path, encoder, doc_id):
    (tmp_path / "secret").write_text("secret")
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([{"doc_id": doc_id, "text": "the text"}])
    client = serve({"docs": tmp_path / "x"})
    path = quote(doc_id, safe="").replace(".", "%2E")  # clients take dots out that stand as they are
    found = client.get(f"{URL}/documents/{path}").json()
    assert found == {"doc_id": doc_id, "text": "the text", "metadata": {}}
    assert "there is no document" in detail(client.get(f"{URL}/documents/%2E%2E%2Fsecrets"), 404)


@pytest.mark.parametrize(
    "path", ["../settings.py", "..%2fsettings.py", "%2e%2e/settings.py", "../../cli/serve.py", "nope.js"]
)
def test_only_files_of_the_page_are_read(client, path):
    assert client.get(f"/page/{path}").status_code == 404


@pytest.mark.slow
def test_ten_megabytes_are_refused(client):
    body = json.dumps({"query": "x" * 10_000_000}).encode()
    headers = {"content-type": "application/json"}
    told = detail(client.post(f"{URL}/search", content=body, headers=headers), 413)
    assert told == "the body has more than 4,000,000 bytes; send less at a time"

    def pieces():
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    assert detail(client.post(f"{URL}/search", content=pieces(), headers=headers), 413) == told
    lines = {"content-type": "application/x-ndjson"}  # a large body only where documents may be written
    assert detail(client.post(f"{URL}/search", content=pieces(), headers=lines), 413) == told
    detail(client.post(f"{URL}/documents", content=pieces(), headers=lines), 403)


@pytest.mark.slow
async def test_a_body_that_does_not_come_is_not_waited_for(docs):
    """As a client sends it that stops in the middle."""
    import anyio

    from retriever.serving import create_app

    app = create_app(ServeSettings({"docs": docs}, limits=Limits(timeout=0.2)))
    headers = {b"host": b"localhost", b"content-type": b"application/json", b"content-length": b"1000"}
    scope = {"type": "http", "method": "POST", "path": f"{URL}/search", "query_string": b"", "root_path": ""}
    scope |= {"http_version": "1.1", "scheme": "http", "headers": list(headers.items()), "server": None}
    parts, sent = [b'{"query": "x'], []

    async def receive():
        if not parts:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": parts.pop(), "more_body": True}

    async def send(message):
        sent.append(message)

    async with app.router.lifespan_context(app):
        with anyio.fail_after(10):
            await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["detail"] == "the body did not come within 0.2 s; send it faster"


def test_what_strangers_wrote_comes_back_as_json(client):
    answer = client.get(f"{URL}/documents/{quote('<b>')}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["text"] == "A <script>alert('x')</script> & \"quotes\" of a stranger."
    told = detail(client.get(f"{URL}/documents/{quote('<script>alert(1)</script>')}"), 404)
    assert "<script>" in told  # as JSON, which no browser renders


def test_folders_are_named(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "docs.index").mkdir()
    given = [f"x={tmp_path}", str(tmp_path / "a=b"), str(tmp_path / "docs.index")]
    assert named_folders(given) == {"x": tmp_path, "a=b": tmp_path / "a=b", "docs": tmp_path / "docs.index"}
    with pytest.raises(ArgumentError, match=r"would be served as 'docs', as .* is; give it another name"):
        named_folders([str(tmp_path / "docs.index"), f"docs={tmp_path}"])
    with pytest.raises(ArgumentError, match="the name 'a/b' has a slash"):
        named_folders([f"a/b={tmp_path / 'nope'}"])
