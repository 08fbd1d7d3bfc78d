"""The searcher against brute-force MaxSim on the vectors that the index decodes to."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder import TokenEmbeddings
from encoder.errors import ArgumentError, EncoderMismatchError
from encoder.maxsim import maxsim
from indexing import Index
from retriever import Scoring, Searcher
from tests.helpers.fakes import FakeEncoder, corpus

DIM = 16


def clustered(random, lengths, negative=False):
    """Unit vectors around some centres; `negative` keeps them in one orthant, for negated queries."""
    centres = random.standard_normal((8, DIM))
    rows = centres[random.integers(0, 8, sum(lengths))] + 0.3 * random.standard_normal((sum(lengths), DIM))
    if negative:
        rows = np.abs(rows) + 1e-3
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenEmbeddings(rows.astype(np.float32), offsets)


def build(folder, lengths, *, random, flat_tokens, parts=1, negative=False):
    """An index of `parts` segments of passages p0, p1, ...; the vectors that went in."""
    given_vectors = clustered(random, lengths, negative)
    ids = [f"p{i}" for i in range(len(lengths))]
    with Index.create(folder, dim=DIM, flat_tokens=flat_tokens) as index:
        for part in np.array_split(np.arange(len(ids)), parts):
            chunk = TokenEmbeddings.from_list([given_vectors[int(i)] for i in part], DIM)
            index.add_embeddings([ids[int(i)] for i in part], chunk, texts=[f"text {i}" for i in part])
    return given_vectors


def brute_force(snapshot, query, sharpness=0.0):
    """{doc_id: MaxSim on decoded vectors} of every live document's best passage."""
    scores = {}
    for segment, live in zip(snapshot.segments, snapshot.lives, strict=True):
        vectors = segment.decode(0, segment.n_tokens, snapshot.codec)
        offsets = torch.tensor(segment.offsets)
        values = maxsim(torch.from_numpy(query), torch.from_numpy(vectors), offsets, sharpness)
        names = snapshot.doc_ids(segment.owners.tolist())
        for i in np.flatnonzero(live):
            name = names[int(segment.owners[i])]
            scores[name] = max(float(values[i]), scores.get(name, -np.inf))
    return scores


def unit(random, n, negative=False):
    rows = random.standard_normal((n, DIM))
    rows = -np.abs(rows) if negative else rows
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def assert_same(hits, expected, k):
    """The same scores, best first, and each hit the score that brute force gives it."""
    assert len(hits) == min(k, len(expected))
    assert [h.rank for h in hits] == list(range(1, len(hits) + 1))
    best = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([h.score for h in hits], best, atol=1e-3)
    np.testing.assert_allclose([h.score for h in hits], [expected[h.doc_id] for h in hits], atol=1e-3)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.sampled_from([0, 1, 1, 2, 7, 30]), min_size=25, max_size=60),
    negative=st.booleans(),
    n_query=st.integers(1, 40),
    k=st.sampled_from([1, 10, 200]),
    compressed=st.booleans(),
    parts=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
def test_everything_probed_and_reranked_is_brute_force(
    tmp_path_factory, lengths, negative, n_query, k, compressed, parts, seed
):
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("index") / "x"
    lengths = [*lengths, 300]  # enough tokens to train a codec on
    build(
        folder,
        lengths,
        random=random,
        flat_tokens=256 if compressed else 10**6,
        parts=parts,
        negative=negative,
    )
    query = unit(random, n_query, negative)
    with Searcher.open(folder) as searcher:
        kinds = {segment.kind for segment in searcher.snapshot.segments}
        assert ("compressed" in kinds) == compressed
        codec = searcher.snapshot.codec
        everything = {"nprobe": codec.nlist, "nrerank": 10**6, "ncandidates": 10**6} if codec else {}
        hits = searcher.search_embeddings(query, k=k, **everything)
        assert_same(hits, brute_force(searcher.snapshot, query), k)


