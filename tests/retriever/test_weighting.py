"""Weights of query tokens against their definition, and what search makes of them."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.maxsim import SHARPNESS
from encoder.tokenizer import Token
from indexing import Index
from indexing.storage.fulltext import _STOP_WORDS, queried, split_words, word_spans
from retriever import Scoring, Searcher
from retriever.ranking.weighting import idf_weights
from tests.encoder.test_maxsim import counted
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, corpus, record

TEXTS = ["w0 w1", "w0 w2", "w0 w3 w3", "w0 w1 w4", "w0"]  # w0 in all, w1 in two, w2, w3 and w4 in one
LEAST = 0.3


class TokenisingEncoder(FakeEncoder):
    """A token a word, and a marker before them."""

    def encode_queries(self, texts, **options):
        return super().encode_queries([f"marker {text}" for text in texts], **options)

    def query_tokens(self, text):
        return [Token("marker", None), *(Token(m.group(), m.span()) for m in re.finditer(r"\S+", text))]

    def document_tokens(self, text):
        return [Token(m.group(), m.span()) for m in re.finditer(r"\S+", text)]


@pytest.fixture
def encoder():
    return TokenisingEncoder(DIM)


@pytest.fixture
def index(tmp_path, encoder):
    with Index.create(tmp_path / "index", encoder) as index:
        index.add(record(i, text) for i, text in enumerate(TEXTS))
        yield index


def frequencies(texts, words):
    return [sum(word in text.split() for text in texts) for word in words]


def expected_weights(text, texts):
    """By the definition, for texts of words between spaces, with the marker's weight first."""
    raw = []
    for word in text.split():
        df = frequencies(texts, [word])[0] if word.isalnum() else len(texts)
        raw.append(math.sqrt(max(LEAST, math.log((len(texts) + 1) / (df + 1)))) if df else None)
    known = [r for r in raw if r is not None]
    raw = [sum(known) / len(known) if r is None else r for r in raw] if known else [1.0] * len(raw)
    return np.array([1.0] + [r * len(raw) / sum(raw) for r in raw])


def scores(encoder, query, texts, weights, sharpness):
    [vectors] = encoder.encode_queries([query])
    documents = encoder.encode_documents(texts)
    best = [(vectors @ d.T).max(axis=1) for d in documents]
    return [
        sum(w * counted(float(b), 1.0, sharpness) for w, b in zip(weights, row, strict=True)) for row in best
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words, twice",
        "parseHTTPResponse(max_line)",
        "__init__ SNAKE_2",
        "École 日本語",
        "_ __",
        "हिन्दी",
    ],
)
def test_word_spans_are_the_smallest_words_of_full_text(text):
    spans, words = word_spans(text), split_words(text).split()
    found = [split_words(text[start:stop]).split()[0] for start, stop in spans]
    assert set(found) <= set(words)
    assert all(any(own in word or word in own for own in found) for word in words)
    assert spans == sorted(set(spans))


def test_spans_are_of_the_text_as_it_was_written():
    text = "Cafe\u0301s ＦｕｌｌＷｉｄｔｈ ﬁne co\u00adop 東京タワー हिन्दी"
    assert [text[start:stop] for start, stop in word_spans(text)] == [
        *("Cafe\u0301s", "Ｆｕｌｌ", "Ｗｉｄｔｈ", "ﬁne", "co\u00adop"),
        *("東京", "京タ", "タワ", "ワー", "हिन्दी"),
    ]


CHARACTERS = [*"aBé_ ﬁｆＡ日ไの한ß.2\u200b", "e\u0301", "हि", "ไม้", "2\u20e3"]


@given(st.lists(st.sampled_from(CHARACTERS), max_size=12).map("".join))
def test_spans_and_full_text_have_the_same_words(text):
    own = {split_words(text[start:stop]) for start, stop in word_spans(text)}
    asked = queried(text)
    words = {f'"{word}"' for some in own for word in some.split()[:1] if word not in _STOP_WORDS}
    assert words <= {word.replace("*", "") for word in asked}
    assert bool(own) == bool(asked)


@pytest.mark.slow
@given(st.lists(st.sampled_from([*WORDS, ",", "?"]), max_size=12))
def test_weights_are_the_definition(words):
    text = " ".join(words)
    tokens = TokenisingEncoder(DIM).query_tokens(text)
    weights = idf_weights(text, tokens, len(TEXTS), lambda asked: frequencies(TEXTS, asked))
    np.testing.assert_allclose(weights, expected_weights(text, TEXTS), rtol=1e-6)
    if words:
        assert weights[1:].mean() == pytest.approx(1)


