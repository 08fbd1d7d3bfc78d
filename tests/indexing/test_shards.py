"""Shards against a single index that has the same documents and the same codec."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError, EncoderMismatchError, IndexFormatError
from indexing import Index
from indexing.storage.reader import Reader
from indexing.storage.sharded import Manifest, shard_of
from indexing.storage.tables import BUILD, DATABASE, LOCK, MANIFEST
from indexing.writing import shards as writing
from indexing.writing.writer import Writer, train_codec
from retriever import Searcher
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, assert_equals, corpus, record

ENCODER = FakeEncoder(DIM, windows=True)
SMALL = {"window": 6, "overlap": 2, "flat_tokens": 10**9}
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
ADDED = st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 40), TEXTS), min_size=1, max_size=30))
GONE = st.tuples(st.just("delete"), st.lists(st.integers(0, 40), max_size=9))
CHANGED = st.tuples(st.just("metadata"), st.integers(0, 40))
RENAMED = st.tuples(st.just("rename"), st.tuples(st.integers(0, 40), st.integers(0, 40)))
STEPS = st.lists(ADDED | GONE | CHANGED | RENAMED | st.tuples(st.just("compact"), st.none()), max_size=6)
WAYS = [
    {"mode": "late"},
    {"mode": "late", "by": "passage"},
    {"mode": "lexical"},
    {"mode": "hybrid"},
    {"mode": "hybrid", "weights": (1.0, 2.0)},
    {"mode": "hybrid", "filter": "n >= 3 and n < 30"},
    {"mode": "lexical", "filter": "n < 20"},
    {"mode": "late", "filter": "even = true"},
]


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Of the words that all texts here have."""
    with Index.create(tmp_path_factory.mktemp("x") / "x", ENCODER, flat_tokens=256) as index:
        index.add(corpus(200))
        trained = index.snapshot().codec
    assert trained is not None
    return trained


def change(index, step):
    what, how = step
    if what == "add":
        index.add(record(n, text, n=n, even=n % 2 == 0) for n, text in how)
    elif what == "delete":
        index.delete(f"d{n}" for n in how)
    elif what == "metadata" and f"d{how}" in index:
        index.update_metadata({f"d{how}": {"n": -1, "even": True}})
    elif what == "rename" and f"d{how[0]}" in index and f"d{how[1]}" not in index:
        index.rename({f"d{how[0]}": f"d{how[1]}"})
    elif what == "compact":
        index.compact()


