"""`/v1/indexes`: what is served, and searching it."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import anyio.from_thread
from fastapi import APIRouter, Body, Query, Request

from encoder.errors import LatewoodError
from retriever.code.search import CodeOptions
from retriever.serving.errors import refusals
from retriever.serving.indexes import Answer, Served
from retriever.serving.models import (
    Info,
    Infos,
    ResultJson,
    SearchBody,
    SearchedJson,
    SearchesJson,
    SearchParameters,
    Shown,
    code_options_of,
    hit_json,
    options_of,
)
from retriever.serving.routes import common
from retriever.serving.routes.common import ASKING, JsonResponse, State, TheIndex, TheState

__all__ = ["router"]

INLINE_HITS = 50  # of so many the answer is written on the event loop: that is faster than going to a thread

router = APIRouter(prefix="/v1/indexes", tags=["search"])


@router.get("", response_model=Infos, responses=refusals())
async def list_indexes(state: TheState) -> JsonResponse:
    """All indexes that are served."""
    infos = [await state.threads.run(served.info) for served in state.serving.values()]
    return JsonResponse({"indexes": infos})


@router.get("/{name}", response_model=Info, responses=refusals(404))
async def index_info(state: TheState, served: TheIndex) -> JsonResponse:
    """What an index holds. generation: of its newest commit. metadata_keys: what a filter may name."""
    return JsonResponse(await state.threads.run(served.info))


@router.get("/{name}/search", response_model=SearchedJson, responses=refusals(404, 422))
async def search_by_parameters(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[SearchParameters, Query()]
) -> JsonResponse:
    """The k best documents for a text, best first."""
    [result] = await _results(request, state, _Search(state, served, [asked.q], asked))
    return JsonResponse({"index": served.name, **result})


@router.post("/{name}/search", response_model=SearchedJson | SearchesJson, responses=ASKING)
async def search(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[SearchBody, Body()]
) -> JsonResponse:
    """The k best documents for a text, or for each of several, best first."""
    several = "queries" in asked.model_fields_set
    texts = asked.queries if several else [asked.query]
    results = await _results(request, state, _Search(state, served, texts, asked))
    return JsonResponse({"index": served.name} | ({"results": results} if several else results[0]))


class _Search:
    """What is asked of an index. Raises ArgumentError for options that cannot work."""

    def __init__(self, state: State, served: Served, texts: list[str], shown: Shown) -> None:
        self.served, self.texts, self.shown = served, texts, shown
        self.options = options_of(shown, state.limits.max_k)
        self.code = code_options_of(shown, served.holds_code)

    def check(self, state: State) -> None:
        """Raises ArgumentError for what is beyond a limit."""
        options = self.options
        if len(self.texts) == 1:
            common.check_text(state, self.texts[0], "query")
        else:
            common.check_each(state, self.texts, "queries", state.limits.max_queries)
        code = self.code or CodeOptions()
        given = {"filter": options.filter, "regex": code.regex, "paths": "".join(code.paths)}
        for name, value in given.items():
            common.check_text(state, value or "", name)

    async def results(self, state: State) -> list[ResultJson]:
        if self.code is not None:
            return await state.threads.run(self._of_code)
        asked = [(text, self.options) for text in self.texts]
        answers = await state.batchers[self.served.name].ask(asked)
        if self.shown.explain or self.options.k * len(asked) > INLINE_HITS:
            return await state.threads.run(
                lambda: self._of_documents(answers, anyio.from_thread.check_cancelled)
            )
        return self._of_documents(answers)

    def _of_documents(
        self, answers: Sequence[Answer], check: Callable[[], None] = lambda: None
    ) -> list[ResultJson]:
        """check: is called in between, and may raise."""
        results: list[ResultJson] = []
        for text, (hits, options, seconds) in zip(self.texts, answers, strict=True):
            if isinstance(hits, LatewoodError):
                raise hits
            check()
            results.append(
                {
                    "query": text,
                    "hits": [hit_json(hit, self.shown) for hit in hits],
                    "documents": hits.documents,
                    "unencoded": hits.unencoded,
                    "generation": hits.generation,
                    "mode": self.served.searcher.mode(options),
                    "seconds": {"encode": seconds.encode, "search": seconds.search},
                }
            )
            _name_missing(results[-1], hits.missing)
        return results

    def _of_code(self) -> list[ResultJson]:
        results: list[ResultJson] = []
        for text in self.texts:
            anyio.from_thread.check_cancelled()
            started = time.perf_counter()
            assert self.code is not None
            hits, now = self.served.search_code(text, self.options, self.code)
            seconds = time.perf_counter() - started
            results.append(
                {
                    "query": text,
                    "hits": [hit_json(hit, self.shown) for hit in hits],
                    "documents": len(now),
                    "unencoded": now.n_unencoded,
                    "generation": now.state.generation,
                    "mode": self.served.searcher.mode(self.options),
                    "seconds": {"encode": 0.0, "search": seconds},
                }
            )
            _name_missing(results[-1], hits.missing)
        return results


def _name_missing(result: ResultJson, missing: Sequence[str]) -> None:
    if missing:
        result["partial"], result["missing"] = True, list(missing)


async def _results(request: Request, state: State, asked: _Search) -> list[ResultJson]:
    asked.check(state)
    return await common.while_there(request, lambda: asked.results(state), state.limits.timeout)
