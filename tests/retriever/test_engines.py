"""A search by numpy alone against plain loops, against brute force, and against the compiled kernels."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.maxsim import maxsim_arrays
from indexing import Index
from indexing.coding.sizes import id_bytes
from indexing.storage.segment import invert
from retriever import Searcher, SearchOptions
from retriever.ranking import engines, ranker
from retriever.ranking.engines import Compiled, Plain
from tests.helpers.fakes import FakeEncoder
from tests.retriever.test_kernels import by_reference, make, rounding

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 7, 40]), min_size=1, max_size=12)


def segment_of(codec, ids, packed, offsets):
    """What engines ask of a segment."""
    width = id_bytes(codec.nlist)
    lists = invert(packed, np.diff(offsets), codec.nlist)
    residuals = packed[:, width:]
    return SimpleNamespace(
        codes=packed,
        centroid_ids=lambda tokens: ids[tokens],
        residual_codes=residuals,
        offsets=offsets,
        n_tokens=len(packed),
        list_offsets=lists[0],
        list_pids=lists[1],
        passage_offsets=lists[2],
        passage_lists=lists[3],
        lists_at=lambda places: lists[3][places].view("<u2")[:, 0],
        take=lambda tokens, codec: codec.decode(ids[tokens], residuals[tokens]),
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    n_query=st.integers(1, 20),
    lengths=LENGTHS,
    negative=st.booleans(),
    sharpness=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 999),
)
def test_scores_are_those_of_brute_force_and_of_the_kernels(n_query, lengths, negative, sharpness, seed):
    query, codec, ids, packed, offsets = make(seed, n_query=n_query, lengths=lengths, negative=negative)
    segment, every = segment_of(codec, ids, packed, offsets), np.arange(len(lengths))
    plain, fast = (engine(query, codec, sharpness) for engine in (Plain, Compiled))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "TOKENS_AT_ONCE", 16)  # several blocks
        found = plain.by_codes([segment, segment], [every, every[:1]])
        near = plain.by_centroids([segment], [every])
    expected = by_reference(query, codec, ids, packed, offsets, sharpness)
    np.testing.assert_allclose(found, [*expected, expected[0]], rtol=1e-5, atol=1e-4)
    close = rounding(fast._tables, codec.m, 2.4)
    np.testing.assert_allclose(found[:-1], fast.by_codes([segment], [every]), atol=close)
    centroids = maxsim_arrays(codec.rotated(query), codec.centroids[ids], offsets, sharpness)
    np.testing.assert_allclose(near, centroids, rtol=1e-5, atol=1e-4)
    whole = fast._kernels.interaction(fast._tables, codec.code_bytes, [(packed, offsets, every)])
    np.testing.assert_array_equal(fast.by_centroids([segment], [every]), whole)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    n_query=st.integers(1, 12),
    lengths=LENGTHS,
    nprobe=st.integers(1, 60),
    sharpness=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 999),
)
def test_lists_say_the_same_as_to_the_kernels(n_query, lengths, nprobe, sharpness, seed):
    query, codec, ids, packed, offsets = make(seed, n_query=n_query, lengths=lengths)
    segment = segment_of(codec, ids, packed, offsets)
    live = np.random.default_rng(seed).random(len(lengths)) < 0.8
    found, scores = Plain(query, codec, sharpness).in_lists([segment, segment], nprobe, [live, ~live])
    theirs, expected = Compiled(query, codec, sharpness).in_lists([segment, segment], nprobe, [live, ~live])
    for ours, passages in zip(found, theirs, strict=True):
        np.testing.assert_array_equal(ours, passages)
    np.testing.assert_allclose(scores, expected, atol=1e-3 * n_query)


def test_damaged_files_name_nothing_outside():
    query, codec, ids, packed, offsets = make(0, n_query=4, lengths=[3, 5, 2])
    segment = segment_of(codec, ids, packed, offsets)
    segment.offsets = np.array([0, 900, -4, 10])
    segment.passage_offsets = np.array([0, 900, -4, 10])
    segment.lists_at = lambda places: np.full(len(places), 10**6)
    segment.list_offsets = np.where(np.arange(codec.nlist + 1) % 2, -5, 999)
    segment.list_pids = np.full(len(segment.list_pids), 77, np.int32)
    segment.take = lambda tokens, codec: np.zeros((len(tokens), codec.dim), np.float32)
    plain, fast, every = Plain(query, codec, 0.0), Compiled(query, codec, 0.0), np.arange(3)
    passages, scores = plain.in_lists([segment], 50, [np.ones(3, np.bool_)])
    assert len(passages[0]) == len(scores) == 0
    for one in (plain.by_centroids, plain.by_codes, fast.by_centroids, fast.by_codes):
        assert len(one([segment], [every])) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once") / "x"
    words = ["heart", "blood", "bank", "rate", "river", "sea", "star", "moon", "tree", "leaf"]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 12)) for _ in range(300)]
    with Index.create(folder, FakeEncoder(), flat_tokens=300) as index:
        index.add(
            {"doc_id": f"d{i}", "text": text, "metadata": {"even": i % 2 == 0}}
            for i, text in enumerate(texts)
        )
        index.delete([f"d{i}" for i in range(0, 300, 7)])
        assert {segment.kind for segment in index.snapshot().segments} == {"compressed"}
    return folder


@pytest.mark.parametrize("knobs", [{}, {"nprobe": 8, "ncandidates": 60, "nrerank": 30}])
@pytest.mark.parametrize("filter", [None, "even = true"])
def test_a_search_finds_what_the_kernels_find(folder, knobs, filter):
    options = SearchOptions(k=10, filter=filter, **knobs)
    with (
        Searcher.open(folder, FakeEncoder()) as fast,
        Searcher.open(folder, FakeEncoder(), once=True) as plain,
    ):
        for query in ("heart blood", "bank rate river", "star moon tree leaf sea"):
            theirs, ours = fast.search(query, options), plain.search(query, options)
            np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=2e-2)
            least = min(hit.score for hit in theirs) + 2e-2
            assert {h.doc_id for h in theirs if h.score > least} <= {h.doc_id for h in ours}
        assert plain.reload() is False


@pytest.mark.slow
def test_kernels_are_loaded_while_numpy_answers(folder, monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    def slow_to_load(*arguments):
        loading.set()
        assert go_on.wait(60)
        return compiled(*arguments)

    compiled = ranker.Compiled
    monkeypatch.setattr(ranker, "Compiled", slow_to_load)
    with Searcher.open(folder, FakeEncoder(), once=True) as searcher:
        before = searcher.search("heart blood", k=3)
        thread = threading.Thread(target=searcher.load_kernels)
        thread.start()
        assert loading.wait(60)
        assert searcher.search("heart blood", k=3) == before
        go_on.set()
        thread.join()
        monkeypatch.setattr(ranker, "Plain", None)  # so that asking it would fail
        assert {hit.doc_id for hit in searcher.search("heart blood", k=3)} == {hit.doc_id for hit in before}


@pytest.mark.slow
def test_it_imports_no_numba(folder):
    code = (
        "import sys; from retriever import Searcher; from tests.helpers.fakes import FakeEncoder\n"
        f"found = Searcher.open({str(folder)!r}, FakeEncoder(), once=True).search('heart', k=3)\n"
        "assert len(found) == 3 and not {'numba', 'retriever.kernels'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
