"""One store, many threads and tasks: what each adds it finds at once, and nothing waits for ever."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.fakes import DIM, FakeEncoder

THREADS, TASKS = 16, 64
MODULES = {"langchain": "langchain_core", "llamaindex": "llama_index.core", "haystack": "haystack"}


class LangChain:
    def __init__(self, path):
        from retriever.integrations.langchain import LatewoodVectorStore

        self.adapter = LatewoodVectorStore(path, FakeEncoder(DIM, windows=True))

    def add(self, doc_id, text):
        self.adapter.add_texts([text], [{"n": len(text)}], ids=[doc_id])

    def search(self, text):
        return [d.id for d in self.adapter.similarity_search(text, 2, filter={"n": {"$ne": None}})]

    async def aadd(self, doc_id, text):
        await self.adapter.aadd_texts([text], [{"n": len(text)}], ids=[doc_id])

    def ids(self):
        return self.adapter.store.now.ids()

    async def asearch(self, text):
        return [d.id for d in await self.adapter.asimilarity_search(text, 2)]


class LlamaIndex:
    def __init__(self, path):
        from llama_index.core.schema import TextNode
        from llama_index.core.vector_stores import VectorStoreQuery

        from retriever.integrations.llamaindex import LatewoodVectorStore

        self.node, self.query = TextNode, VectorStoreQuery
        self.adapter = LatewoodVectorStore(path, FakeEncoder(DIM, windows=True))

    def add(self, doc_id, text):
        self.adapter.add([self.node(id_=doc_id, text=text)])

    def search(self, text):
        return self.adapter.query(self.query(query_str=text, similarity_top_k=2)).ids

    async def aadd(self, doc_id, text):
        await self.adapter.async_add([self.node(id_=doc_id, text=text)])

    def ids(self):
        return [node.node_id for node in self.adapter.get_nodes()]

    async def asearch(self, text):
        return (await self.adapter.aquery(self.query(query_str=text, similarity_top_k=2))).ids


class Haystack:
    def __init__(self, path):
        from haystack import Document

        from retriever.integrations.haystack import LatewoodDocumentStore, LatewoodRetriever

        self.document = Document
        self.adapter = LatewoodDocumentStore(str(path), FakeEncoder(DIM, windows=True))
        self.retriever = LatewoodRetriever(self.adapter, top_k=2)

    def add(self, doc_id, text):
        self.adapter.write_documents([self.document(id=doc_id, content=text)])

    def search(self, text):
        return [d.id for d in self.retriever.run(text)["documents"]]

    async def aadd(self, doc_id, text):
        await self.adapter.write_documents_async([self.document(id=doc_id, content=text)])

    def ids(self):
        return [d.id for d in self.adapter.filter_documents()]

    async def asearch(self, text):
        return [d.id for d in (await self.retriever.run_async(text))["documents"]]


@pytest.mark.slow
@pytest.mark.parametrize("framework", [LangChain, LlamaIndex, Haystack])
def test_sixteen_threads_and_a_loop_with_sixty_four_tasks(framework, tmp_path):
    store = framework(tmp_path / "x")
    for i in range(8):
        store.add(f"old{i}", f"old{i} word")

    def thread(i):
        for j in range(2):
            doc_id, text = f"thread{i}-{j}", f"thread{i} round{j} own{i}x{j}"
            assert store.search(f"old{i % 8}")[0] == f"old{i % 8}"
            store.add(doc_id, text)
            assert store.search(text)[0] == doc_id

    async def task(i):
        doc_id, text = f"task{i}", f"task{i} only{i}"
        assert (await store.asearch(f"old{i % 8}"))[0] == f"old{i % 8}"
        if i % 2:
            await store.aadd(doc_id, text)
            assert (await store.asearch(text))[0] == doc_id

    async def tasks():
        await asyncio.wait_for(asyncio.gather(*map(task, range(TASKS))), timeout=120)

    try:
        with ThreadPoolExecutor(THREADS + 1) as pool:
            loop = pool.submit(asyncio.run, tasks())
            some = [pool.submit(thread, i) for i in range(THREADS)]
            for one in (*some, loop):
                one.result(timeout=120)
        assert sorted(store.ids()) == sorted(
            [f"old{i}" for i in range(8)]
            + [f"thread{i}-{j}" for i in range(THREADS) for j in range(2)]
            + [f"task{i}" for i in range(1, TASKS, 2)]
        )
    finally:
        store.adapter.close()


@pytest.mark.slow
def test_no_framework_is_imported_unasked():
    code = (
        "import latewood, retriever.integrations, retriever.integrations.store, sys; latewood.Searcher; "
        f"print({set(MODULES.values())} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_what_is_not_installed_names_its_extra(module):
    code = f"import sys; sys.modules[{MODULES[module]!r}] = None; import retriever.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("encoder.errors.MissingDependencyError: ")
    assert last.endswith(f"is not installed; run: pip install 'latewood[{module}]'")
