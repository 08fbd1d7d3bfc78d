"""Haystack: one pipeline writes documents to an index, another answers from what it finds there and ranks.

Run: python examples/rag_haystack.py    (extra: haystack)

The language model is Haystack's mock, which repeats what it is asked; put a real one in its place.
"""

import tempfile
from pathlib import Path

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.components.preprocessors import DocumentSplitter
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage, Document
from haystack.document_stores.types import DuplicatePolicy

from retriever.integrations.haystack import LatewoodDocumentStore, LatewoodRanker, LatewoodRetriever

DOCS = Path(__file__).parent.parent / "docs" / "guides"
PAGES = ("filters.md", "gpu.md", "hybrid.md", "own-vectors.md", "rerank.md")
PROMPT = """Answer from these notes alone.
{% for note in documents %}
[{{ note.meta.page }}] {{ note.content }}
{% endfor %}
Question: {{ question }}"""


def writing(store: LatewoodDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("cutter", DocumentSplitter(split_by="word", split_length=150, split_overlap=0))
    pipeline.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipeline.connect("cutter.documents", "writer.documents")
    return pipeline


def asking(store: LatewoodDocumentStore) -> Pipeline:
    others = {"field": "meta.page", "operator": "not in", "value": ["gpu.md"]}
    pipeline = Pipeline()
    pipeline.add_component("retriever", LatewoodRetriever(store, filters=others, top_k=8))
    pipeline.add_component("ranker", LatewoodRanker(top_k=2))
    pipeline.add_component(
        "prompt",
        ChatPromptBuilder([ChatMessage.from_user(PROMPT)], required_variables=["documents", "question"]),
    )
    pipeline.add_component("model", MockChatGenerator())
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "model.messages")
    return pipeline


def main(folder: Path) -> tuple[list[str], str]:
    """The pages that the model was given, best first, and its answer."""
    store = LatewoodDocumentStore(str(folder))
    pages = [Document(content=(DOCS / page).read_text("utf-8"), meta={"page": page}) for page in PAGES]
    written = writing(store).run({"cutter": {"documents": pages}})
    print(written["writer"]["documents_written"], "documents")
    kept = asking(store).dumps()  # YAML, as a file of a deployed pipeline
    pipeline = Pipeline.loads(kept, allowed_modules=["retriever.integrations.haystack"])
    question = "which characters of a filter become SQL?"
    parts = {
        "retriever": {"query": question},
        "ranker": {"query": question},
        "prompt": {"question": question},
    }
    found = pipeline.run(parts, include_outputs_from={"ranker"})
    for document in found["ranker"]["documents"]:
        print(f"{document.meta['page']} ({document.score:.2f}): {document.content[:60]!r}")
    answer = found["model"]["replies"][0].text
    print(answer)
    pipeline.get_component("retriever").document_store.close()
    store.close()
    return [document.meta["page"] for document in found["ranker"]["documents"]], answer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "pages.index")
