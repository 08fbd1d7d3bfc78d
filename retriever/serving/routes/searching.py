"""`/v1/indexes`: what is served, and searching it."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request

from encoder.errors import ArgumentError, LatewoodError
from retriever.options import SearchOptions
from retriever.serving.errors import refusals
from retriever.serving.indexes import Answer, Served
from retriever.serving.models import (
    Explain,
    Info,
    Infos,
    ResultJson,
    SearchBody,
    SearchedJson,
    SearchesJson,
    SearchParameters,
    hit_json,
    options_of,
)
from retriever.serving.routes.common import (
    JsonResponse,
    State,
    TheIndex,
    TheState,
    check_count,
    check_texts,
    in_a_thread,
    while_there,
)

__all__ = ["router"]

INLINE_HITS = 50  # of so many the answer is written on the event loop: that is faster than going to a thread

router = APIRouter(prefix="/v1/indexes", tags=["search"])


@router.get("", response_model=Infos, responses=refusals())
async def list_indexes(state: TheState) -> JsonResponse:
    """All indexes that are served."""
    infos = [await in_a_thread(state, served.info) for served in state.serving.values()]
    return JsonResponse({"indexes": infos})


@router.get("/{name}", response_model=Info, responses=refusals(404))
async def index_info(state: TheState, served: TheIndex) -> JsonResponse:
    """What an index holds. generation: of its newest commit. metadata_keys: what a filter may name."""
    return JsonResponse(await in_a_thread(state, served.info))


@router.get("/{name}/search", response_model=SearchedJson, responses=refusals(404, 422))
async def search_by_parameters(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[SearchParameters, Query()]
) -> JsonResponse:
    """The k best documents for a text, best first."""
    [result] = await _results(request, state, served, [asked.q], (options_of(asked), asked.explain))
    return JsonResponse({"index": served.name, **result})


@router.post(
    "/{name}/search", response_model=SearchedJson | SearchesJson, responses=refusals(400, 404, 408, 413, 422)
)
async def search(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[SearchBody, Body()]
) -> JsonResponse:
    """The k best documents for a text, or for each of several, best first."""
    several = "queries" in asked.model_fields_set
    texts = asked.queries if several else [asked.query]
    results = await _results(request, state, served, texts, (options_of(asked), asked.explain))
    return JsonResponse({"index": served.name} | ({"results": results} if several else results[0]))


async def _results(
    request: Request,
    state: State,
    served: Served,
    texts: list[str],
    asked: tuple[SearchOptions, Explain],
) -> list[ResultJson]:
    options, explain = asked
    limits = state.limits
    check_count(len(texts), limits.max_queries, "queries")
    check_texts(state, texts, "query")
    if options.k > limits.max_k:
        raise ArgumentError(f"k={options.k}; pass k <= {limits.max_k}")
    if options.filter is not None and len(options.filter) > limits.max_chars:
        raise ArgumentError(
            f"filter has {len(options.filter):,} characters; pass at most {limits.max_chars:,}"
        )

    async def work() -> list[ResultJson]:
        answers = await state.batchers[served.name].ask([(text, options) for text in texts])
        if explain or options.k * len(texts) > INLINE_HITS:
            return await in_a_thread(state, lambda: _written(texts, answers, explain))
        return _written(texts, answers, explain)

    return await while_there(request, state, work)


def _written(texts: list[str], answers: Sequence[Answer], explain: Explain) -> list[ResultJson]:
    results: list[ResultJson] = []
    for text, (hits, options, seconds) in zip(texts, answers, strict=True):
        if isinstance(hits, LatewoodError):
            raise hits
        results.append(
            {
                "query": text,
                "hits": [hit_json(hit, explain) for hit in hits],
                "documents": hits.documents,
                "unencoded": hits.unencoded,
                "generation": hits.generation,
                "mode": options.mode,
                "seconds": {"encode": seconds.encode, "search": seconds.search},
            }
        )
    return results
