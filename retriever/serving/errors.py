"""Errors as problem+json (RFC 9457): the fact, the value and the remedy in `detail`, as everywhere."""

import http
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from encoder.errors import CheckpointError, IndexFormatError, IndexLockedError, LatewoodError, StorageError

__all__ = ["MEDIA_TYPE", "Problem", "ProblemError", "add_handlers", "busy", "problem", "refusals"]

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "1"


class Problem(BaseModel):
    """RFC 9457. detail: one line with the fact, the value and the remedy."""

    type: str = Field(default="about:blank", examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["k=0; pass k >= 1"])


class ProblemError(HTTPException):
    """An error with its status."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def busy(detail: str) -> ProblemError:
    return ProblemError(503, detail, {"Retry-After": RETRY_SECONDS})


# Why a request may be refused, for the OpenAPI document.
REFUSALS = {
    400: "The body is no JSON, or no HTTP.",
    401: "A token is needed, or this is not it.",
    403: "The Host or the Origin is foreign, or the server is read-only.",
    404: "There is no such index, document or model.",
    408: "The body did not come in time.",
    409: "Another process writes to the index.",
    415: "The body is of another type.",
    413: "The body is beyond a limit.",
    422: "A value cannot be used.",
    503: "Too many wait, or the disk or the index failed; try again.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: those beside the ones that every request may get."""
    return {status: {"description": REFUSALS[status]} for status in (401, 403, 503, *statuses)}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    body = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(LatewoodError, _of_ours)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_a_model)
    app.add_exception_handler(ClientDisconnect, _of_one_who_left)
    app.add_exception_handler(Exception, _of_a_bug)


async def _of_ours(request: Request, error: Exception) -> JSONResponse:
    told = str(error)
    for place, name in request.app.state.latewood.serving.places:
        told = told.replace(place, name)  # where things lie on this disk is no client's concern
    if isinstance(error, IndexLockedError):
        return problem(409, told)
    if isinstance(error, StorageError | IndexFormatError | CheckpointError):
        logging.getLogger("latewood").error("%s %s: %s", request.method, request.url.path, error)
        return problem(503, told, {"Retry-After": RETRY_SECONDS})
    return problem(422, told)


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        told = f"{request.method} is not for {request.url.path}; send {allowed}"
        return problem(405, told, {"Allow": allowed})
    return problem(error.status_code, str(error.detail), error.headers)


def _allowed(request: Request) -> list[str]:
    """Of a path: Starlette names those of the first route alone."""
    routes = request.app.router.routes
    return [
        method
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _of_a_model(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"][1:]]
    where, told = ".".join(place) or str(first["loc"][0]), str(first["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        return problem(400, f"the body is no JSON: {first['ctx']['error']} at character {where}; send JSON")
    if kind == "missing":
        return problem(422, f"there is no {where}; give it")
    if kind == "extra_forbidden":
        return problem(422, f"{where} is not known here; leave it out, or see /openapi.json")
    if not place:
        return problem(422, told)
    return problem(422, f"{where}={first['input']!r:.60}; {told[:1].lower()}{told[1:]}")


async def _of_one_who_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; in the metrics it is told apart


async def _of_a_bug(request: Request, error: Exception) -> JSONResponse:
    return problem(500, "the server failed; its log says why")
