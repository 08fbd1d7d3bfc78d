"""LlamaIndex: keep nodes in a vector store, and have a query engine answer from what it finds and reranks.

Run: python examples/rag_llamaindex.py    (extra: llamaindex)

The language model is LlamaIndex's mock, which repeats what it is asked; put a real one in its place. No embedding
model is involved: the index encodes texts itself.
"""

import tempfile
from pathlib import Path

from llama_index.core.llms import LLM, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from latewood import Encoder
from retriever.integrations.llamaindex import LatewoodReranker, LatewoodRetriever, LatewoodVectorStore

DOCS = Path(__file__).parent.parent / "docs" / "guides"
PAGES = ("filters.md", "gpu.md", "hybrid.md", "own-vectors.md", "rerank.md")


def main(folder: Path, model: LLM | None = None) -> tuple[list[str], str]:
    """The pages that the model was given, best first, and its answer."""
    encoder = Encoder.load()
    documents = [
        Document(doc_id=page, text=(DOCS / page).read_text("utf-8"), metadata={"page": page})
        for page in PAGES
    ]
    with LatewoodVectorStore(folder, encoder) as store:
        store.add(SentenceSplitter(chunk_size=256, chunk_overlap=0).get_nodes_from_documents(documents))
        store.delete("gpu.md")  # all nodes of that document
        others = MetadataFilters(
            filters=[MetadataFilter(key="page", operator=FilterOperator.NE, value="rerank.md")]
        )
        engine = RetrieverQueryEngine.from_args(
            LatewoodRetriever(store, similarity_top_k=8, filters=others),
            llm=model or MockLLM(),
            node_postprocessors=[LatewoodReranker(encoder=encoder, top_n=2)],
        )
        answer = engine.query("which characters of a filter become SQL?")
    for node in answer.source_nodes:
        print(f"{node.metadata['page']} ({node.score:.2f}): {node.text[:60]!r}")
    print(str(answer))
    return [node.metadata["page"] for node in answer.source_nodes], str(answer)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "pages.index")
