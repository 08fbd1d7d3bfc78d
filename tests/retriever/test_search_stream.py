"""Many queries: streamed, side by side, and from several threads; always as one search after another."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from encoder import Encoder
from encoder.errors import ArgumentError
from indexing import Index
from retriever import Searcher
from retriever.kernels import compiling
from retriever.searcher import QUERIES_AT_ONCE
from tests.helpers.fakes import FakeEncoder


@pytest.fixture(scope="module", params=["compressed", "flat"])
def searcher(request, tmp_path_factory):
    encoder = FakeEncoder(dim=16)
    folder = tmp_path_factory.mktemp("stream") / "x"
    random = np.random.default_rng(0)
    with Index.create(folder, encoder, flat_tokens=500 if request.param == "compressed" else 10**6) as index:
        index.add(
            {"doc_id": f"d{i}", "text": " ".join(f"w{j}" for j in random.integers(0, 200, 12))}
            for i in range(200)
        )
    with Searcher.open(folder, encoder) as searcher:
        yield searcher


QUERIES = [f"w{i} w{i * 7 % 200} w{i * 31 % 200}" for i in range(150)]
FEW = {"k": 5, "nprobe": 4, "ncandidates": 50, "nrerank": 20}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_a_stream_is_one_search_after_another(searcher, monkeypatch, threads, mode):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(compiling, "SERIAL_STEPS", 0)
    knobs = FEW if mode == "late" else {"k": 5}
    expected = [searcher.search(text, mode=mode, **knobs) for text in QUERIES]
    assert list(searcher.search_stream(enumerate(QUERIES), mode=mode, **knobs)) == list(enumerate(expected))
    assert searcher.search_many(dict(enumerate(QUERIES)), mode=mode, **knobs) == dict(enumerate(expected))


def test_a_stream_takes_no_more_than_it_must(searcher):
    taken = itertools.count()
    endless = ((next(taken), QUERIES[i % 150]) for i in itertools.count())
    stream = searcher.search_stream(endless, k=1)
    assert next(taken) == 0  # nothing was read yet
    found = list(itertools.islice(stream, 10))
    assert [qid for qid, _ in found] == list(range(1, 11))
    assert next(taken) <= QUERIES_AT_ONCE + 2


def test_mistakes_are_told_before_the_first_result(searcher):
    with pytest.raises(ArgumentError, match="k=0"):
        searcher.search_stream(enumerate(QUERIES), k=0)
    for wrong in (QUERIES, [("a", 1)], [("a", "b", "c")]):
        with pytest.raises(ArgumentError, match="pairs"):
            list(searcher.search_stream(wrong))


@pytest.mark.slow
def test_eight_threads_find_what_one_does(searcher, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiling, "SERIAL_STEPS", 0)

    def search(text):
        return searcher.search(text, **FEW), searcher.search(text, mode="hybrid", k=5)

    expected = [search(text) for text in QUERIES]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(search, QUERIES)) == expected
        batches = list(pool.map(lambda _: searcher.search_many(enumerate(QUERIES), **FEW), range(8)))
    assert all(list(batch.values()) == [late for late, _ in expected] for batch in batches)


@pytest.mark.slow
def test_asyncio_finds_what_one_thread_does(searcher):
    expected = [searcher.search(text, **FEW) for text in QUERIES]

    async def together():
        return await asyncio.gather(*(asyncio.to_thread(searcher.search, t, **FEW) for t in QUERIES))

    assert asyncio.run(together()) == expected


@pytest.mark.slow
def test_the_encoder_too_may_be_shared(tmp_path):
    """The bundled model, loaded by whichever of 8 threads comes first."""
    with Index.create(tmp_path / "x", Encoder.load()) as index:
        index.add(
            {"doc_id": str(i), "text": f"{w} is a word"} for i, w in enumerate(["heart", "bank", "code"])
        )
    queries = ["cardiac", "money lender", "a program", "blood"] * 4
    with Searcher.open(tmp_path / "x") as searcher, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda q: searcher.search(q, k=3), queries))
        assert found == [searcher.search(q, k=3) for q in queries]


@pytest.mark.slow
def test_equal_scores_come_in_the_order_of_doc_id(tmp_path):
    encoder = FakeEncoder(dim=16)
    ids = [f"d{i}" for i in np.random.default_rng(1).permutation(60)]
    for name, flat_tokens in (("flat", 10**6), ("compressed", 300)):
        with Index.create(tmp_path / name, encoder, flat_tokens=flat_tokens) as index:
            index.add(
                {"doc_id": i, "text": "same words " * 5 if n % 2 else "other thing " * 5}
                for n, i in enumerate(ids)
            )
        same = sorted(ids[1::2])
        with Searcher.open(tmp_path / name, encoder) as searcher:
            for k in (1, 7, 30):
                assert [h.doc_id for h in searcher.search("same words", k=k)] == same[:k]
            assert [h.doc_id for h in searcher.search("same words", k=60)] == [
                *same,
                *sorted(ids[::2]),
            ]
