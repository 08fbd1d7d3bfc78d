"""Reranking of brought candidates, against a loop over the definition."""

import numpy as np
import pytest

import retriever
from encoder import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS
from tests.encoder.test_maxsim import counted
from tests.helpers.fakes import FakeEncoder


def by_definition(query, passage, sharpness=0.0):
    best = [max(float(q @ p) for p in passage) for q in query] if len(passage) else [-np.inf]
    return sum(counted(b, float(np.linalg.norm(q)), sharpness) for b, q in zip(best, query, strict=False))


def test_vectors_are_ranked_by_maxsim():
    random = np.random.default_rng(0)
    query = random.standard_normal((5, 8)).astype(np.float32)
    rows = [random.standard_normal((n, 8)).astype(np.float32) for n in (3, 0, 1, 9, 3)]
    rows.append(rows[3])  # a tie with index 3
    ranked = retriever.rerank_embeddings(query, TokenEmbeddings.from_list(rows, 8))
    expected = [by_definition(query, row) for row in rows]
    assert [r.index for r in ranked] == sorted(range(6), key=lambda i: (-expected[i], i))
    np.testing.assert_allclose([r.score for r in ranked], [expected[r.index] for r in ranked], atol=1e-4)
    assert ranked[-1].index == 1
    assert retriever.rerank_embeddings(query, TokenEmbeddings.from_list(rows, 8), k=2) == ranked[:2]


def test_texts_are_ranked():
    encoder = FakeEncoder(dim=16)
    texts = ["red cat", "blue whale sings", "blue cat"]
    ranked = retriever.rerank(encoder, "blue whale", texts)
    assert [r.index for r in ranked] == [1, 2, 0]
    assert ranked[0].score == pytest.approx(2.0, abs=1e-5)
    query, passages = encoder.encode_queries(["blue whale"])[0], encoder.encode_documents(texts)
    assert ranked[1].score == pytest.approx(by_definition(query, passages[2], SHARPNESS), abs=1e-5)
    plain = retriever.rerank(encoder, "blue whale", texts, sharpness=0.0)
    assert plain[1].score == pytest.approx(by_definition(query, passages[2]), abs=1e-5)
    assert retriever.rerank(encoder, "blue", []) == []


def test_mistakes_are_refused():
    encoder = FakeEncoder(dim=16)
    with pytest.raises(ArgumentError, match="texts is the string 'b'; pass a list of strings"):
        retriever.rerank(encoder, "a", "b")
    with pytest.raises(ArgumentError, match=r"texts\[0\] is 7 \(int\)"):
        retriever.rerank(encoder, "a", [7])
    with pytest.raises(ArgumentError, match=r"encoder is 'bundled' \(str\); pass Encoder.load\('bundled'\)"):
        retriever.rerank("bundled", "a", ["b"])
    with pytest.raises(ArgumentError, match=r"rerank has no top_k; did you mean k\?"):
        retriever.rerank(encoder, "a", ["b"], top_k=1)
    with pytest.raises(ArgumentError, match=r"k=1.5 is float"):
        retriever.rerank(encoder, "a", ["b"], k=1.5)
    with pytest.raises(ArgumentError, match="sharpness=-1"):
        retriever.rerank(encoder, "a", ["b"], sharpness=-1)
    with pytest.raises(ArgumentError, match="k=0"):
        retriever.rerank(encoder, "a", ["b"], k=0)
    passages = encoder.encode_documents(["a"])
    with pytest.raises(ArgumentError, match=r"passages\[0\] has shape \(1, 16\); pass \(n_tokens, 4\)"):
        retriever.rerank_embeddings(np.ones((1, 4), np.float32), passages)
    with pytest.raises(ArgumentError, match="passages is the string 'a'; pass a list of arrays"):
        retriever.rerank_embeddings(np.ones((1, 16)), "a")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_vectors_that_are_not_finite_are_refused(wrong):
    good = np.ones((2, 4))
    bad = np.array([[1, 1, 1, 1], [1, wrong, 1, 1]])
    with pytest.raises(ArgumentError, match="query has a value that is not finite"):
        retriever.rerank_embeddings(bad, [good])
    with pytest.raises(ArgumentError, match=r"passages\[1\] has a value that is not finite"):
        retriever.rerank_embeddings(good, [good, bad])
    with (
        np.errstate(over="ignore"),
        pytest.raises(ArgumentError, match=r"passages\[0\] has a value that is not"),
    ):
        retriever.rerank_embeddings(good, TokenEmbeddings(bad.astype(np.float32), np.array([0, 2])))


def test_passages_may_be_a_list_of_arrays():
    random = np.random.default_rng(0)
    query = random.standard_normal((5, 8))
    rows = [random.standard_normal((n, 8)) for n in (3, 0, 1, 9)]
    expected = retriever.rerank_embeddings(query, TokenEmbeddings.from_list(rows, 8))
    for same in (rows, tuple(rows), iter(rows)):
        assert retriever.rerank_embeddings(query, same) == expected
    encoder = FakeEncoder(dim=16)
    texts = ["red cat", "blue whale"]
    assert retriever.rerank(encoder, "blue", iter(texts)) == retriever.rerank(encoder, "blue", texts)
