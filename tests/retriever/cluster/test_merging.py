"""Shards that rank apart, and a searcher that merges what they say, against a searcher of the same index."""

import numpy as np
import pytest

from encoder.errors import ArgumentError, StorageError
from indexing import Index
from indexing.storage.sharded import open_snapshot, shard_of
from indexing.writing.shards import publish
from retriever import Searcher
from retriever.cluster.asking import Lost
from retriever.cluster.holding import Holder
from retriever.cluster.merging import ClusterSearcher
from retriever.code.search import search_code
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, corpus, record

ENCODER = FakeEncoder(DIM, windows=True)
QUERIES = ["w0", "w1 w2 w3", "w4 w4 w11", "w5 w6 w7 w8 w9 w10", "unknown"]
EVERY = {
    "ncandidates": 1000,
    "nrerank": 1000,
}  # passages; each shard prunes by itself, and so leaves out fewer
WAYS = [
    {"mode": "late", **EVERY},
    {"mode": "late", "by": "passage", **EVERY},
    {"mode": "late", "filter": "n < 50", "nprobe": 1, "ncandidates": 60, "nrerank": 30},
    {"mode": "lexical"},
    {"mode": "lexical", "filter": "n >= 100"},
    {"mode": "hybrid", **EVERY},
    {"mode": "hybrid", "weights": (1.0, 2.0), "filter": "n >= 30", **EVERY},
    {"filter": "n < 0"},
]


def found(searcher, query, k, options):
    return [
        (hit.rank, hit.doc_id, hit.score, hit.text, hit.metadata, hit.passage)
        for hit in searcher.search(query, k=k, **options)
    ]


@pytest.fixture(scope="module", params=[(1, "flat"), (1, "coded"), (4, "flat"), (4, "coded")])
def index(request, tmp_path_factory):
    shards, kind = request.param
    place = tmp_path_factory.mktemp("cluster") / "x"
    limits = {"flat_tokens": 256 if kind == "coded" else 10**9, "window": 6, "overlap": 2}
    with Index.create(place, ENCODER, shards=shards, **limits) as index:
        index.add(corpus(200))
        index.delete(f"d{n}" for n in range(0, 40, 3))
        index.add([record(500, " ".join(WORDS), n=5)], encode=False)
        yield index


@pytest.mark.slow
def test_answers_are_those_of_one_searcher(index):
    with (
        Holder(index.folder) as holder,
        Searcher.open(index.folder, ENCODER) as alone,
        ClusterSearcher(open_snapshot(index.folder), holder.answer, ENCODER) as cluster,
    ):
        for options in WAYS:
            for k in (1, 10, 29):
                for query in QUERIES:
                    assert found(cluster, query, k, options) == found(alone, query, k, options), options
        texts = dict(enumerate(QUERIES))
        assert cluster.search_many(texts, k=5, **EVERY) == alone.search_many(texts, k=5, **EVERY)
        vectors = np.eye(3, DIM, dtype=np.float32)
        assert cluster.search_embeddings(vectors, **EVERY) == alone.search_embeddings(vectors, **EVERY)
        with pytest.raises(ArgumentError, match="nobody"):
            cluster.search("w1", filter="nobody = 1")


@pytest.fixture
def small(tmp_path):
    with Index.create(tmp_path / "x", ENCODER, shards=3) as index:
        index.add(corpus(60))
        yield index


def losing(holder, *lost):
    return lambda asks: [
        Lost.MISSING if ask.shard in lost else answer
        for ask, answer in zip(asks, holder.answer(asks), strict=True)
    ]


def test_an_answer_without_a_shard_says_so(small):
    with (
        Holder(small.folder) as holder,
        Searcher.open(small.folder, ENCODER) as alone,
        ClusterSearcher(open_snapshot(small.folder), losing(holder, 1), ENCODER) as cluster,
    ):
        for mode in ("late", "lexical"):
            hits = cluster.search("w1 w2", k=60, mode=mode)
            rest = [h for h in alone.search("w1 w2", k=60, mode=mode) if shard_of(h.doc_id, 3) != 1]
            assert [(h.doc_id, h.score) for h in hits] == [(h.doc_id, h.score) for h in rest]
            assert hits.missing == ("v0001/001",)
            for options in ({}, {"plain": True}):
                assert search_code(cluster, "w1", mode=mode, **options).missing == ("v0001/001",)
        assert alone.search("w1").missing == ()


def test_shards_that_must_answer_are_named_in_the_refusal(small):
    def refused(lost, **options):
        with (
            Holder(small.folder) as holder,
            ClusterSearcher(
                open_snapshot(small.folder), losing(holder, *lost), ENCODER, **options
            ) as cluster,
            pytest.raises(StorageError) as refusal,
        ):
            cluster.search("w1")
        return str(refusal.value)

    assert "1 of 3 shards do not answer (v0001/002)" in refused([2], all_shards=True)
    assert "3 of 3 shards" in refused([0, 1, 2])


def test_a_search_moves_to_what_has_been_committed_meanwhile(small):
    with (
        Holder(small.folder) as holder,
        ClusterSearcher(open_snapshot(small.folder), holder.answer, ENCODER) as cluster,
    ):
        small.add([record(100, "w1 w1 w1")])  # before the shards are first opened
        hits = cluster.search("w1", k=100, mode="lexical")
        assert "d100" in {hit.doc_id for hit in hits}
        before = cluster.still()
        small.delete(["d100"])
        assert cluster.reload()
        assert "d100" not in {hit.doc_id for hit in cluster.search("w1", k=100, mode="lexical")}
        # The version before is kept for whoever has not moved yet, and one more is not.
        assert "d100" in {hit.doc_id for hit in before.search("w1", k=100, mode="lexical")}
        for n in (101, 102):
            small.add([record(n, "w1")])
            cluster.reload()
            cluster.search("w1")
        assert len(before.search("w1", k=100, mode="lexical")) == len(
            cluster.search("w1", k=100, mode="lexical")
        )


def test_a_published_version_takes_the_place_of_the_last(small):
    """Of other documents, in more shards."""
    with (
        Holder(small.folder) as holder,
        ClusterSearcher(open_snapshot(small.folder), holder.answer, ENCODER) as cluster,
    ):
        before = cluster.still()
        old = [hit.doc_id for hit in cluster.search("w1", mode="lexical")]
        make_again(small.folder)
        assert cluster.reload()
        assert [hit.doc_id for hit in cluster.search("w1 w2", k=9)] == ["new1", "new0"]
        assert len(cluster.snapshot.parts) == 4
        assert [hit.doc_id for hit in before.search("w1", mode="lexical")] == old


def make_again(folder):
    place = folder.parent / "other"
    with Index.create(place, ENCODER, shards=4) as other:
        other.add([{"doc_id": f"new{n}", "text": f"w{n} w1 w{2 * n}"} for n in range(2)])
    (place / "v0001").rename(folder / "v0002")
    publish(folder, 2, 4)
