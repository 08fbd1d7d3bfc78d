"""What routes share: the state of the application, an index by its name, answers as JSON."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from encoder.arguments import did_you_mean, shown
from encoder.errors import ArgumentError
from retriever.serving.batching import Batcher, Threads
from retriever.serving.errors import ProblemError, busy, refusals
from retriever.serving.indexes import Answer, Asked, Served, Serving
from retriever.serving.metrics import Metrics
from retriever.serving.settings import Limits, ServeSettings

__all__ = [
    "ASKING",
    "AskedBody",
    "JsonResponse",
    "State",
    "TheIndex",
    "TheState",
    "check_each",
    "check_text",
    "in_time",
    "while_there",
]

ASKING = refusals(400, 404, 408, 413, 422)  # of a route that takes a body of JSON

Result = TypeVar("Result")


@dataclass
class State:
    """Of one application. ready: whether everything is loaded."""

    settings: ServeSettings
    serving: Serving
    batchers: dict[str, Batcher[Asked, Answer]]
    threads: Threads
    writes: dict[str, Threads]
    uploads: anyio.CapacityLimiter
    metrics: Metrics
    ready: bool = False

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by queue."""
        found = {f"search {name}": batcher.waiting for name, batcher in self.batchers.items()}
        found |= {f"write {name}": writes.waiting for name, writes in self.writes.items()}
        return found | {"other": self.threads.waiting}

    @property
    def limits(self) -> Limits:
        return self.settings.limits


# `async`, though they wait for nothing: FastAPI takes a plain function to a thread.
async def _state(request: Request) -> State:
    state: State = request.app.state.latewood
    return state


TheState = Annotated[State, Depends(_state)]


async def _index(
    request: Request, name: Annotated[str, Path(description="Of the index.", examples=["docs"])]
) -> Served:
    serving = (await _state(request)).serving
    try:
        return serving[name]
    except KeyError:
        near = did_you_mean(name, serving)
        raise ProblemError(404, f"there is no index {shown(name)}; {near}") from None


TheIndex = Annotated[Served, Depends(_index)]


class AskedBody(BaseModel):
    """JSON that is asked with: values of their own types, and no fields that are not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class JsonResponse(Response):
    """Written by pydantic's encoder, in UTF-8; infinities, which JSON has not, are null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content, inf_nan_mode="null")


async def while_there(
    request: Request, work: Callable[[], Awaitable[Result]], seconds: float = math.inf
) -> Result:
    """What `work` gives, as long as the client is there and the time is not over; then it is cancelled."""
    found: list[Result] = []
    failed: list[Exception] = []
    gone = False
    async with anyio.create_task_group() as group:

        async def cancel_when_gone() -> None:
            nonlocal gone
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True
            group.cancel_scope.cancel()

        group.start_soon(cancel_when_gone)
        with anyio.move_on_after(seconds):
            try:
                found.append(await work())
            except Exception as error:  # raised here it would be one of a group
                failed.append(error)
        group.cancel_scope.cancel()
    if failed:
        raise failed[0]
    if gone and not found:
        raise ClientDisconnect
    if not found:
        raise busy(f"no answer within {seconds:g} s; ask for less at a time, or try again")
    return found[0]


async def in_time(request: Request, state: State, work: Callable[[], Result]) -> Result:
    """What `work` gives, in a thread; `while_there` and within the time limit."""
    return await while_there(request, lambda: state.threads.run(work), state.limits.timeout)


def check_text(state: State, text: str, what: str) -> None:
    """Raises ArgumentError for a text beyond the limit."""
    most = state.limits.max_chars
    if len(text) > most:
        raise ArgumentError(f"{what} has {len(text):,} characters; pass at most {most:,}")


def check_each(state: State, texts: list[str], what: str = "texts", most: int | None = None) -> None:
    """Raises ArgumentError for more texts than a request may have, and for one beyond the limit.

    most: texts; by default as many as are reranked or encoded.
    """
    most = state.limits.max_texts if most is None else most
    if len(texts) > most:
        raise ArgumentError(f"{len(texts):,} {what} are too many; pass at most {most:,} a request")
    for i, text in enumerate(texts):
        check_text(state, text, f"{what}[{i}]")
