"""Reranking, in the shapes that clients speak: ours, Cohere's, Jina's, vLLM's and TEI's."""

import time
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, Request
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from encoder.errors import ArgumentError
from retriever.serving.indexes import Served
from retriever.serving.rerank import Scored, model_of, scored, shortened
from retriever.serving.routes import common
from retriever.serving.routes.common import ASKING, AskedBody, JsonResponse, State, TheIndex, TheState

__all__ = ["router"]

router = APIRouter(tags=["rerank"])
QUERY = ["who sets the cost of borrowing?"]  # examples
TEXTS = [["The heart pumps blood.", "The central bank raised interest rates."]]


class Texts(AskedBody):
    """Ours."""

    query: str = Field(examples=QUERY)
    texts: list[str] = Field(examples=TEXTS)
    k: int | None = Field(None, ge=1, description="The k best; all if not given.")


class TextObject(AskedBody):
    text: str


Text: TypeAlias = str | TextObject


class Rerank(AskedBody):
    """Cohere's, Jina's and vLLM's. model: an index that is served, or its encoder; the first one if not given."""

    model: str | None = None
    query: Text = Field(examples=QUERY)
    documents: list[Text] = Field(examples=TEXTS)
    top_n: int | None = Field(None, ge=0, description="The n best; all if it is 0 or not given.")
    return_documents: bool | None = Field(
        None, description="Repeat the documents; by default as the path's owner has it: v2 does not."
    )
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Cut documents after so many tokens.")
    priority: int | None = Field(None, description="Cohere's; nothing here goes before others.")
    user: str | None = Field(None, description="vLLM's; not used.")


class TeiRerank(AskedBody):
    """TEI's. Texts beyond the encoder's document length are cut, whatever `truncate` says."""

    query: str = Field(examples=QUERY)
    texts: list[str] = Field(examples=TEXTS)
    raw_scores: bool = Field(False, description="Scores as searches give them, in place of 0 to 1.")
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Right"] = "Right"


class Score(AskedBody):
    """vLLM's: one text with each of several, or as many of both, in pairs."""

    model: str | None = None
    queries: str | list[str] | None = Field(None, examples=QUERY)
    documents: str | list[str] | None = Field(None, examples=TEXTS)
    text_1: str | list[str] | None = Field(None, description="In place of queries.")
    text_2: str | list[str] | None = Field(None, description="In place of documents.")
    user: str | None = None


class RankedText(TypedDict):
    """relevance: of the most that the query could get, 0 to 1."""

    index: int
    score: float
    relevance: float


class RankedTexts(TypedDict):
    index: str
    results: list[RankedText]


class DocumentText(TypedDict):
    text: str