@pytest.mark.slow
@pytest.mark.parametrize("flat_tokens", [1000, 10**6])
def test_long_queries_and_documents_are_brute_force(tmp_path, flat_tokens):
    """Queries of 256 and 300 tokens on passages of 8,192; memory grows with neither the corpus nor its passages."""
    random = np.random.default_rng(0)
    build(tmp_path / "x", [8192, 1, 3000, 8192, 0, 8192], random=random, flat_tokens=flat_tokens)
    with Searcher.open(tmp_path / "x") as searcher:
        index = searcher.snapshot
        for n_query in (256, 300):
            query = unit(random, n_query)
            expected = brute_force(index, query)
            tracemalloc.start()
            hits = searcher.search_embeddings(query, k=6)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            best = sorted(expected.values(), reverse=True)
            # 300 terms of about 1 in float32
            np.testing.assert_allclose([h.score for h in hits], best, atol=1e-3)
            assert [h.doc_id for h in hits] == sorted(expected, key=lambda i: -expected[i])
            if index.codec is not None:
                lanes = -(-n_query // 32) * 32
                tables = lanes * (index.codec.nlist * 5 + index.codec.m * 256 * 4)
                assert peak < 2.5 * tables + (1 << 20)  # tables, their copy in the making; nothing a token


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """400 passages, compressed, in a folder; and their vectors."""
    random = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("large") / "x"
    lengths = random.integers(1, 40, 400).tolist()
    return folder, build(folder, lengths, random=random, flat_tokens=1000)


def test_pruning_finds_most_of_what_brute_force_finds(large):
    """A quarter of the passages reranked: chance would find 50 of the 200."""
    folder, vectors = large
    random = np.random.default_rng(3)
    with Searcher.open(folder) as searcher:
        found = first = 0
        for i in range(0, 400, 20):
            query = vectors[i][:8] + 0.2 * unit(random, len(vectors[i][:8]))
            expected = brute_force(searcher.snapshot, query)
            top = sorted(expected, key=lambda i: -expected[i])[:10]
            hits = searcher.search_embeddings(query, k=10, nprobe=16, nrerank=100)
            np.testing.assert_allclose([h.score for h in hits], [expected[h.doc_id] for h in hits], atol=1e-3)
            found += len({h.doc_id for h in hits} & set(top))
            first += hits[0].doc_id == top[0]
        assert found >= 170
        assert first >= 19  # of 20


def test_always_k_hits_if_k_exist(large):
    """One probed list holds few passages; the rest of the k comes all the same."""
    folder, given_vectors = large
    with Searcher.open(folder) as searcher:
        hits = searcher.search_embeddings(given_vectors[0][:1], k=390, nprobe=1)
        assert len({h.doc_id for h in hits}) == 390


def test_a_cap_on_candidates_keeps_the_best(large):
    folder, given_vectors = large
    with Searcher.open(folder) as searcher:
        for i in (3, 50, 333):
            hits = searcher.search_embeddings(given_vectors[i], k=1, ncandidates=20, nrerank=20)
            assert hits[0].doc_id == f"p{i}"


@pytest.mark.slow
def test_deleted_and_replaced_passages_never_come_back(tmp_path):
    random = np.random.default_rng(0)
    vectors = build(tmp_path / "x", [5] * 100, random=random, flat_tokens=300)
    with Index.open(tmp_path / "x", writable=True) as index:
        index.delete(["p1", "p2"])
        index.add_embeddings(["p3"], TokenEmbeddings.from_list([vectors[4]], DIM), texts=["new"])
    with Searcher.open(tmp_path / "x") as searcher:
        hits = searcher.search_embeddings(vectors[1], k=200)
        assert {h.doc_id for h in hits} == {f"p{i}" for i in range(100)} - {"p1", "p2"}
        assert len(hits) == 98
        assert {h.text for h in searcher.search_embeddings(vectors[4], k=2)} == {"new", "text 4"}


def test_search_and_search_many_agree(tmp_path):
    encoder = FakeEncoder(dim=DIM)
    texts = {f"d{i}": f"word{i} common shared{i % 3}" for i in range(20)}
    with Index.create(tmp_path / "x", encoder) as index:
        index.add({"doc_id": i, "text": t, "metadata": {"n": i}} for i, t in texts.items())
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        hits = searcher.search("word7 common", k=3, mode="late")
        assert (hits[0].doc_id, hits[0].text, hits[0].metadata) == ("d7", texts["d7"], {"n": "d7"})
        assert hits[0].score == pytest.approx(2.0, abs=1e-3)
        many = searcher.search_many({"a": "word7 common", "b": "shared1"}, k=3, mode="late")
        assert many["a"] == hits
        assert list(many) == ["a", "b"]
        assert searcher.search_many({}) == {}


def test_another_encoder_is_refused(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(dim=DIM)):
        pass
    with pytest.raises(EncoderMismatchError, match="index again"):
        Searcher.open(tmp_path / "x", FakeEncoder(dim=DIM, seed=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0; pass k >= 1"),
        ({"nprobe": 100_000}, "nprobe=100000 exceeds nlist="),
        ({"nprobe": 0}, "nprobe=0; pass nprobe >= 1"),
        ({"k": 10, "nrerank": 5}, "nrerank=5 is below k=10"),
        ({"nrerank": 50, "ncandidates": 20}, "ncandidates=20 is below nrerank=50"),
    ],
)
def test_settings_that_cannot_work_are_refused(large, arguments, message):
    with Searcher.open(large[0]) as searcher, pytest.raises(ArgumentError, match=message):
        searcher.search_embeddings(np.ones((1, DIM), np.float32), **arguments)


def test_queries_that_cannot_be_searched_are_refused(large):
    with Searcher.open(large[0]) as searcher:
        with pytest.raises(ArgumentError, match=r"shape \(1, 3\); pass \(n_tokens, 16\)"):
            searcher.search_embeddings(np.ones((1, 3), np.float32))
        with pytest.raises(ArgumentError, match="not finite"):
            searcher.search_embeddings(np.full((1, DIM), np.nan, np.float32))
        with pytest.raises(ArgumentError, match="search_embeddings"):
            searcher.search("text")
        with pytest.raises(ArgumentError, match="pass a string"):
            searcher.search(["text"])


def test_an_empty_index_has_no_hits(tmp_path):
    with Index.create(tmp_path / "x", dim=DIM):
        pass
    with Searcher.open(tmp_path / "x") as searcher:
        assert searcher.search_embeddings(np.ones((2, DIM), np.float32)) == []


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    encoder = FakeEncoder(dim=DIM)
    folder = tmp_path_factory.mktemp("words") / "x"
    with Index.create(folder, encoder, flat_tokens=300) as index:
        index.add(corpus(60))
    with Searcher.open(folder, encoder) as searcher:
        yield searcher


ASK = {
    "search": lambda searcher, **options: searcher.search("w1 w2", **options),
    "search_many": lambda searcher, **options: searcher.search_many({"": "w1 w2"}, **options)[""],
    "search_stream": lambda searcher, **options: next(searcher.search_stream([("", "w1 w2")], **options))[1],
}


@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_k_is_an_integer_from_1_on_in_every_mode(words, ask, mode):
    for k in (0, -1, np.int64(-1)):
        with pytest.raises(ArgumentError, match=f"k={k}; pass k >= 1"):
            ask(words, k=k, mode=mode)
    for k in (3.0, "3", None, True, np.float32(3), [3]):
        with pytest.raises(ArgumentError, match="pass an integer"):
            ask(words, k=k, mode=mode)
    expected = ask(words, k=3, mode=mode)
    assert len(expected) == 3
    for kind in (np.int64, np.uint8):
        assert ask(words, k=kind(3), mode=mode) == expected


@pytest.mark.parametrize("knob", ["nprobe", "ncandidates", "nrerank"])
def test_knobs_are_integers_from_1_on(words, knob):
    query = unit(np.random.default_rng(0), 3)
    asks = [
        *(
            lambda v, ask=ask, mode=m: ask(words, k=1, mode=mode, **{knob: v})
            for ask in ASK.values()
            for m in ("late", "hybrid")
        ),
        lambda v: words.search_embeddings(query, k=1, **{knob: v}),
        lambda v: words.recall_vs_exact(["w1"], k=1, **{knob: v}),
        lambda v: words.settings(k=1, **{knob: v}),
    ]
    for ask in asks:
        for value in (0, -3):
            with pytest.raises(ArgumentError, match=f"{knob}={value}; pass {knob} >= 1"):
                ask(value)
        for value in (2.0, "2", False):
            with pytest.raises(ArgumentError, match=f"{knob}=.*; pass an integer"):
                ask(value)
        assert ask(np.int32(4)) == ask(4)


def test_sharpness_is_a_number_of_any_kind(words):
    query = unit(np.random.default_rng(0), 3)
    for two in (2, np.float32(2), np.int64(2)):
        assert words.search_embeddings(query, sharpness=two) == words.search_embeddings(query, sharpness=2.0)
    for wrong in ("2", None, True, np.nan, 21):
        with pytest.raises(ArgumentError, match="sharpness="):
            words.search_embeddings(query, sharpness=wrong)


@pytest.mark.slow
def test_recall_takes_texts_and_vectors(tmp_path):
    random = np.random.default_rng(3)
    encoder = FakeEncoder(dim=DIM)
    with Index.create(tmp_path / "x", encoder, flat_tokens=300) as index:
        index.add(corpus(200))
    few = {"k": 5, "nprobe": 1, "ncandidates": 6, "nrerank": 5}
    with Searcher.open(tmp_path / "x", encoder, scoring=Scoring(False, 0)) as searcher:
        texts = {str(i): " ".join(random.choice([f"w{j}" for j in range(12)], 4)) for i in range(10)}
        packed = encoder.encode_queries(list(texts.values()))
        recall = searcher.recall_vs_exact(texts, **few)
        assert 0 < recall.search < 1
        for same in (list(texts.values()), (t for t in texts.values()), packed, list(packed)):
            assert searcher.recall_vs_exact(same, **few) == recall
        assert searcher.recall_vs_exact([v.tolist() for v in packed], **few) == recall
        for wrong, message in (
            ("w1", "queries is the string 'w1'; pass a list of texts or arrays"),
            ([], "queries is empty"),
            (["w1", 3], r"queries\[1\] is 3 \(int\); pass strings"),
            ([np.ones((2, 3))], r"queries\[0\] has shape \(2, 3\); pass \(n_tokens, 16\)"),
            ([np.full((2, DIM), np.nan)], r"queries\[0\] has a value that is not finite"),
        ):
            with pytest.raises(ArgumentError, match=message):
                searcher.recall_vs_exact(wrong, **few)


def test_what_is_no_array_or_mapping_is_told_what_to_pass(words):
    assert words.search_embeddings([]) == words.search_embeddings(np.zeros((0, DIM)))
    for wrong in ("abc", [["a", "b"]], [[1.0], [1.0, 2.0]], None, 7, [1e300] * DIM):
        with pytest.raises(ArgumentError, match=r"query (is|has) .*; (pass|check)"):
            words.search_embeddings(wrong)
    vectors = unit(np.random.default_rng(0), 3)
    assert words.search_embeddings(vectors.tolist()) == words.search_embeddings(vectors)
    for wrong in ("abc", 7, None):
        with pytest.raises(ArgumentError, match=r"queries is .*; pass {query id: text}"):
            words.search_many(wrong)


def test_whoever_opens_an_index_closes_it(tmp_path):
    encoder = FakeEncoder(dim=DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(corpus(3))
        with Searcher(index, encoder) as searcher:
            assert len(searcher.search("w1", k=3)) == 3
        searcher.close()
        assert index.add(corpus(4)).added == 1  # it is open still
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        pass
    with pytest.raises(ArgumentError, match="is closed"):
        searcher.search("w1")


def test_a_name_or_a_path_is_told_how_to_open_it(tmp_path):
    with Index.create(tmp_path / "x", FakeEncoder(dim=DIM)) as index:
        with pytest.raises(
            ArgumentError, match=r"encoder is 'bundled' \(str\); pass Encoder.load\('bundled'\)"
        ):
            Searcher(index, "bundled")
        with pytest.raises(ArgumentError, match=r"encoder is 7 .*; pass one with encode_queries"):
            Searcher(index, 7)
    with pytest.raises(ArgumentError, match=r"for a path use Searcher.open"):
        Searcher(str(tmp_path / "x"))


@pytest.mark.slow
@pytest.mark.parametrize("filter", [None, "n >= 0"])
@pytest.mark.parametrize("mode", ["late", "hybrid", "lexical"])
def test_searches_go_on_beside_commits_compactions_and_reloads(tmp_path, mode, filter):
    """A search sees one snapshot or another, never parts of two."""
    encoder = FakeEncoder(dim=DIM)
    done = threading.Event()

    def search(searcher):
        n = 0
        while not done.is_set() or n < 20:
            [(_, hits)] = searcher.search_stream({"": "w1 w2 w3"}, k=5, mode=mode, filter=filter)
            assert len(hits) == 5
            assert all(hit.doc_id == f"d{hit.metadata['n']}" for hit in hits)
            n += 1
        return n

    with Index.create(tmp_path / "x", encoder, flat_tokens=300) as writer, ThreadPoolExecutor(4) as pool:
        writer.add(corpus(60))
        with Index.open(tmp_path / "x") as reader:
            searchers = [Searcher(index, encoder) for index in (reader, reader, writer)]
            searching = [pool.submit(search, searcher) for searcher in searchers]
            try:
                for seed in range(12):
                    writer.delete([f"d{i}" for i in range(seed, 60, 7)])
                    writer.add(corpus(60, seed=seed))
                    writer.compact()
                    assert reader.reload()
                    assert all(searcher.reload() for searcher in searchers)
            finally:
                done.set()
            assert min(future.result() for future in searching) >= 20
