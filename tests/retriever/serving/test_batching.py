"""Many at once: batches, a queue with an end, and nothing done for those who have gone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from encoder import threads
from retriever import Searcher
from retriever.searcher import Seconds
from retriever.serving import Limits, ServeSettings, create_app
from retriever.serving.batching import Batcher, Threads
from retriever.serving.errors import ProblemError
from retriever.serving.indexes import Served
from tests.retriever.serving.conftest import detail


class Slow:
    """Answers n by 2 n when it is let go; remembers what it was asked together."""

    def __init__(self):
        self.asked, self.go, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.asked.append(list(items))
        self.begun.set()
        assert self.go.wait(10)
        if "fail" in items:
            raise ValueError("one of them failed")
        return [2 * item for item in items]


async def test_what_arrives_while_a_batch_runs_is_the_next():
    slow, found = Slow(), {}
    batcher = Batcher(slow, waiting=100, seconds=0)

    async def ask(*items):
        found[items] = await batcher.ask(items)

    async with anyio.create_task_group() as group:
        await group.start(batcher.run)
        group.start_soon(ask, 1)
        await anyio.to_thread.run_sync(slow.begun.wait)
        for n in range(2, 30):
            group.start_soon(ask, n, -n)
        await anyio.sleep(0.05)
        slow.go.set()
        while len(found) < 29:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert found == {(1,): [2]} | {(n, -n): [2 * n, -2 * n] for n in range(2, 30)}
    assert [len(one) for one in slow.asked] == [1, 16, 16, 16, 8]


@pytest.mark.slow
async def test_the_first_waits_for_others_a_little():
    slow = Slow()
    slow.go.set()
    batcher = Batcher(slow, waiting=100, seconds=0.2)
    async with anyio.create_task_group() as group:
        await group.start(batcher.run)
        async with anyio.create_task_group() as clients:
            for n in range(5):
                clients.start_soon(batcher.ask, [n])
        group.cancel_scope.cancel()
    assert sorted(slow.asked[0]) == [0, 1, 2, 3, 4]


@pytest.mark.slow
async def test_a_full_queue_is_503_and_who_leaves_is_left_out():
    slow = Slow()
    batcher = Batcher(slow, waiting=2, seconds=0)
    async with anyio.create_task_group() as group:
        await group.start(batcher.run)
        group.start_soon(batcher.ask, ["a"])
        await anyio.to_thread.run_sync(slow.begun.wait)
        with anyio.move_on_after(0.05):
            await batcher.ask(["gone"])
        group.start_soon(batcher.ask, ["b"])
        await anyio.sleep(0.05)
        with pytest.raises(ProblemError, match="2 requests wait already") as refused:
            await batcher.ask(["c"])
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "1"})
        slow.go.set()
        assert list(await batcher.ask(["d"]) if batcher.waiting < 2 else []) in (["dd"], [])
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert "gone" not in [item for batch in slow.asked for item in batch]
    assert "b" in [item for batch in slow.asked for item in batch]


async def test_an_error_is_everybodys_of_the_batch_and_the_next_goes_on():
    slow = Slow()
    slow.go.set()
    batcher = Batcher(slow, waiting=10, seconds=0)
    async with anyio.create_task_group() as group:
        await group.start(batcher.run)
        with pytest.raises(ValueError, match="one of them failed"):
            await batcher.ask(["fail"])
        assert list(await batcher.ask(["x"])) == ["xx"]
        group.cancel_scope.cancel()


@pytest.mark.slow
async def test_threads_have_a_queue_with_an_end_and_stop_when_nobody_waits():
    threads, go, done = Threads(1, waiting=1), threading.Event(), []

    def work():
        for i in range(1000):
            anyio.from_thread.check_cancelled()
            done.append(i)
            time.sleep(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, lambda: go.wait(5))
        await anyio.sleep(0.05)
        group.start_soon(threads.run, lambda: done.append("second"))
        await anyio.sleep(0.05)
        with pytest.raises(ProblemError, match="1 requests wait already"):
            await threads.run(work)
        go.set()
    assert done == ["second"]
    with anyio.move_on_after(0.1):
        await threads.run(work)
    assert 1 < len(done) < 100


def test_batches_side_by_side_share_the_processors(docs, encoder, monkeypatch):
    begun, go, seen = threading.Event(), threading.Event(), []
    monkeypatch.setattr(threads, "_of_the_process", lambda: 8)
    with Searcher.open(docs, encoder) as searcher, ThreadPoolExecutor(2) as pool:

        def search_each(asked):
            seen.append(threads.thread_count())
            begun.set()
            assert go.wait(10)
            return [], Seconds(0.0, 0.0)

        monkeypatch.setattr(searcher, "search_each", search_each)
        served = Served("docs", searcher)
        first = pool.submit(served.search, [])
        assert begun.wait(10)
        second = pool.submit(served.search, [])
        while len(seen) < 2:
            time.sleep(0.001)
        go.set()
        first.result()
        second.result()
        served.search([])
    assert seen == [8, 4, 8]
    assert threads.thread_count() == 8


@pytest.mark.slow
def test_it_is_told_when_all_is_loaded(docs):
    from starlette.testclient import TestClient

    ready = threading.Event()
    app = create_app(ServeSettings({"docs": docs}), ready=ready.set)
    with TestClient(app, "http://localhost") as client:
        assert ready.wait(60)
        assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_search_that_takes_too_long_is_503(serve, docs, monkeypatch):
    client = serve({"docs": docs}, limits=Limits(timeout=0.2))
    ordinary = Searcher.search_each
    monkeypatch.setattr(Searcher, "search_each", lambda *a: time.sleep(0.6) or ordinary(*a))
    answer = client.post("/v1/indexes/docs/search", json={"query": "x"})
    assert detail(answer, 503) == "no answer within 0.2 s; ask for less at a time, or try again"
    assert answer.headers["retry-after"] == "1"
    monkeypatch.undo()
    late = time.monotonic() + 20  # a busy machine takes longer than 0.2 s, too
    while client.post("/v1/indexes/docs/search", json={"query": "x"}).status_code != 200:
        assert time.monotonic() < late


@pytest.mark.slow
def test_many_clients_of_different_options_get_their_own_answers(serve, docs, encoder):
    client = serve({"docs": docs}, limits=Limits(batch_ms=20))
    asked = [
        {"query": f"{word} {i}", "k": 1 + i % 3, "mode": mode}
        for i in range(20)
        for word in ("blood", "bank")
        for mode in ("late", "lexical", "hybrid")
    ]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: client.post("/v1/indexes/docs/search", json=one).json(), asked))
    with Searcher.open(docs, encoder) as searcher:
        for one, answer in zip(asked, answers, strict=True):
            hits = searcher.search(one["query"], k=one["k"], mode=one["mode"])
            assert [(h["doc_id"], h["score"]) for h in answer["hits"]] == [
                (h.doc_id, pytest.approx(h.score, abs=1e-4)) for h in hits
            ]
    metrics = client.get("/metrics").text
    batches, queries = (
        float(
            next(x for x in metrics.splitlines() if x.startswith(f"latewood_batch_queries_{name}")).split()[1]
        )
        for name in ("count", "sum")
    )
    assert queries == 121  # and one to warm up
    assert batches < 100


@pytest.mark.slow
def test_metrics_tell_what_was_done(serve, docs):
    client = serve({"docs": docs})
    client.get("/v1/indexes/docs/search", params={"q": "x"})
    client.get("/v1/indexes/nope")
    client.get("/no/such/path")
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    route = 'method="GET",route="/v1/indexes/{name}/search",status="200"'
    assert lines[f"latewood_requests_total{{{route}}}"] == "1.0"
    assert lines['latewood_requests_total{method="GET",route="/v1/indexes/{name}",status="404"}'] == "1.0"
    assert lines['latewood_requests_total{method="GET",route="other",status="404"}'] == "1.0"
    assert lines['latewood_documents{index="docs"}'] == "4.0"
    assert lines['latewood_unencoded{index="docs"}'] == "0.0"
    assert lines['latewood_waiting{queue="search docs"}'] == "0.0"
    assert float(lines['latewood_seconds_count{stage="search"}']) == 2