class RerankResult(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[DocumentText]


class Usage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class ApiVersion(TypedDict):
    version: str


class Meta(TypedDict):
    api_version: ApiVersion


class Reranked(TypedDict):
    """relevance_score: of the most that the query could get, 0 to 1."""

    id: str
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: Meta


class TeiResult(TypedDict):
    index: int
    score: float
    text: NotRequired[str]


class ScoreResult(TypedDict):
    index: int
    object: Literal["score"]
    score: float


class Scores(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreResult]
    usage: Usage


@router.post("/v1/indexes/{name}/rerank", response_model=RankedTexts, responses=ASKING)
async def rerank(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[Texts, Body()]
) -> JsonResponse:
    """Texts by how well they match a query, best first, scored as searches of the index score documents."""
    ranked, _ = await _scored(request, state, served, (asked.query, asked.texts, None))
    return JsonResponse({"index": served.name, "results": [asdict(one) for one in ranked[: asked.k]]})


@router.post("/v2/rerank", response_model=Reranked, responses=ASKING)
async def rerank_v2(request: Request, state: TheState, asked: Annotated[Rerank, Body()]) -> JsonResponse:
    """As Cohere's v2 and vLLM's."""
    return JsonResponse(await _reranked(request, state, asked, documents=False))


@router.post("/v1/rerank", response_model=Reranked, responses=ASKING)
async def rerank_v1(request: Request, state: TheState, asked: Annotated[Rerank, Body()]) -> JsonResponse:
    """As Jina's and vLLM's."""
    return JsonResponse(await _reranked(request, state, asked, documents=True))


@router.post("/rerank", response_model=Reranked | list[TeiResult], responses=ASKING)
async def rerank_plain(
    request: Request, state: TheState, asked: Annotated[Rerank | TeiRerank, Body()]
) -> JsonResponse:
    """As vLLM's, or with `texts` as TEI's."""
    if isinstance(asked, Rerank):
        return JsonResponse(await _reranked(request, state, asked, documents=True))
    served = model_of(state.serving, None)
    ranked, _ = await _scored(request, state, served, (asked.query, asked.texts, None))
    results: list[TeiResult] = []
    for one in ranked:
        result: TeiResult = {"index": one.index, "score": one.score if asked.raw_scores else one.relevance}
        if asked.return_text:
            result["text"] = asked.texts[one.index]
        results.append(result)
    return JsonResponse(results)


@router.post("/score", response_model=Scores, responses=ASKING)
async def score(request: Request, state: TheState, asked: Annotated[Score, Body()]) -> JsonResponse:
    """As vLLM's: the relevance of pairs of texts, 0 to 1, in their order."""
    served = model_of(state.serving, asked.model)
    first = _texts(asked.queries, asked.text_1, "queries", "text_1")
    second = _texts(asked.documents, asked.text_2, "documents", "text_2")
    if len(first) not in (1, len(second)):
        raise ArgumentError(
            f"{len(first)} queries and {len(second)} documents; pass one query, or as many as documents"
        )
    common.check_each(state, first)
    common.check_each(state, second)

    def work() -> tuple[list[float], int]:
        if len(first) == 1:
            ranked, tokens = scored(served, first[0], second)
            return [one.relevance for one in sorted(ranked, key=lambda one: one.index)], tokens
        pairs = [scored(served, query, [text]) for query, text in zip(first, second, strict=True)]
        return [ranked[0].relevance for ranked, _ in pairs], sum(tokens for _, tokens in pairs)

    found, tokens = await common.in_time(request, state, work)
    data: list[ScoreResult] = [{"index": i, "object": "score", "score": one} for i, one in enumerate(found)]
    answer: Scores = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": asked.model or served.name,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JsonResponse(answer)


async def _reranked(request: Request, state: State, asked: Rerank, *, documents: bool) -> Reranked:
    served = model_of(state.serving, asked.model)
    texts = [_text(one) for one in asked.documents]
    ranked, tokens = await _scored(
        request, state, served, (_text(asked.query), texts, asked.max_tokens_per_doc)
    )
    repeat = documents if asked.return_documents is None else asked.return_documents
    results: list[RerankResult] = []
    for one in ranked[: asked.top_n or None]:
        result: RerankResult = {"index": one.index, "relevance_score": one.relevance}
        if repeat:
            result["document"] = {"text": texts[one.index]}
        results.append(result)
    return {
        "id": uuid.uuid4().hex,
        "model": asked.model or served.name,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {"api_version": {"version": "2"}},
    }


async def _scored(
    request: Request, state: State, served: Served, asked: tuple[str, list[str], int | None]
) -> tuple[list[Scored], int]:
    """asked: a query, texts, and how many tokens of each count. All texts best first, and the vectors that it took."""
    query, texts, tokens = asked
    common.check_text(state, query, "query")
    common.check_each(state, texts)

    def work() -> tuple[list[Scored], int]:
        return scored(served, query, texts if tokens is None else shortened(served, texts, tokens))

    return await common.in_time(request, state, work)


def _text(given: Text) -> str:
    return given if isinstance(given, str) else given.text


def _texts(one: Any, other: Any, name: str, other_name: str) -> list[str]:
    if (one is None) == (other is None):
        raise ArgumentError(f"pass {name}, or {other_name}, and not both")
    given: str | list[str] = other if one is None else one
    return [given] if isinstance(given, str) else given
