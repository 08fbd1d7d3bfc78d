"""`/v1/indexes/{name}/documents`: reading what is stored."""

from typing import Annotated

from fastapi import APIRouter, Path

from encoder.arguments import shown
from retriever.serving.errors import ProblemError, refusals
from retriever.serving.models import DocumentJson
from retriever.serving.routes.common import JsonResponse, TheIndex, TheState

__all__ = ["DocumentId", "router"]

DocumentId = Annotated[
    str, Path(description="Of the document; a slash may stand as it is.", examples=["bank"])
]

router = APIRouter(prefix="/v1/indexes/{name}/documents", tags=["documents"])


@router.get("/{doc_id:path}", response_model=DocumentJson, responses=refusals(404, 422))
async def document(state: TheState, served: TheIndex, doc_id: DocumentId) -> JsonResponse:
    """A document's text and metadata."""
    [found] = await state.threads.run(lambda: served.snapshot.get([doc_id]))
    if found is None:
        raise ProblemError(404, f"there is no document {shown(doc_id)} in {served.name}")
    return JsonResponse({"doc_id": found.doc_id, "text": found.text, "metadata": found.metadata})
