"""LangChain: keep documents in a vector store, and have a chain answer from what it finds.

Run: python examples/rag_langchain.py    (extra: langchain)

The language model is LangChain's fake one, which says what it is told to; put a real one in its place.
"""

import tempfile
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from latewood import Encoder
from retriever.integrations.langchain import LatewoodRetriever, LatewoodVectorStore

DOCS = Path(__file__).parent.parent / "docs" / "guides"
PAGES = ("filters.md", "gpu.md", "hybrid.md", "own-vectors.md", "rerank.md")
PROMPT = ChatPromptTemplate.from_template(
    "Answer from these notes alone.\n\n{context}\n\nQuestion: {question}"
)


def notes(documents: list[Document]) -> str:
    return "\n\n".join(f"[{document.metadata['page']}] {document.page_content}" for document in documents)


def main(folder: Path, model: BaseChatModel | None = None) -> tuple[list[str], str]:
    """The pages that the model was given, best first, and its answer."""
    model = model or FakeListChatModel(
        responses=["None of it: keys and values are bound parameters [filters.md]."]
    )
    encoder = Encoder.load(document_length=512)  # longer pages have several passages
    with LatewoodVectorStore(folder, encoder) as store:
        texts = [(DOCS / page).read_text("utf-8") for page in PAGES]
        store.add_texts(
            texts, [{"page": page} for page in PAGES], ids=list(PAGES)
        )  # again: nothing is encoded
        retriever = LatewoodRetriever(index=store, k=3, by="passage", filter={"page": {"$ne": "gpu.md"}})
        chain = RunnablePassthrough.assign(found=lambda asked: retriever.invoke(asked["question"])).assign(
            answer=RunnablePassthrough.assign(context=lambda asked: notes(asked["found"]))
            | PROMPT
            | model
            | StrOutputParser()
        )
        answer = chain.invoke({"question": "which characters of a filter become SQL?"})
    for document in answer["found"]:
        print(f"{document.metadata['page']}: {document.page_content[:60]!r}")
    print(answer["answer"])
    return [document.metadata["page"] for document in answer["found"]], answer["answer"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place) / "pages.index")
