"""Reranking and token vectors, in each client's shape, give the numbers of Python."""

import base64

import numpy as np
import pytest

from encoder.maxsim import SHARPNESS, maxsim_arrays
from retriever import Searcher
from tests.retriever.serving.conftest import detail

QUERY = "who sets the cost of borrowing?"
TEXTS = [
    "The heart pumps blood.",
    "The central bank raised interest rates.",
    "",
    "Rates of interest, and who borrows at them.",
]


@pytest.fixture(scope="module")
def expected(docs, encoder):
    """Scores and relevances, in the order of TEXTS."""
    with Searcher.open(docs, encoder) as searcher:
        [query] = searcher.encode([QUERY])
    packed = encoder.encode_documents(TEXTS)
    scores = maxsim_arrays(query, packed.vectors, packed.offsets, SHARPNESS)
    return scores, np.clip(scores / np.linalg.norm(query, axis=1).sum(), 0, 1)


def post(client, path, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def order(values):
    return np.argsort(-np.asarray(values), kind="stable").tolist()


@pytest.mark.slow
def test_ours(client, expected):
    scores, shares = expected
    results = post(client, "/v1/indexes/docs/rerank", query=QUERY, texts=TEXTS)["results"]
    assert [one["index"] for one in results] == order(scores)
    for one in results:
        assert one["score"] == pytest.approx(scores[one["index"]], abs=1e-4)
        assert one["relevance"] == pytest.approx(shares[one["index"]], abs=1e-4)
    best = post(client, "/v1/indexes/docs/rerank", query=QUERY, texts=TEXTS, k=2)["results"]
    assert best == results[:2]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
def test_cohere_jina_and_vllm(client, encoder, expected, path):
    _, shares = expected
    answer = post(client, path, model="bundled", query=QUERY, documents=TEXTS, top_n=3)
    assert [one["index"] for one in answer["results"]] == order(shares)[:3]
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(shares[one["index"]], abs=1e-4)
        assert one.get("document") == (None if path == "/v2/rerank" else {"text": TEXTS[one["index"]]})
    vectors = len(encoder.encode_queries([QUERY]).vectors) + len(encoder.encode_documents(TEXTS).vectors)
    assert answer["usage"]["total_tokens"] == vectors
    objects = [{"text": text} for text in TEXTS]
    given = post(client, path, query={"text": QUERY}, documents=objects, top_n=0, return_documents=False)
    assert [one["index"] for one in given["results"]] == order(shares)
    assert "document" not in given["results"][0]


def test_documents_are_cut_after_so_many_tokens(client):
    long = "The heart pumps blood. The central bank raised interest rates."
    cut = post(
        client, "/v2/rerank", query=QUERY, documents=[long, "The heart pumps blood."], max_tokens_per_doc=5
    )
    first, second = (one["relevance_score"] for one in cut["results"])
    assert first == second
    whole = post(client, "/v2/rerank", query=QUERY, documents=[long], max_tokens_per_doc=500)
    assert whole["results"][0]["relevance_score"] > first


@pytest.mark.slow
def test_tei(client, expected):
    scores, shares = expected
    plain = post(client, "/rerank", query=QUERY, texts=TEXTS)
    assert [one["index"] for one in plain] == order(scores)
    assert [one["score"] for one in plain] == pytest.approx(shares[order(shares)].tolist(), abs=1e-4)
    assert "text" not in plain[0]
    raw = post(client, "/rerank", query=QUERY, texts=TEXTS, raw_scores=True, return_text=True, truncate=True)
    assert [one["score"] for one in raw] == pytest.approx(scores[order(scores)].tolist(), abs=1e-4)
    assert [one["text"] for one in raw] == [TEXTS[i] for i in order(scores)]


@pytest.mark.slow
def test_scores_of_pairs(client, expected):
    _, shares = expected
    one = post(client, "/score", queries=QUERY, documents=TEXTS)
    assert [d["score"] for d in one["data"]] == pytest.approx(shares.tolist(), abs=1e-4)
    assert [d["index"] for d in one["data"]] == [0, 1, 2, 3]
    pairs = post(client, "/score", text_1=[QUERY] * 4, text_2=TEXTS)
    assert [d["score"] for d in pairs["data"]] == pytest.approx(shares.tolist(), abs=1e-4)
    told = detail(client.post("/score", json={"text_1": ["a", "b"], "text_2": ["c"]}), 422)
    assert told == "2 queries and 1 documents; pass one query, or as many as documents"
    assert "pass queries, or text_1" in detail(client.post("/score", json={"documents": ["c"]}), 422)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["query", "document"])
def test_token_vectors(client, encoder, kind):
    some = [text for text in TEXTS if text]
    expected = (encoder.encode_queries if kind == "query" else encoder.encode_documents)(some)
    lists = post(client, "/v1/indexes/docs/encode", texts=some, kind=kind)
    packed = post(client, "/v1/indexes/docs/encode", texts=some, kind=kind, format="base64")
    pooled = post(client, "/pooling", input=some, input_type=kind)
    in_base64 = post(client, "/pooling", input=some, input_type=kind, encoding_format="base64")
    assert (lists["dim"], lists["encoder"], pooled["object"]) == (encoder.dim, "bundled", "list")
    for i, vectors in enumerate(expected):
        assert lists["data"][i]["n_tokens"] == len(vectors)
        for given in (lists["data"][i]["vectors"], pooled["data"][i]["data"]):
            np.testing.assert_allclose(given, vectors, atol=1e-5)
        for text in (packed["data"][i]["vectors"], in_base64["data"][i]["data"]):
            given = np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, encoder.dim)
            np.testing.assert_allclose(given, vectors, atol=1e-5)


def test_a_model_that_is_not_served_and_what_is_too_much(client):
    asked = {"query": "q", "documents": ["d"]}
    told = detail(client.post("/v2/rerank", json=asked | {"model": "rerank-v3.5"}), 404)
    assert told == "there is no model 'rerank-v3.5'; there are bundled, docs"
    assert "1,001 texts are too many" in detail(
        client.post("/v2/rerank", json=asked | {"documents": ["d"] * 1001}), 422
    )
    assert "texts[1] has 100,001 characters" in detail(
        client.post("/v2/rerank", json=asked | {"documents": ["d", "x" * 100_001]}), 422
    )
    assert "top_k is not known here" in detail(client.post("/v2/rerank", json=asked | {"top_k": 1}), 422)
    assert post(client, "/v2/rerank", query="q", documents=[])["results"] == []


# LangChain's CohereRerank(base_url=..., cohere_api_key="any") gave the same by hand, with langchain-cohere 0.6 and
# cohere 5.21. It wants cohere < 6, and would hold the client of the test below two major versions back.
@pytest.mark.slow
def test_the_official_client_of_cohere(served_docs, expected):
    import cohere
    import httpx

    url, _ = served_docs
    _, shares = expected
    with httpx.Client() as http:
        client = cohere.ClientV2(api_key="any", base_url=url, httpx_client=http)
        answer = client.rerank(model="docs", query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=4096)
    assert [one.index for one in answer.results] == order(shares)[:2]
    assert answer.results[0].relevance_score == pytest.approx(shares.max(), abs=1e-4)
