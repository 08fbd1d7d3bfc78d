"""`latewood serve` as a process: its start, its end, and what it had acknowledged when it was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from indexing import Index
from tests.retriever.serving.conftest import ROOT, make, running

KILLS = 20


def latewood(*arguments, **environment):
    return subprocess.run(
        [
            sys.executable,
            *environment.pop("options", ()),
            "-m",
            "retriever.cli",
            "serve",
            *map(str, arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_help_imports_neither_torch_nor_the_server():
    done = latewood("--help", options=("-X", "importtime"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "--max-waiting" in done.stdout
    assert not {"torch", "numba", "faiss", "fastapi", "starlette", "uvicorn", "transformers"} & loaded


@pytest.mark.slow
def test_the_first_answer_comes_soon_and_without_torch(docs):
    started = time.monotonic()
    with running(docs) as (url, process):
        answer = httpx.get(f"{url}/v1/indexes/docs/search", params={"q": "blood", "k": 1})
        seconds = time.monotonic() - started
        assert [hit["doc_id"] for hit in answer.json()["hits"]] == ["heart"]
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    # 2 s on an idle core; others may be busy, so this only tells of something that became much slower
    assert seconds < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/no/such/index"], "/no/such/index"),
        (["DOCS", "docs=DOCS"], "would be served as 'docs'"),
        (["DOCS", "--host", "0.0.0.0"], "can be reached from other machines; pass --token-file FILE"),
        (
            ["DOCS", "--token-file", "/no/such/file"],
            "token_file='/no/such/file' cannot be read: No such file",
        ),
        (["DOCS", "--host", "203.0.113.7", "--no-auth"], "cannot listen on 203.0.113.7 port 8000: "),
        (["DOCS", "--max-k", "0"], "--max-k"),
        (["DOCS", "--device", "cuda:99"], "cuda:99"),
        (["DOCS", "--processes", "2", "--writable"], "processes=2 with writable=True; one process writes"),
        ([".", "--processes", "2"], ". is no index, which alone several processes serve"),
    ],
)
def test_what_cannot_be_served_is_a_line(docs, arguments, told):
    done = latewood(*(one.replace("DOCS", str(docs)) for one in arguments), LATEWOOD_TOKEN="", TERM="dumb")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_a_line(docs):
    with running(docs) as (url, _):
        done = latewood(docs, "--port", url.rpartition(":")[2])
    assert (done.returncode, done.stdout) == (2, "")
    assert "Address already in use; pass another --host or --port" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_an_extra_that_is_not_installed_is_a_line(docs, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['latewood', 'serve', {str(docs)!r}]\n"
    code += "from retriever.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"latewood: serve needs {missing}, which is not installed; pip install 'latewood[serve]'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_when_what_runs_is_answered(docs, sent, code):
    texts = [f"The heart pumps blood, number {i}. " * 20 for i in range(60)]
    asked = {"query": "blood", "texts": texts}
    with running(docs) as (url, process):
        answers = []

        def ask():
            answers.append(httpx.post(f"{url}/v1/indexes/docs/rerank", json=asked, timeout=60))

        client = threading.Thread(target=ask)
        client.start()
        while 'queue="other"' not in (text := httpx.get(f"{url}/metrics").text) or "rerank" in text:
            time.sleep(0.01)
        time.sleep(0.3)  # it has begun
        process.send_signal(sent)
        client.join(60)
        assert process.wait(30) == code
    assert [answer.status_code for answer in answers] == [200]
    assert len(answers[0].json()["results"]) == 60


def looks_at_health(url):
    """How many the process has answered that answers a new connection."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("latewood_requests_total") and "/healthz" in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.mark.slow
def test_several_processes_answer_at_one_port_and_see_what_is_committed(docs, encoder, tmp_path):
    folder = shutil.copytree(docs, tmp_path / "docs.index")
    with running(folder, "--processes", "2") as (url, process):
        for _ in range(40):  # the system deals connections by their ports
            assert httpx.get(f"{url}/healthz").status_code == 200
        assert 0 < looks_at_health(url) < 40
        deadline = time.monotonic() + 60
        with Index.open(folder, encoder, writable=True) as index:
            index.add([{"doc_id": "new", "text": "A comet came by and was seen by night."}])
        in_a_row = 0
        while in_a_row < 20:
            assert time.monotonic() < deadline
            hits = httpx.get(f"{url}/v1/indexes/docs/search", params={"q": "comet", "k": 1}).json()["hits"]
            in_a_row = in_a_row + 1 if [hit["doc_id"] for hit in hits] == ["new"] else 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.slow
