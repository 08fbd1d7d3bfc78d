"""`latewood cluster serve` on a Ray of its own, against the server of one process: answers, failures, new versions."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from encoder.light import LightEncoder
from indexing import Index
from indexing.storage.sharded import shard_of
from indexing.writing.shards import publish
from retriever.serving import ServeSettings, create_app

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parent.parent.parent.parent
PLACES = ["river", "sea", "hill", "town"]
THINGS = ["bridge", "boat", "mill", "market", "tower"]
QUERY = "a boat at sea"


def text_of(n):
    return f"The old {THINGS[n % 5]} by the {PLACES[n % 4]} was built in {1800 + n}."


def make(folder, texts):
    with Index.create(folder, LightEncoder.load(), shards=2) as index:
        index.add({"doc_id": f"d{n}", "text": t, "metadata": {"n": n}} for n, t in texts.items())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cluster") / "docs", {n: text_of(n) for n in range(40)})


@pytest.fixture(scope="module")
def cluster(folder, tmp_path_factory):
    """Its URL and process; two replicas a shard."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("log") / "log").open("w+")
    command = [sys.executable, "-m", "retriever.cli", "cluster", "serve", folder, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--address", "local", "--replicas", "2", "--patience", "5"],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        log.seek(0)
        assert "serving on" in lines[1], log.read()
        while httpx.get(f"http://127.0.0.1:{port}/readyz").status_code != 200:
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
        started = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        log.seek(0)
        assert (process.stdout.read(), log.read()) == (
            "",
            "",
        )  # nothing of what Ray says of processes that die
        until = time.monotonic() + 10
        while (
            left := [pid for pid in started if Path(f"/proc/{pid}").exists()]
        ) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left
    finally:
        process.kill()
        process.stdout.close()
        log.close()


def descendants(of):
    """{pid: title} of the processes that a process has started, and of those that these have."""
    parents, titles = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    found = {of}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: titles.get(pid, "") for pid in found - {of}}


def replicas(process, shard):
    return [
        pid for pid, title in descendants(process.pid).items() if f"ServeReplica:latewood:{shard}" in title
    ]


def search(url, **asked):
    answer = httpx.post(
        f"{url}/v1/indexes/docs/search", json={"query": QUERY, "text": False} | asked, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def scores(hits):
    return {hit["doc_id"]: hit["score"] for hit in hits}


def test_answers_are_those_of_the_server_of_one_process(cluster, folder):
    url, _ = cluster
    asked = [
        {"mode": "late", "k": 7},
        {"mode": "late", "by": "passage"},
        {"mode": "lexical", "k": 30},
        {"mode": "hybrid", "k": 40},
        {"mode": "hybrid", "filter": "n >= 20", "text": True, "explain": True},
    ]
    with TestClient(create_app(ServeSettings({"docs": folder})), "http://localhost") as alone:
        for body in asked:
            given = search(url, **body)
            answer = alone.post("/v1/indexes/docs/search", json={"query": QUERY, "text": False} | body).json()
            for one in (given, answer):
                del one["seconds"]
            assert given == answer
        for path in ("", "/docs", "/docs/documents/d7", "/none"):
            answer, given = alone.get(f"/v1/indexes{path}"), httpx.get(f"{url}/v1/indexes{path}")
            assert (given.status_code, given.json()) == (answer.status_code, answer.json())
        assert httpx.get(url).text == alone.get("/").text
        wrong = {"query": QUERY, "filter": "nobody = 1"}
        given, answer = (
            httpx.post(f"{url}/v1/indexes/docs/search", json=wrong),
            alone.post("/v1/indexes/docs/search", json=wrong),
        )
        assert (given.status_code, given.json()) == (answer.status_code, answer.json())


def test_no_request_fails_while_a_replica_dies_and_a_version_is_published(cluster, folder):
    """Each answer is whole, of the old version or of the new one."""
    url, process = cluster
    make(folder.parent / "other", {n: text_of(n) for n in range(0, 40, 2)} | {100: "A boat at sea."})
    known = search(url, k=50, mode="late")["hits"]
    answers, ending = [], threading.Event()

    def client():
        while not ending.is_set():
            answers.append(search(url, k=50, mode="late"))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    time.sleep(0.5)
    os.kill(replicas(process, "shard-001")[0], signal.SIGKILL)
    time.sleep(1.5)
    (folder.parent / "other" / "v0001").rename(folder / "v0002")
    publish(folder, 2, 2)
    time.sleep(1.5)
    ending.set()
    for one in clients:
        one.join()
    new = search(url, k=50, mode="late")["hits"]
    assert len(known) == 40
    assert len(new) == 21
    assert new[0]["doc_id"] == "d100"
    assert all("partial" not in answer for answer in answers)
    assert {len(answer["hits"]) for answer in answers} == {40, 21}
    whole = {len(hits): scores(hits) for hits in (known, new)}
    for answer in answers:  # queries that are encoded together differ in the last bits
        assert scores(answer["hits"]) == pytest.approx(whole[len(answer["hits"])], abs=1e-4)


def test_without_a_shard_the_answer_says_so_until_it_is_back(cluster):
    url, process = cluster
    whole = search(url, k=50, mode="late")["hits"]
    done = threading.Event()

    def kill():
        while not done.is_set():
            for victim in replicas(process, "shard-001"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            done.wait(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    answer = search(url, k=50, mode="late")
    done.set()
    killer.join()
    assert answer["partial"] is True
    assert answer["missing"] == ["v0002/001"]
    rest = {doc_id: score for doc_id, score in scores(whole).items() if shard_of(doc_id, 2) != 1}
    assert scores(answer["hits"]) == rest
    until = time.monotonic() + 60
    while "partial" in search(url, k=50, mode="late") and time.monotonic() < until:
        time.sleep(0.2)
    assert search(url, k=50, mode="late")["hits"] == whole
