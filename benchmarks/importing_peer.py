"""A peer's half of importing.py: an index of its own of the vectors in a folder, and its own ranking of the queries.

    python benchmarks/importing_peer.py fast-plaid|xtr-warp|colbert|ragatouille|pylate JOB.json

Run in the peer's environment, where Latewood is not installed. The encoders of ColBERT and RAGatouille are stood in for
by vectors that are there already, for no checkpoint can be had offline; and so is LangChain, which RAGatouille imports
and its index does not use. All that writes and reads the index is the peers' own.
"""

import json
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import query_vectors

K = 100


def main(peer: str, job_file: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    folder = Path(job["vectors"])
    offsets = np.load(folder / "offsets.npy")[: job["documents"] + 1]
    rows = torch.from_numpy(np.load(folder / "vectors.npy", mmap_mode="r")[: offsets[-1]].astype(np.float32))
    documents = [own[: job["document_length"]] for own in rows.split(np.diff(offsets).tolist())]
    asked = [torch.from_numpy(own) for own in query_vectors(folder)]
    queries = [torch.nn.functional.normalize(asked[i], dim=1) for i in job["queries"]]
    package, run = PEERS[peer]
    found = run(Path(job["index"]), documents, queries, job)
    rankings = [[(str(name), float(score)) for name, score in own[:K]] for own in found]
    told = {name: version(name) for name in (package, "torch")}
    Path(job["result"]).write_text(json.dumps({"rankings": rankings, "versions": told}), encoding="utf-8")


def fast_plaid(index: Path, documents: list[Any], queries: list[Any], job: dict[str, Any]) -> Any:
    from fast_plaid.search import FastPlaid

    metadata = [{"place": i, "name": f"document {i}"} for i in range(len(documents))]
    FastPlaid(index=str(index), device="cpu").create([own.half() for own in documents], metadata=metadata)
    engine = FastPlaid(index=str(index), device="cpu")
    return [engine.search(q[None], top_k=K, show_progress=False, n_processes=1)[0] for q in queries]


def xtr_warp(index: Path, documents: list[Any], queries: list[Any], job: dict[str, Any]) -> Any:
    from xtr_warp.search import XTRWarp

    half = len(documents) // 2
    engine = XTRWarp(index=str(index))
    engine.create(embeddings_source=documents[:half], device="cpu", show_progress=False)
    engine.load(device="cpu")
    engine.add(embeddings_source=documents[half:], reload=True)
    return [engine.search(q[None], top_k=K, num_threads=1, show_progress=False)[0] for q in queries]


def colbert(index: Path, documents: list[Any], queries: list[Any], job: dict[str, Any]) -> Any:
    import colbert.indexing.collection_indexer as indexing
    from colbert.infra import ColBERTConfig, Run, RunConfig
    from colbert.modeling.colbert import ColBERT
    from colbert.search.index_storage import IndexScorer

    class Encoded:
        """Passages are the numbers of documents, written out."""

        def __init__(self, *arguments: Any) -> None:
            pass

        def encode_passages(self, passages: list[str]) -> Any:
            own = [documents[int(passage)] for passage in passages]
            return (torch.cat(own), [len(rows) for rows in own]) if own else (None, None)

    ColBERT.try_load_torch_extensions(use_gpu=False)  # which its checkpoints do
    indexing.Checkpoint = lambda *arguments, **options: None
    indexing.CollectionEncoder = Encoded
    with Run().context(RunConfig(nranks=1, root=str(index.parent), experiment="runs")):
        config = ColBERTConfig(nbits=4, dim=documents[0].shape[1], kmeans_niters=4, index_name=index.name)
        config.configure(
            checkpoint="colbert-ir/colbertv2.0", doc_maxlen=8192, root=str(index.parent), experiment="runs"
        )
        Path(config.index_path_).mkdir(parents=True)
        indexing.CollectionIndexer(config, [str(i) for i in range(len(documents))], verbose=0).run([[]])
        index.symlink_to(config.index_path_)
        scorer = IndexScorer(config.index_path_, use_gpu=False)
        config.configure(ncells=4, centroid_score_threshold=0.4, ndocs=4096, query_maxlen=64)
        return [list(zip(*scorer.rank(config, q[None]), strict=True)) for q in queries]


def ragatouille(index: Path, documents: list[Any], queries: list[Any], job: dict[str, Any]) -> Any:
    found = colbert(index, documents, queries, job)
    for name in (
        "langchain", "langchain.retrievers", "langchain.retrievers.document_compressors",
        "langchain.retrievers.document_compressors.base", "langchain_core", "langchain_core.callbacks",
        "langchain_core.callbacks.manager", "langchain_core.documents", "langchain_core.retrievers",
        "llama_index", "llama_index.core", "llama_index.core.text_splitter", "llama_index.text_splitter",
        "sentence_transformers",
    ):  # fmt: skip
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
        sys.modules[name] = module
    from ragatouille.models.colbert import ColBERT

    model = ColBERT.__new__(ColBERT)
    model.index_path, model.index_name = str(index), index.name
    model.collection = [f"passage {i}" for i in range(len(documents))]
    model.pid_docid_map = {i: f"d{i // 2}" for i in range(len(documents))}  # two passages each
    model.docid_metadata_map = {f"d{i // 2}": {"of": i // 2} for i in range(0, len(documents), 2)}
    model.model_index = types.SimpleNamespace(export_metadata=lambda: {"index_type": "PLAID"})
    model._save_index_metadata()
    return [[(f"d{int(pid) // 2}", score) for pid, score in own] for own in found]


def pylate(index: Path, documents: list[Any], queries: list[Any], job: dict[str, Any]) -> Any:
    from pylate import indexes

    made = {"fast": indexes.PLAID, "stanford": indexes.PLAID, "warp": indexes.WARP}[job.get("kind", "fast")]
    options = {"use_fast": False} if job.get("kind") == "stanford" else {}
    engine = made(index_folder=str(index.parent), index_name=index.name, override=True, **options)
    engine.add_documents([f"d{i}" for i in range(len(documents))], [own.numpy() for own in documents])
    engine.remove_documents(["d7", "d8"])
    found = [engine([q.numpy()], k=K)[0] for q in queries]
    return [[(hit["id"], hit["score"]) for hit in own] for own in found]


PEERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "fast-plaid": ("fast-plaid", fast_plaid),
    "xtr-warp": ("xtr-warp-rs", xtr_warp),
    "colbert": ("colbert-ai", colbert),
    "ragatouille": ("ragatouille", ragatouille),
    "pylate": ("pylate", pylate),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