def found(searcher, query, k, options):
    return [
        (hit.doc_id, hit.score, hit.rank, hit.text, hit.metadata, hit.passage)
        for hit in searcher.search(query, k=k, **options)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
@given(steps=STEPS, queries=st.lists(TEXTS, min_size=10, max_size=12), k=st.sampled_from([1, 3, 10, 100]))
@settings(max_examples=10, deadline=None)
def test_shards_answer_as_one_index(tmp_path_factory, codec, n, coded, steps, queries, k):
    steps = [
        ("add", [(i, text) for i, text in enumerate(map(" ".join, itertools.pairwise(WORDS)))]),
        *steps,
    ]
    place = tmp_path_factory.mktemp("shards")
    with (
        Index.create(place / "one", ENCODER, **SMALL) as one,
        Index.create(place / "many", ENCODER, shards=n, **SMALL) as many,
    ):
        for index in (one, many):
            index._writer.trains = False
            if coded:
                index._writer.adopt(codec, 0.0)
            for step in steps:
                change(index, step)
        assert sorted(many, key=lambda d: d.doc_id) == sorted(one, key=lambda d: d.doc_id)
        assert many.values("n") == one.values("n")
        assert (len(many), many.n_passages, many.n_tokens) == (len(one), one.n_passages, one.n_tokens)
        many.verify()
        with Searcher(one, ENCODER) as alone, Searcher(many, ENCODER) as together:
            for query in queries:
                for options in WAYS:
                    expected, given = (found(s, query, k, options) for s in (alone, together))
                    if coded or options["mode"] == "lexical":
                        assert given == expected
                    else:  # float16 is multiplied by blocks, whose sums may differ in the last bit
                        scores = {(x[0], str(x[5])): x[1] for x in expected}
                        assert len(given) == len(expected)
                        near = [scores.get((x[0], str(x[5])), expected[-1][1]) for x in given]
                        np.testing.assert_allclose([x[1] for x in given], near, rtol=1e-6, atol=1e-6)
                        np.testing.assert_allclose(
                            [x[1] for x in given], [x[1] for x in expected], rtol=1e-6, atol=1e-7
                        )


def test_one_codec_is_trained_on_all_shards(tmp_path):
    texts = corpus(300)
    with Index.create(tmp_path / "x", ENCODER, shards=3, flat_tokens=1000) as index:
        index.add(texts[:150])
        now = index.snapshot()
        assert [len(part) for part in now.parts] == [
            sum(shard_of(d["doc_id"], 3) == i for d in texts[:150]) for i in range(3)
        ]
        assert {segment.kind for segment in now.segments} == {"compressed"}
        digests = {file.sha256 for file in now.files if "codec" in file.path and file.path.endswith("faiss")}
        assert digests == {Manifest.read(tmp_path / "x").codec}
        index.add(texts[150:])
        assert {
            file.sha256 for file in index.snapshot().files if file.path.endswith("codec-1.faiss")
        } == digests
        index.delete(filter="n < 10")
        index.compact()
        index.verify()
        assert_equals(
            index, {d["doc_id"]: (d["text"], d["metadata"]) for d in sorted_by_shard(texts[10:])}, ENCODER
        )
        info = index.info()
        assert (info["shards"], info["documents"], info["kind"]) == (3, 290, "compressed")
    with Index.open(tmp_path / "x") as index:
        assert index.info() == info


@pytest.mark.slow
@pytest.mark.parametrize(("own_ids", "most"), [(True, 2000), (False, 2000), (True, 20_000)])
def test_the_same_documents_train_the_same_codec(tmp_path, own_ids, most):
    """In any order of adding, in any number of shards, and of a sample as of all tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(0, 30, 500)
    stops = np.cumsum(lengths)
    ids = random.integers(0, 300, lengths.sum()) if own_ids else None
    rows = random.normal(size=(lengths.sum(), DIM)).astype(np.float16).astype(np.float32)
    codecs = []
    for shards, order in ((None, np.arange(500)), (1, random.permutation(500)), (4, np.arange(499, -1, -1))):
        place = tmp_path / str(shards)
        with Index.create(place, dim=DIM, shards=shards, flat_tokens=10**6) as index:
            for some in np.array_split(order, 3):
                own = np.concatenate([np.arange(stops[i] - lengths[i], stops[i]) for i in some])
                given = TokenEmbeddings(
                    rows[own], np.cumsum([0, *lengths[some]]), token_ids=None if ids is None else ids[own]
                )
                index.add_embeddings([f"d{i}" for i in some], given)
            index.delete(["d7"])
            now = index.snapshot()
            assert 2000 < now.n_tokens < 20_000
            codec, error = train_codec(now, most, None)
            codec.save(place / "codec")
            owners = None if codec.owners is None else codec.owners.tokens.tolist()
            codecs.append(((place / "codec").read_bytes(), owners, error))
    assert (codecs[0][1] is not None) == own_ids
    assert codecs == codecs[:1] * 3


def sorted_by_shard(records):
    return sorted(records, key=lambda d: shard_of(d["doc_id"], 3))


def test_a_codec_that_a_crash_kept_from_some_shards_is_given_to_all(tmp_path, monkeypatch):
    adopt, calls = Writer.adopt, []

    def dies(self, *arguments):
        calls.append(self)
        if len(calls) > 1:
            raise KeyboardInterrupt
        adopt(self, *arguments)

    texts = corpus(100)
    with (
        monkeypatch.context() as patched,
        Index.create(tmp_path, ENCODER, shards=3, flat_tokens=500) as index,
    ):
        patched.setattr(Writer, "adopt", dies)
        with pytest.raises(KeyboardInterrupt):
            index.add(texts)
    model = {d["doc_id"]: (d["text"], d["metadata"]) for d in sorted_by_shard(texts)}
    with Index.open(tmp_path) as index:  # some in codes, some not: what a reader sees meanwhile
        assert index.info()["kind"] == "mixed"
        assert_equals(index, model, ENCODER)
    with Index.open(tmp_path, writable=True) as index:
        assert index.info()["kind"] == "compressed"
        assert_equals(index, model, ENCODER)
        index.verify()


def test_what_was_renamed_out_of_its_shard_is_replaced_and_deleted(tmp_path):
    with Index.create(tmp_path, ENCODER, shards=2) as index:
        index.add(corpus(20))
        names = {f"d{i}": f"e{i}" for i in range(20)}
        index.rename(names)
        assert any(shard_of(old, 2) != shard_of(new, 2) for old, new in names.items())
        report = index.add({"doc_id": name, "text": "w1"} for name in names.values())
        assert (report.replaced, len(index)) == (20, 20)
        assert {d.text for d in index} == {"w1"}
        assert index.delete(names.values()) == 20
        assert len(index) == 0


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_names_that_are_swapped_across_shards_survive_a_crash(tmp_path, monkeypatch, dies_at):
    """Between the shards' commits, and after the last."""
    names = {"d0": "d1", "d1": "d2", "d2": "d3", "d3": "d4", "d4": "d0"}
    assert {shard_of(name, 2) for name in names} == {0, 1}
    commit, calls = Writer.commit, []

    def dies(self, pending):
        if pending.renamed:
            calls.append(self)
            if len(calls) > dies_at:
                raise KeyboardInterrupt
        commit(self, pending)

    texts = {name: f"w{i} w{i}" for i, name in enumerate(names)}
    with Index.create(tmp_path, ENCODER, shards=2) as index:
        index.add({"doc_id": name, "text": text} for name, text in texts.items())
        with monkeypatch.context() as patched:
            patched.setattr(Writer, "commit", dies)
            if dies_at < 2:
                with pytest.raises(KeyboardInterrupt):
                    index.rename(names)
            else:
                patched.setattr(Path, "unlink", dies_by_name)
                with pytest.raises(KeyboardInterrupt):
                    index.rename(names)
    wanted = {new: texts[old] for old, new in names.items()}
    with Index.open(tmp_path, writable=True) as index:
        assert {d.doc_id: d.text for d in index} == wanted
        assert not (tmp_path / writing.RENAMES).exists()
        index.rename({new: old for old, new in names.items()})
        assert {d.doc_id: d.text for d in index} == texts
        index.verify()


def dies_by_name(path, missing_ok=False):
    assert path.name == writing.RENAMES
    raise KeyboardInterrupt


def test_a_searcher_moves_to_commits_and_to_another_version(tmp_path):
    with Index.create(tmp_path / "x", ENCODER, shards=2) as index:
        index.add(corpus(10))
        with Searcher.open(tmp_path / "x", ENCODER) as searcher:
            assert not searcher.reload()
            old = searcher.snapshot
            index.add([record(99, "w1 w1")])
            assert searcher.reload()
            assert (len(old), len(searcher.snapshot)) == (10, 11)
            writing.make_shards(tmp_path / "x", index.settings, 3, version=2)
            assert searcher.reload()
            assert len(searcher.snapshot) == 0
            assert len(searcher.snapshot.parts) == 3
            assert len(old) == 10


@pytest.mark.parametrize("shards", [None, 3])
def test_a_reload_opens_files_only_after_a_commit(tmp_path, monkeypatch, shards):
    opened = []
    monkeypatch.setattr(
        "indexing.storage.snapshot.Reader",
        lambda path, older: opened.append(path.parent.name) or Reader(path, older),
    )
    n, place = shards or 1, tmp_path / "x"
    with Index.create(place, ENCODER, shards=shards) as index:
        index.add(corpus(10))
        with Searcher.open(place, ENCODER) as searcher:
            for i in range(3):
                if i:
                    index.add([record(90 + i, "w1")])
                    opened.clear()
                    assert searcher.reload()
                    assert len(opened) == n
                searcher.reload()  # the first looks what there is
                opened.clear()
                assert not searcher.reload()
                assert opened == []
                assert len(searcher.snapshot) == 10 + i
    opened.clear()
    index = Index.open(place)
    assert not index.reload()
    # Another index takes its place, and grows.
    place.rename(tmp_path / "y")
    with Index.create(place, ENCODER, shards=shards) as other:
        for i in range(9):
            other.add([record(i, "w1 w2")])
            assert index.reload() == (len(index) == i + 1)
        assert len(index) == 9
    index.close()


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("flat_tokens", [100_000, 300])
def test_another_index_in_the_place_of_one_shares_nothing_with_it(tmp_path, shards, flat_tokens):
    place = tmp_path / "x"
    settings = {"shards": shards, "flat_tokens": flat_tokens}

    def built(encoder, *words):
        with Index.create(place, encoder, **settings) as index:
            for i, word in enumerate(words):
                index.add(record(j, f"{word} w1 w2 w3") for j in range(100 * i, 100 * (i + 1)))
                index.delete([record(100 * i, "")["doc_id"]])

    def answers(searcher):
        modes = "late", "lexical", "hybrid"
        return [[(h.doc_id, h.score) for h in searcher.search("w5 w6", mode=mode, k=200)] for mode in modes]

    built(ENCODER, "w5", "w6")
    with Searcher.open(place, ENCODER) as searcher, Index.open(place) as index:
        before = answers(searcher)
        place.rename(tmp_path / "y")
        built(ENCODER, "w6", "w5")  # as many commits, segments and documents, of the same numbers
        assert searcher.reload()
        assert index.reload()
        with Searcher.open(place, ENCODER) as fresh:
            assert answers(searcher) == answers(fresh) != before
        assert not searcher.reload()
        place.rename(tmp_path / "z")
        built(FakeEncoder(DIM, seed=1), "w7")
        with pytest.raises(EncoderMismatchError, match=r"was built with .*; search with the one"):
            searcher.reload()
        assert answers(searcher) != before
        assert len(searcher.snapshot) == 198


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists what is open; CI runs there")
def test_what_looks_for_commits_is_closed_with_the_snapshot(tmp_path):
    def held():
        names = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        return [name for name in names if str(tmp_path) in name and DATABASE in name]

    with Index.create(tmp_path, ENCODER, shards=2) as index:
        index.add(corpus(10))
    searcher = Searcher.open(tmp_path, ENCODER)
    before = len(held())
    searcher.reload()
    assert len(held()) > before
    searcher.close()
    assert not held()


def test_a_shard_is_an_index_of_its_own(tmp_path):
    with Index.create(tmp_path, ENCODER, shards=2) as index:
        index.add(corpus(50))
        part = index.snapshot().parts[1]
    with Index.open(part.folder) as alone:
        assert 0 < len(alone) < 50
        with Searcher(alone, ENCODER) as searcher:
            [hit] = searcher.search("w1", k=1, filter="n >= 0")
            assert shard_of(hit.doc_id, 2) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards": []}, "names no shards"),
        ({"shards": [{"name": "../x"}]}, "names no shards"),
        ({"shards": [{"name": "v0001/000", "more": 1}]}, "is damaged"),
        ({"format_version": 2}, "upgrade it"),
        ({"key": "md5"}, "upgrade it"),
        ({"extra": 1}, "is damaged"),
        ({"codec": "0" * 64}, "another codec"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tmp_path, codec, change, said):
    with Index.create(tmp_path, ENCODER, shards=2) as index:
        index._writer.adopt(codec, 0.0)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IndexFormatError, match=said):
        Index.open(tmp_path)


def test_an_unfinished_build_is_no_place_for_an_index(tmp_path):
    (tmp_path / LOCK).touch()
    (tmp_path / BUILD).write_text("{}")
    with pytest.raises(
        ArgumentError, match="has an unfinished build of shards; run latewood cluster build again"
    ):
        Index.create(tmp_path, ENCODER)
    assert not (tmp_path / "index.db").exists()


def test_shards_that_are_missing_or_of_others_are_refused(tmp_path, codec):
    for name, dim in (("a", DIM), ("b", 16)):
        Index.create(tmp_path / name, dim=dim, shards=2).close()
    with pytest.raises(ArgumentError, match="is an index already"):
        Index.create(tmp_path / "a", dim=DIM)
    with pytest.raises(ArgumentError, match="shards=0"):
        Index.create(tmp_path / "c", dim=DIM, shards=0)
    shutil.rmtree(tmp_path / "a/v0001/001")
    with pytest.raises(IndexFormatError, match="001 does not exist"):
        Index.open(tmp_path / "a")
    shutil.copytree(tmp_path / "b/v0001/001", tmp_path / "a/v0001/001")
    with pytest.raises(IndexFormatError, match="other settings"):
        Searcher.open(tmp_path / "a")
