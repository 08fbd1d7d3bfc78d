"""`/v1/indexes/{name}/documents`: reading what is stored and, of a writable server, changing it."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi import Path as Part
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from encoder.arguments import shown
from retriever.serving import writing
from retriever.serving.errors import ProblemError, refusals
from retriever.serving.indexes import Served
from retriever.serving.models import DocumentJson
from retriever.serving.routes.common import AskedBody, JsonResponse, State, TheIndex, TheState, while_there

__all__ = ["router"]

DocumentId = Annotated[
    str, Part(description="Of the document; a slash may stand as it is.", examples=["bank"], min_length=1)
]
Encode = Annotated[
    bool, Query(description="Make the vectors before the answer. Without them words alone find a document.")
]
WRITING = refusals(400, 404, 408, 409, 413, 422)

router = APIRouter(prefix="/v1/indexes/{name}", tags=["documents"])


class Content(AskedBody):
    """A document without its doc_id."""

    text: str = Field(examples=["The central bank raised interest rates."])
    metadata: dict[str, Any] = Field({}, examples=[{"lang": "en"}])


class Document(Content):
    doc_id: str = Field(examples=["bank"], min_length=1)


class Documents(AskedBody):
    documents: list[Document]


class ByFilter(AskedBody):
    filter: str = Field(description="All documents that meet it are deleted.", examples=["lang = 'en'"])


class Added(TypedDict):
    """As `AddReport`; documents, unencoded, generation: of the index after it."""

    added: int
    replaced: int
    unchanged: int
    truncated: int
    windowed: int
    passages: int
    tokens: int
    documents: int
    unencoded: int
    generation: int


class Deleted(TypedDict):
    deleted: int
    documents: int
    unencoded: int
    generation: int


async def _writable(served: TheIndex) -> Served:
    if not served.writable:
        raise ProblemError(403, f"{served.name} is only read here; start the server with --writable")
    return served


Writable = Annotated[Served, Depends(_writable)]


@router.get("/documents/{doc_id:path}", response_model=DocumentJson, responses=refusals(404, 422))
async def document(state: TheState, served: TheIndex, doc_id: DocumentId) -> JsonResponse:
    """A document's text and metadata."""
    [found] = await state.threads.run(lambda: served.snapshot.get([doc_id]))
    if found is None:
        raise ProblemError(404, f"there is no document {shown(doc_id)} in {served.name}")
    return JsonResponse({"doc_id": found.doc_id, "text": found.text, "metadata": found.metadata})


@router.put("/documents/{doc_id:path}", response_model=Added, responses=WRITING)
async def put_document(
    request: Request,
    state: TheState,
    served: Writable,
    doc_id: DocumentId,
    content: Annotated[Content, Body()],
    encode: Encode = True,
) -> JsonResponse:
    """Add a document, or replace the one of this doc_id."""
    one = {"doc_id": doc_id, **content.model_dump()}
    return await _written(request, state, served, lambda: writing.add(served, [one], encode=encode))


@router.delete("/documents/{doc_id:path}", response_model=Deleted, responses=WRITING)
async def delete_document(
    request: Request, state: TheState, served: Writable, doc_id: DocumentId
) -> JsonResponse:
    """Delete a document. One that is not there is no error: deleted is 0."""
    return await _written(request, state, served, lambda: writing.delete(served, [doc_id]))


@router.post("/delete", response_model=Deleted, responses=WRITING)
async def delete_by_filter(
    request: Request, state: TheState, served: Writable, which: Annotated[ByFilter, Body()]
) -> JsonResponse:
    """Delete all documents that meet a filter."""
    return await _written(request, state, served, lambda: writing.delete(served, filter=which.filter))


ONE = {"doc_id": "bank", "text": "The central bank raised interest rates.", "metadata": {"lang": "en"}}
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": Documents.model_json_schema(), "example": {"documents": [ONE]}},
        "application/x-ndjson": {
            "schema": {"type": "string", "description": "A document a line."},
            "example": '{"doc_id": "bank", "text": "The central bank raised interest rates."}\n',
        },
    },
}


@router.post(
    "/documents",
    response_model=Added,
    responses=WRITING | refusals(415),
    openapi_extra={"requestBody": BODY},
)
async def add_documents(
    request: Request, state: TheState, served: Writable, encode: Encode = True
) -> JsonResponse:
    """Add or replace documents: as JSON, or as NDJSON, a document a line, of any number.

    All of the body is received, and written to a temporary file, before anything is stored.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        some = _documents(await request.body())
        return await _written(request, state, served, lambda: writing.add(served, some, encode=encode))
    if kind != "application/x-ndjson":
        raise ProblemError(
            415, f"the body is {kind or 'of no type'}; send application/json or application/x-ndjson"
        )
    async with state.uploads:
        with tempfile.TemporaryDirectory(prefix="latewood-") as folder:
            path = Path(folder) / "body.jsonl"
            async with await anyio.open_file(path, "wb") as file:
                async for chunk in request.stream():
                    await file.write(chunk)
            lines = writing.documents_of(path, state.limits.max_body)
            return await _written(request, state, served, lambda: writing.add(served, lines, encode=encode))


def _documents(body: bytes) -> list[dict[str, Any]]:
    try:
        found = TypeAdapter(Documents).validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        ) from None
    return [one.model_dump() for one in found.documents]


async def _written(request: Request, state: State, served: Served, work: Any) -> JsonResponse:
    """One write after the other; one that has begun is ended, and has no time limit."""
    writes = state.writes[served.name]
    return JsonResponse(await while_there(request, lambda: writes.run(work)))
