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
    with pytest.raises(ArgumentError, match="list of strings"):
        retriever.rerank(encoder, "a", "b")
    with pytest.raises(ArgumentError, match="sharpness=-1"):
        retriever.rerank(encoder, "a", ["b"], sharpness=-1)
    with pytest.raises(ArgumentError, match="k=0"):
        retriever.rerank(encoder, "a", ["b"], k=0)
    with pytest.raises(ArgumentError, match="one dim"):
        retriever.rerank_embeddings(np.ones((1, 4), np.float32), encoder.encode_documents(["a"]))
