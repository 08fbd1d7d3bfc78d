"""Encoders of other libraries, as indexes and searchers ask for one: sentence-transformers 6 and PyLate."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from encoder.arguments import as_strings, shown
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError

__all__ = ["OtherEncoder", "as_encoder"]

R = TypeVar("R")


class OtherEncoder:
    """A `MultiVectorEncoder` of sentence-transformers, or PyLate's `models.ColBERT`: its own vectors, its own prompts.

    fingerprint: of its weights and settings; an index takes no other encoder than the one that made its vectors.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._is_pylate = _is_of(model, "pylate")
        settings = [repr(model), repr(getattr(model, "prompts", None)), *_lengths(model)]
        digest = hashlib.sha256("\n".join(settings).encode())
        import torch  # there already: the model is made of it

        for name, value in sorted(model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.fingerprint = digest.hexdigest()
        # No name by which an index could load it again: whoever opens the index passes the object.
        self.name = f"{type(model).__name__}, passed as an object"
        self.load_arguments: dict[str, Any] = {"name": self.name}
        self.dim = int(self._encode(["a"], query=True)[0].shape[1])

    def encode_documents(self, texts: Iterable[str]) -> TokenEmbeddings:
        return self._packed(texts, query=False)

    def encode_queries(self, texts: Iterable[str]) -> TokenEmbeddings:
        return self._packed(texts, query=True)

    def _packed(self, texts: Iterable[str], *, query: bool) -> TokenEmbeddings:
        given = as_strings(texts, "texts")
        return TokenEmbeddings.from_list(self._encode(given, query=query) if given else [], self.dim)

    def _encode(self, texts: Sequence[str], *, query: bool) -> list[Any]:
        quiet = {"show_progress_bar": False, "convert_to_numpy": True}
        if self._is_pylate:
            side = "query" if query else "document"
            # PyLate applies a prompt only when it is named.
            prompt = side if (getattr(self.model, "prompts", None) or {}).get(side) else None
            found = self.model.encode(list(texts), is_query=query, prompt_name=prompt, **quiet)
        else:
            found = (self.model.encode_query if query else self.model.encode_document)(list(texts), **quiet)
        return [np.asarray(rows, np.float32) for rows in found]


def as_encoder(value: R, *methods: str) -> R:
    """What has these methods; a model of another library becomes one that has. A name or a path is refused with how to
    load it."""
    if _is_of(value, "pylate") or (
        hasattr(value, "encode_document") and hasattr(value, "encode_query") and hasattr(value, "state_dict")
    ):
        return OtherEncoder(value)  # type: ignore[return-value]
    for method in methods:
        if not hasattr(value, method):
            load = (
                f"Encoder.load({value!r})" if isinstance(value, str | os.PathLike) else f"one with {method}"
            )
            raise ArgumentError(f"encoder is {shown(value)} ({type(value).__name__}); pass {load}")
    return value


def _is_of(value: Any, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _lengths(model: Any) -> list[str]:
    """How much of a text it reads, and how it pads queries: where this is kept differs."""
    parts = [model, *getattr(model, "children", list)()]
    names = (
        "query_length",
        "document_length",
        "max_seq_length",
        "query_expansion",
        "do_query_expansion",
        "skiplist",
    )
    return [f"{name}={getattr(part, name)!r}" for part in parts for name in names if hasattr(part, name)]
