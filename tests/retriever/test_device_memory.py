"""An index that is larger than the memory of a device, by a limit on "cpu"."""

import weakref

import numpy as np
import pytest
import torch

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing import Index
from retriever import Searcher, SearchOptions
from retriever.ranking import device as on_device
from tests.helpers.syncs import no_sync
from tests.retriever.test_searcher import DIM, unit

LINE = r"x needs {:,} bytes on cpu, which has {:,} free"


@pytest.fixture(scope="module", params=["compressed", "flat"])
def folder(request, tmp_path_factory):
    """Five segments of one kind."""
    random = np.random.default_rng(8)
    path = tmp_path_factory.mktemp("memory") / "x"
    trained = 1000 if request.param == "compressed" else 10**6
    with Index.create(path, dim=DIM, flat_tokens=trained, segment_tokens=trained) as index:
        for first in range(0, 450, 90):
            vectors = TokenEmbeddings.from_list([unit(random, 12) for _ in range(90)], DIM)
            index.add_embeddings([f"p{i}" for i in range(first, first + 90)], vectors)
        with index.snapshot() as now:
            assert [segment.kind for segment in now.segments] == 5 * [request.param]
    return path


def sizes(snapshot):
    """Bytes of each segment on a device: where passages begin, and of a token 4 and its code, or float16."""
    return [
        8 * (s.n_passages + 1) + s.n_tokens * (2 * DIM if s.kind == "flat" else 4 + snapshot.codec.m + 1)
        for s in snapshot.segments
    ]


def limited(monkeypatch, limit):
    monkeypatch.setattr(on_device, "room", lambda device: limit)


def test_what_has_no_room_for_one_segment_after_another_is_refused_with_its_bytes(folder, monkeypatch):
    with Searcher.open(folder) as searcher:
        own = sizes(searcher.snapshot)
    limit = int(2 * max(own) / on_device.SPARE) - 2
    limited(monkeypatch, limit)
    line = LINE.format(sum(own), limit) + r"; leave out device=\.\.\. to search on the processor$"
    with pytest.raises(ArgumentError, match=line):
        Searcher.open(folder, device="cpu")


def test_what_has_room_for_all_holds_all(folder, monkeypatch):
    with Searcher.open(folder) as searcher:
        limited(monkeypatch, int(sum(sizes(searcher.snapshot)) / on_device.SPARE) + 2)
    with Searcher.open(folder, device="cpu") as searcher:
        assert len(searcher._ranker.device._here) == 5


@pytest.mark.parametrize("knobs", [{}, {"nprobe": 4, "ncandidates": 60, "nrerank": 20}])
def test_what_has_room_for_some_copies_the_others_anew_and_finds_the_same(folder, monkeypatch, knobs):
    random = np.random.default_rng(1)
    queries = [unit(random, n) for n in (8, 1, 30)]
    with Searcher.open(folder, device="cpu") as whole:
        own, index = sizes(whole.snapshot), whole._ranker.device
        plan = whole._ranker.plan(SearchOptions(k=10, mode="late", **knobs), 2.0)
        together = index.search_many(queries, plan, fold=True)
        exact = [index.scores(query, plan) for query in queries]
    limit = int(3 * max(own) / on_device.SPARE) + 2
    limited(monkeypatch, limit)
    make, alive, most = on_device.DeviceIndex._part, [], 0

    def counted(index, segment):
        nonlocal most
        part = make(index, segment)
        for tensor in (part.offsets, part.vectors, part.ids, part.codes):
            if tensor is not None and all(other() is not tensor for other in alive):
                alive.append(weakref.ref(tensor))
        most = max(most, sum(tensor().nbytes for tensor in alive if tensor() is not None))
        return part

    monkeypatch.setattr(on_device.DeviceIndex, "_part", counted)
    line = LINE.format(sum(own), limit) + ": each search copies 4 of 5 segments there anew; leave out device"
    with pytest.warns(RuntimeWarning, match=line):
        searcher = Searcher.open(folder, device="cpu")
    with searcher:
        index, ranker = searcher._ranker.device, searcher._ranker
        plan = ranker.plan(SearchOptions(k=10, mode="late", **knobs), 2.0)
        assert list(index._here) == list(searcher.snapshot.segments[:1])
        for _ in range(3):  # never by a recording, which would hold what it was made with
            with no_sync(copies=len(queries)):  # of what was found; none for a segment that comes
                found = [index.search(query, plan, fold=True) for query in queries]
        with no_sync(copies=1):
            found += index.search_many(queries, plan, fold=True)
        for (pids, scores), (expected_pids, expected) in zip(found, together * 2, strict=True):
            np.testing.assert_array_equal(pids, expected_pids)
            torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), atol=1e-5, rtol=0)
        with no_sync(copies=len(queries)):
            scores = [index.scores(query, plan) for query in queries]
        np.testing.assert_allclose(scores, exact, atol=1e-5)
    assert max(own) < most <= on_device.SPARE * limit
