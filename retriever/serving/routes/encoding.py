"""Token vectors of texts: ours, and as vLLM's `/pooling` gives them."""

import base64
import time
import uuid
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Body, Request
from pydantic import Field
from typing_extensions import TypedDict

from retriever.serving.indexes import Served
from retriever.serving.rerank import encoded, model_of
from retriever.serving.routes import common
from retriever.serving.routes.common import ASKING, AskedBody, JsonResponse, State, TheIndex, TheState
from retriever.serving.routes.reranking import Usage

__all__ = ["router"]

router = APIRouter(tags=["encode"])
Vectors = npt.NDArray[np.float32]


class Encode(AskedBody):
    """base64 is of float32, the lowest byte first, (n_tokens, dim) in rows."""

    texts: list[str] = Field(examples=[["The heart pumps blood."]])
    kind: Literal["query", "document"] = "document"
    format: Literal["lists", "base64"] = "lists"


class Pooling(AskedBody):
    """vLLM's. input_type: ours; documents are what an index is made of."""

    model: str | None = None
    input: str | list[str] = Field(examples=[["The heart pumps blood."]])
    task: Literal["token_embed"] = "token_embed"
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "document"] = "document"
    user: str | None = None


class TextVectors(TypedDict):
    n_tokens: int
    vectors: list[list[float]] | str


class Encoded(TypedDict):
    index: str
    encoder: str | None
    dim: int
    data: list[TextVectors]


class Pooled(TypedDict):
    index: int
    object: Literal["pooling"]
    data: list[list[float]] | str


class PooledTexts(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: Usage


@router.post("/v1/indexes/{name}/encode", response_model=Encoded, responses=ASKING)
async def encode(
    request: Request, state: TheState, served: TheIndex, asked: Annotated[Encode, Body()]
) -> JsonResponse:
    """A vector of unit length for each token, by the encoder of the index."""
    found = await _encoded(request, state, served, (asked.texts, asked.kind))
    settings = served.snapshot.settings
    answer: Encoded = {
        "index": served.name,
        "encoder": settings.encoder_name,
        "dim": settings.dim,
        "data": [{"n_tokens": len(one), "vectors": _written(one, asked.format == "base64")} for one in found],
    }
    return JsonResponse(answer)


@router.post("/pooling", response_model=PooledTexts, responses=ASKING)
async def pooling(request: Request, state: TheState, asked: Annotated[Pooling, Body()]) -> JsonResponse:
    """As vLLM's with the task `token_embed`: a vector of unit length for each token."""
    served = model_of(state.serving, asked.model)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    found = await _encoded(request, state, served, (texts, asked.input_type))
    tokens = sum(len(one) for one in found)
    in_base64 = asked.encoding_format == "base64"
    answer: PooledTexts = {
        "id": f"pool-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": asked.model or served.name,
        "data": [
            {"index": i, "object": "pooling", "data": _written(one, in_base64)} for i, one in enumerate(found)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JsonResponse(answer)


async def _encoded(
    request: Request, state: State, served: Served, asked: tuple[list[str], str]
) -> list[Vectors]:
    texts, kind = asked
    common.check_each(state, texts)
    return await common.in_time(request, state, lambda: encoded(served, texts, queries=kind == "query"))


def _written(vectors: Vectors, in_base64: bool) -> Any:
    if in_base64:
        return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode()
    return vectors.tolist()