def test_a_piece_of_a_word_weighs_as_the_word_and_a_token_over_two_as_the_rarer():
    text = "w2 w0w0"
    tokens = [Token("w2 w0", (0, 5)), Token("w", (3, 4)), Token("0w0", (4, 7))]
    counts = {"w2": 1, "w0": 5, "w0w0": 0}
    weights = idf_weights(text, tokens, 5, lambda words: [counts[word] for word in words])
    assert [text[a:b] for a, b in word_spans(text)] == ["w2", "w0", "w0"]
    rare, common = math.sqrt(math.log(6 / 2)), math.sqrt(LEAST)
    np.testing.assert_allclose(weights, np.array([rare, common, common]) * 3 / (rare + 2 * common), rtol=1e-6)


def test_a_token_that_touches_a_known_and_an_unknown_word_weighs_as_the_known():
    tokens = [Token("東", (0, 1)), Token("京都", (1, 3)), Token("x", (4, 5))]
    counts = {"東京": 0, "京都": 1, "x": 5}
    weights = idf_weights("東京都 x", tokens, 5, lambda words: [counts[word] for word in words])
    rare, common = math.sqrt(math.log(6 / 2)), math.sqrt(LEAST)
    np.testing.assert_allclose(
        weights, [1, 2 * rare / (rare + common), 2 * common / (rare + common)], rtol=1e-6
    )


def test_frequencies_follow_the_index(tmp_path, encoder):
    def counts(words):
        with index.snapshot() as now:
            return now.document_frequencies(words)

    with Index.create(tmp_path / "index", encoder) as index, index.snapshot() as before:
        assert counts(["w0"]) == [0]
        index.add(record(i, text) for i, text in enumerate(TEXTS))
        assert counts(["w0", "W1", "w2", "nowhere", "w3"]) == [5, 2, 1, 0, 1]
        index.add([record(9, "Caf\u00e9 in 東京都")])
        asked = ["cafe\u0301", "東京", "東京都", "京", "都東", "?"]
        assert counts(asked) == [1, 1, 1, 1, 0, 0]
        index.delete(["d0", "d9"])
        index.add([record(1, "w1 running")])
        assert counts(["w0", "w1", "run", "runs"]) == [3, 2, 1, 1]  # of one stem
        index.compact()
        assert counts(["w0", "w1", "w2"]) == [3, 2, 0]
        assert before.document_frequencies(["w0"]) == [0]  # whatever came later
        with Searcher(before) as searcher:
            assert searcher.reload()
            assert searcher.snapshot.document_frequencies(["w0"]) == [3]


@pytest.mark.parametrize("query", ["w0 w2", "w1 w0 w4 ?", "w0", "nowhere w3"])
@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_search_is_weighted_maxsim(index, encoder, query, idf, sharpness):
    weights = expected_weights(query, TEXTS) if idf else np.ones(len(query.split()) + 1)
    truth = scores(encoder, query, TEXTS, weights, sharpness)
    hits = Searcher(index, encoder, scoring=Scoring(idf, sharpness)).search(query, k=len(TEXTS), mode="late")
    assert [hit.doc_id for hit in hits] == [f"d{i}" for i in sorted(range(5), key=lambda i: -truth[i])]
    np.testing.assert_allclose([hit.score for hit in hits], sorted(truth, reverse=True), rtol=2e-3)
    for hit in hits:
        assert sum(match.score for match in hit.explain().matches) == pytest.approx(hit.score, rel=2e-3)


@pytest.mark.slow
def test_compressed_segments_and_many_queries_are_weighted_alike(tmp_path, encoder):
    records = corpus(300, seed=3)
    with Index.create(tmp_path / "index", encoder, flat_tokens=500) as index:
        index.add(records)
        assert index.info()["kind"] == "compressed"
        searcher = Searcher(index, encoder)
        queries = {"a": "w0 w5 w7", "b": "w1"}
        for qid, hits in searcher.search_many(queries, k=5, mode="late").items():
            [vectors] = encoder.encode_queries([queries[qid]])
            weights = expected_weights(queries[qid], [r["text"] for r in records])
            weighted = (vectors * weights[:, None]).astype(np.float32)
            same = searcher.search_embeddings(weighted, k=5, sharpness=SHARPNESS)
            assert [h.doc_id for h in hits] == [h.doc_id for h in same]
            np.testing.assert_allclose([h.score for h in hits], [h.score for h in same], rtol=1e-5)


def test_an_encoder_that_names_no_tokens_is_not_weighted(tmp_path):
    encoder = FakeEncoder(DIM)
    with Index.create(tmp_path / "index", encoder) as index:
        index.add(record(i, text) for i, text in enumerate(TEXTS))
        weighted, plain = [
            Searcher(index, encoder, scoring=Scoring(idf)).search("w0 w2", mode="late")
            for idf in (True, False)
        ]
    assert [hit.score for hit in weighted] == [hit.score for hit in plain]
