"""A folder that is served: its index in the cache, answers at once, and what is edited is found soon."""

import os
import time

import pytest

from encoder.errors import ArgumentError
from retriever.folders import Folder, cache_of
from retriever.serving import ServeSettings, create_app
from tests.retriever.test_folders import of_another_model

CODE = {
    "shop/cart.py": 'def add_to_cart(item, cart):\n    """Put an item into the basket."""\n    cart.append(item)\n',
    "shop/login.py": "def check_password(user, password):\n    return user.hash == digest(password)\n",
    **{f"more/m{i}.py": f"def number_{i}():\n    return {i}\n" for i in range(40)},
}


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    for name, text in CODE.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9))
    return tmp_path / "src"


@pytest.fixture
def client(source):
    from starlette.testclient import TestClient

    with TestClient(create_app(ServeSettings({"src": source})), "http://localhost") as client:
        yield client


def soon(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def paths(client, query, **options):
    answer = client.post("/v1/indexes/src/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    return [hit["code"]["path"] for hit in answer.json()["hits"]]


@pytest.mark.slow
def test_a_folder_is_served_encoded_and_followed(client, source):
    info = client.get("/v1/indexes/src").json()
    assert (info["code"], info["writable"], info["documents"]) == (True, False, 42)
    assert paths(client, "put a thing into the basket", k=1) == ["shop/cart.py"]
    soon(lambda: client.get("/v1/indexes/src").json()["unencoded"] == 0)
    (source / "shop" / "rivers.py").write_text("def river_to_sea():\n    return 'water'\n")
    soon(lambda: paths(client, "river", mode="lexical", k=1) == ["shop/rivers.py"])
    soon(lambda: client.get("/v1/indexes/src").json()["unencoded"] == 0)
    assert paths(client, "where does water go", k=1) == ["shop/rivers.py"]
    (source / "shop" / "cart.py").unlink()
    soon(lambda: client.get("/v1/indexes/src").json()["documents"] == 42)
    assert "shop/cart.py" not in paths(client, "put a thing into the basket", k=50)


@pytest.mark.slow
def test_an_index_of_another_model_is_made_anew(source, caplog):
    from starlette.testclient import TestClient

    Folder.open(source).close()
    of_another_model(cache_of(source))
    with TestClient(create_app(ServeSettings({"src": source})), "http://localhost") as client:
        assert paths(client, "put a thing into the basket", k=1) == ["shop/cart.py"]
    assert "made anew" in caplog.text


def test_a_device_is_not_for_folders(source):
    from retriever.serving.indexes import open_indexes

    settings = ServeSettings({"src": source}, device="cpu")
    with (
        pytest.raises(ArgumentError, match="is searched on the processor; leave --device out"),
        open_indexes(settings),
    ):
        pass


@pytest.mark.slow
def test_others_may_search_the_folder_as_well(client, source):
    soon(lambda: client.get("/v1/indexes/src").json()["unencoded"] == 0)
    (source / "new.py").write_text("def volcano():\n    pass\n")
    with Folder.open(source, patience=5.0) as found:
        assert found.index is not None
        assert found.index.folder == cache_of(source)
    soon(lambda: paths(client, "volcano", mode="lexical", k=1) == ["new.py"], 5)


@pytest.mark.slow
def test_a_folder_that_is_gone_is_searched_on(client, source, caplog):
    source.rename(source.parent / "elsewhere")
    soon(lambda: "src: " in caplog.text)
    assert paths(client, "put a thing into the basket", k=1) == ["shop/cart.py"]
    (source.parent / "elsewhere").rename(source)
    soon(lambda: client.get("/v1/indexes/src").json()["unencoded"] == 0)
