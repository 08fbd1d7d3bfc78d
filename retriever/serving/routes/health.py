"""Whether the server lives, and whether it can answer."""

from fastapi import APIRouter
from typing_extensions import TypedDict

from retriever.serving.errors import busy, refusals
from retriever.serving.routes.common import TheState

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Health(TypedDict):
    status: str


@router.get("/healthz", responses=refusals())
async def healthz() -> Health:
    """Whether the server lives."""
    return {"status": "ok"}


@router.get("/readyz", responses=refusals())
async def readyz(state: TheState) -> Health:
    """Whether everything is loaded: a search before that waits for it."""
    if not state.ready:
        raise busy("the models are being loaded; try again in a second")
    return {"status": "ready"}
