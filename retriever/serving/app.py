"""create_app: the ASGI application, its lifespan and its OpenAPI document."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from encoder.errors import LatewoodError
from retriever.options import Mode, SearchOptions
from retriever.serving.batching import Batcher, Threads
from retriever.serving.errors import MEDIA_TYPE, Problem, add_handlers, refusals
from retriever.serving.indexes import Served, Serving, open_indexes
from retriever.serving.metrics import Counted, Metrics
from retriever.serving.routes import documents, encoding, health, reranking, searching
from retriever.serving.routes.common import State, TheState
from retriever.serving.security import Guard
from retriever.serving.settings import ServeSettings

__all__ = ["create_app"]

PAGE = Path(__file__).parent / "page"
RELOAD_SECONDS = 0.25
FOLLOW_SECONDS, PAUSE_SECONDS = 2.0, 0.1  # between looks at a folder: with everything encoded, and not
THREADS = 4
UPLOADS = 4  # bodies of documents that are received at a time
log = logging.getLogger("latewood")


def create_app(
    settings: ServeSettings, serving: Serving | None = None, *, ready: Callable[[], None] = lambda: None
) -> FastAPI:
    """An application for any ASGI server.

    serving: what `open_indexes` gives; without it the application opens the indexes of the settings when it starts, and
    closes them when it ends. ready: is called when all is loaded that takes a while.
    """

    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened: AbstractContextManager[Serving] = (
            open_indexes(settings, log.warning) if serving is None else nullcontext(serving)
        )
        with opened as served:
            async with _running(settings, served, metrics, ready) as app.state.latewood:
                yield

    app = FastAPI(
        title="Latewood",
        version=metadata.version("latewood"),
        description="Late-interaction search over HTTP.",
        lifespan=lifespan,
        docs_url=None,  # their scripts are from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    add_handlers(app)
    for routes in (health, searching, documents, reranking, encoding):
        app.include_router(routes.router)
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/metrics", response_class=PlainTextResponse, responses=refusals(), tags=["health"])
    async def prometheus(state: TheState) -> PlainTextResponse:
        """Counters and times, in Prometheus' text form."""
        return PlainTextResponse(await state.threads.run(metrics.text), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Guard, settings=settings)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Counted, metrics=metrics)
    app.openapi = lambda: _openapi(app, type(app).openapi(app))  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _running(
    settings: ServeSettings, serving: Serving, metrics: Metrics, ready: Callable[[], None]
) -> AsyncIterator[State]:
    limits = settings.limits
    batchers = {
        name: Batcher(metrics.search_of(served), waiting=limits.max_waiting, seconds=limits.batch_ms / 1000)
        for name, served in serving.items()
    }
    state = State(
        settings,
        serving,
        batchers,
        threads=Threads(THREADS, waiting=limits.max_waiting),
        writes={name: Threads(1, waiting=limits.max_waiting) for name in serving},
        uploads=anyio.CapacityLimiter(UPLOADS),
        metrics=metrics,
    )
    with metrics.watching(serving, state.waiting):
        async with anyio.create_task_group() as group:
            for name, served in serving.items():
                for _ in range(served.at_once):
                    await group.start(batchers[name].run)
                group.start_soon(_follow, served, metrics)
                if served.folder is not None:
                    group.start_soon(_keep_up, served)
            group.start_soon(_warm, state, ready)
            yield state
            group.cancel_scope.cancel()


async def _follow(served: Served, metrics: Metrics) -> None:
    """Move to what other processes commit."""
    faults = _Faults(served)
    while True:
        await anyio.sleep(RELOAD_SECONDS)
        with faults:
            if await anyio.to_thread.run_sync(served.reload):
                metrics.reloads.labels(served.name).inc()


async def _keep_up(served: Served) -> None:
    """Follow a folder: often, and for no more than a tenth of the time while nothing waits to be encoded."""
    faults, took = _Faults(served), 0.0
    while True:
        waits = bool(served.snapshot.n_unencoded)
        await anyio.sleep(PAUSE_SECONDS if waits else max(FOLLOW_SECONDS, 9 * took))
        started = time.monotonic()
        with faults:
            await anyio.to_thread.run_sync(served.keep_up)
        took = time.monotonic() - started


class _Faults:
    """A context in which what goes wrong is told once, and what is open is searched on."""

    def __init__(self, served: Served) -> None:
        self._served, self._told = served, ""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        told = str(error) if isinstance(error, LatewoodError | OSError) else ""
        if told and told != self._told:
            log.warning("%s: %s", self._served.name, told)
        self._told = told
        return bool(told)


async def _warm(state: State, ready: Callable[[], None]) -> None:
    """Load encoders before the first client asks, and then kernels, without which numpy answers: all that can be."""
    for name, batcher in state.batchers.items():
        mode: Mode | None = None if state.serving[name].snapshot.settings.encoder else "lexical"
        try:
            [answer] = await batcher.ask([("warm up", SearchOptions(k=1, mode=mode))])
            if isinstance(answer.hits, LatewoodError):
                raise answer.hits
        except (LatewoodError, OSError) as error:  # a model that is gone: words can still be searched for
            log.error("%s: %s", name, error)
    state.ready = True
    for served in state.serving.values():
        await anyio.to_thread.run_sync(served.searcher.load_kernels)
    ready()


def _openapi(app: FastAPI, document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's own, where what is refused is a Problem."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    if "Problem" not in schemas:
        schemas["Problem"] = Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for operations in document["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        response["content"] = content
    return document