def test_where_one_of_several_processes_dies_the_server_ends(docs):
    with running(docs, "--processes", "2") as (url, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        serving = [
            pid for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        assert len(serving) == 2
        os.kill(int(serving[1]), signal.SIGKILL)
        assert process.wait(30) == 2
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.slow
def test_what_a_client_that_left_asked_for_is_not_done(docs):
    texts = [f"The heart pumps blood, number {i}. " * 40 for i in range(900)]
    with running(docs) as (url, process):
        before = cpu_seconds(process.pid)
        for _ in range(8):  # four threads, and as many that wait
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{url}/v1/indexes/docs/rerank", json={"query": "x", "texts": texts}, timeout=0.3)
        seconds = [before, before + 1]
        while seconds[-1] - seconds[-2] > 0.2:
            time.sleep(1)
            seconds.append(cpu_seconds(process.pid))
            assert seconds[-1] - before < 60  # all of it would take some hundreds
        assert httpx.get(f"{url}/v1/indexes/docs/search", params={"q": "blood"}).status_code == 200


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_kill_9(tmp_path, encoder):
    """A writer by PUT, one by NDJSON and one that deletes; killed at 20 instants. What a request was answered for is
    there, what was not answered is whole or not there, and the next server goes on."""
    folder = make(tmp_path / "docs.index", encoder)
    random = np.random.default_rng(5)
    wanted, uncertain = {}, {}
    for kill in range(KILLS):
        with running(folder, "--writable") as (url, process):
            stop = threading.Event()
            writers = [
                threading.Thread(
                    target=write, args=(f"{url}/v1/indexes/docs", kill, way, (wanted, uncertain), stop)
                )
                for way in ("put", "lines", "delete")
            ]
            for writer in writers:
                writer.start()
            time.sleep(float(random.uniform(0.02, 0.6)))
            process.kill()
            process.wait()
            stop.set()
            for writer in writers:
                writer.join(30)
        with Index.open(folder) as index:
            index.verify()
            found = {doc.doc_id: doc.text for doc in index if doc.doc_id.startswith("k")}
        for doc_id, text in wanted.items():
            allowed = {text, *uncertain.get(doc_id, ())}
            assert found.get(doc_id) in allowed, doc_id
        assert set(found) <= wanted.keys() | uncertain.keys()
        for doc_id in uncertain:
            assert found.get(doc_id) in {wanted.get(doc_id), *uncertain[doc_id]}
            wanted[doc_id] = found.get(doc_id)
        uncertain.clear()
    assert sum(text is not None for text in wanted.values()) > KILLS


def write(url, kill, way, books, stop):
    """Books: what is acknowledged, {doc_id: text, or None for one that is deleted}; what may have happened."""
    wanted, uncertain = books
    with httpx.Client(timeout=30) as client:
        for n in range(10_000):
            ids = [f"k{kill}-{way}-{n}-{i}" for i in range(4 if way == "lines" else 1)]
            steps = [{one: f"text {n} of {one}" for one in ids}]
            if way == "delete":
                steps.append(dict.fromkeys(ids))
            for step in steps:
                for doc_id, text in step.items():
                    uncertain.setdefault(doc_id, set()).update({text, wanted.get(doc_id)})
                try:
                    answer = sent(client, url, way, step)
                except httpx.HTTPError:
                    return
                assert answer.status_code == 200, answer.text
                wanted.update(step)
                for doc_id in step:
                    del uncertain[doc_id]
            if stop.is_set():
                return


def sent(client, url, way, step):
    [(first, text), *_] = step.items()
    if way == "lines":
        lines = "".join(json.dumps({"doc_id": i, "text": t}) + "\n" for i, t in step.items())
        return client.post(
            f"{url}/documents", content=lines, headers={"content-type": "application/x-ndjson"}
        )
    if text is None:
        return client.delete(f"{url}/documents/{first}")
    return client.put(f"{url}/documents/{first}", json={"text": text})
