"""The peer's half of parity.py; run by it in the peer's environment, where Latewood is not installed.

    python benchmarks/parity_peer.py pylate|st JOB.json

The job names cases to make, save and encode, and folders of Latewood's to load and encode. Every encoding becomes
FOLDER.npz: q0, q1, ..., d0, d1, ... (tokens, dim) and `scores` (queries, documents), by the peer's own MaxSim.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ModernBertConfig, ModernBertModel

ACTIVATIONS = {"identity": torch.nn.Identity, "gelu": torch.nn.GELU, "tanh": torch.nn.Tanh}


def main(peer: str, job_file: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    make, load, encode = PEERS[peer]
    for number, case in enumerate(job["cases"]):
        torch.manual_seed(number)
        folder = Path(case["folder"])
        model = make(case, backbone(job["tokenizer"], case, folder.with_suffix(".backbone")))
        with (
            torch.no_grad()
        ):  # weights as a trained model might have them: no zero biases, attention far from even
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(str(folder))
        write(folder, *encode(model, case["queries"], case["documents"]))
    for case in job["load"]:
        write(Path(case["folder"]), *encode(load(case["folder"]), case["queries"], case["documents"]))
    package = {"pylate": "pylate", "st": "sentence-transformers"}[peer]
    print(json.dumps({p: version(p) for p in (package, "transformers", "torch")}))


def backbone(tokenizer: str, case: dict[str, Any], folder: Path) -> str:
    """A random ModernBERT with its tokenizer, as `transformers` saves it."""
    config = ModernBertConfig(**case["config"], initializer_range=0.2, initializer_cutoff_factor=2.0)
    ModernBertModel(config).save_pretrained(folder)
    for source in Path(tokenizer).iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    return str(folder)


def write(folder: Path, queries: list[Any], documents: list[Any], scores: Any) -> None:
    arrays = {f"q{i}": np.asarray(x, dtype=np.float32) for i, x in enumerate(queries)}
    arrays |= {f"d{i}": np.asarray(x, dtype=np.float32) for i, x in enumerate(documents)}
    np.savez(folder.with_suffix(".npz"), scores=np.asarray(scores, dtype=np.float32), **arrays)


# --- PyLate ---


def make_pylate(case: dict[str, Any], folder: str) -> Any:
    from pylate import models
    from sentence_transformers.models import Transformer

    settings = case["settings"]
    head = [
        models.Dense(
            in_features=dense["in_features"],
            out_features=dense["out_features"],
            bias=dense["bias"],
            activation_function=ACTIVATIONS[dense["activation"]](),
            use_residual=dense["use_residual"],
        )
        for dense in case["head"]
    ]
    return models.ColBERT(
        modules=[Transformer(folder), *head],
        device="cpu",
        prompts=case["prompts"],
        **{key: settings[key] for key in settings if key != "expansion_length"},
    )


def load_pylate(folder: str) -> Any:
    from pylate import models

    return models.ColBERT(folder, device="cpu")


def encode_pylate(model: Any, queries: list[str], documents: list[str]) -> tuple[list[Any], list[Any], Any]:
    from pylate.scores import colbert_scores

    # PyLate applies a prompt only when it is named.
    names = {side: side if (model.prompts or {}).get(side) else None for side in ("query", "document")}
    q = model.encode(queries, is_query=True, prompt_name=names["query"])
    d = model.encode(documents, is_query=False, prompt_name=names["document"])
    one_by_one = [[colbert_scores(x[None], y[None]).item() for y in d] for x in q]
    return list(q), list(d), one_by_one


# --- sentence-transformers ---


def make_st(case: dict[str, Any], folder: str) -> Any:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    settings = case["settings"]
    expansion = None
    if settings["do_query_expansion"]:
        expansion = {
            "strategy": "min" if "expansion_length" in settings else "fixed",
            "length": settings.get("expansion_length", settings["query_length"]),
            "attend": settings["attend_to_expansion_tokens"],
        }
    transformer = Transformer(
        folder,
        query_length=None if expansion and expansion["strategy"] == "fixed" else settings["query_length"],
        document_length=settings["document_length"],
        query_expansion=expansion,
    )
    markers = [settings[f"{side}_prefix"] for side in ("query", "document")]
    if any(markers):
        transformer.tokenizer.add_tokens(markers)
        transformer.model.resize_token_embeddings(len(transformer.tokenizer))
    place = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    head = [
        Dense(
            dense["in_features"],
            dense["out_features"],
            bias=dense["bias"],
            activation_function=ACTIVATIONS[dense["activation"]](),
            use_residual=dense["use_residual"],
            **place,
        )
        for dense in case["head"]
    ]
    mask = MultiVectorMask(skiplist_words=settings["skiplist_words"])
    prompts = {side: settings[f"{side}_prefix"] + case["prompts"][side] for side in ("query", "document")}
    modules = [transformer, *head, mask, Normalize(**place)]
    return MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)


def load_st(folder: str) -> Any:
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(folder, device="cpu")


def encode_st(model: Any, queries: list[str], documents: list[str]) -> tuple[list[Any], list[Any], Any]:
    q, d = model.encode_query(queries), model.encode_document(documents)
    return [x.float().numpy() for x in q], [x.float().numpy() for x in d], model.similarity(q, d).numpy()


Peer = tuple[Callable[..., Any], Callable[[str], Any], Callable[..., Any]]
PEERS: dict[str, Peer] = {
    "pylate": (make_pylate, load_pylate, encode_pylate),
    "st": (make_st, load_st, encode_st),
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
