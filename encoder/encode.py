"""Encoder: texts → TokenEmbeddings."""

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from encoder.checkpoint import BUNDLED, Checkpoint, load_checkpoint, resolve_folder, save_checkpoint
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.model import LateInteractionModel
from encoder.packing import length_sorted_batches, pack
from encoder.tokenizer import Token, TokenizedTexts

__all__ = ["Encoder"]

BATCH_TOKENS = 4096  # a budget of tokens, not of texts: memory and speed follow tokens


class Encoder:
    """A late-interaction encoder: one unit vector a token.

    >>> encoder = Encoder.load()  # the bundled model
    >>> encoder.encode_queries(["hello world"]).vectors.shape
    (4, 128)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        load_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = checkpoint.tokenizer
        self.name = name
        # What Encoder.load needs to make this encoder again; an index keeps it.
        self.load_arguments = {"name": name, **(load_arguments or {})}
        self.fingerprint = fingerprint(checkpoint)
        # Half precision pays on a GPU, whose packed attention kernels know nothing else; on a CPU float32.
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.model = checkpoint.model.to(self.device, self.dtype).eval()

    @classmethod
    def load(
        cls,
        name: str | Path = BUNDLED,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        projection: str | Path | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        skiplist_words: Sequence[str] | None = None,
    ) -> "Encoder":
        """Load the bundled model, a folder, or a hub name such as "lightonai/GTE-ModernColBERT-v1".

        query_length, document_length: in tokens, markers included; None keeps the model's own.
        skiplist_words: documents keep no vector for these; () keeps all, which suits code.
        projection: safetensors with `linear.weight` (dim, hidden) for a backbone that has no head.
        Raises CheckpointError for what cannot be read, ArgumentError for lengths out of range.
        """
        folder = resolve_folder(name, revision)
        settings = {
            "query_length": query_length,
            "document_length": document_length,
            "skiplist_words": None if skiplist_words is None else tuple(skiplist_words),
        }
        checkpoint = load_checkpoint(
            folder, projection=None if projection is None else Path(projection), settings=settings
        )
        for key in ("query_length", "document_length"):
            _check_length(checkpoint.model, key, getattr(checkpoint.tokenizer.settings, key))
        again: dict[str, Any] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if v is not None
        }
        if revision is not None:
            again["revision"] = revision
        if projection is not None:
            again["projection"] = str(Path(projection).resolve())
        # A hub name stays one; a folder must be found from any working directory.
        stable = (
            str(name)
            if str(name) == BUNDLED or not Path(name).expanduser().is_dir()
            else str(folder.resolve())
        )
        return cls(checkpoint, name=stable, device=device, dtype=dtype, load_arguments=again)

    def with_query_length(self, query_length: int) -> "Encoder":
        """An encoder for queries of another length, in tokens; it shares the weights of this one.

        Raises ArgumentError for a length out of range.
        """
        _check_length(self.model, "query_length", query_length)
        other = copy.copy(self)
        other.tokenizer = self.tokenizer.with_query_length(query_length)
        other.load_arguments = {**self.load_arguments, "query_length": query_length}
        return other

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a PyLate / sentence-transformers folder."""
        save_checkpoint(Path(folder), Checkpoint(self.model, self.tokenizer), dtype=dtype)

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def query_length(self) -> int:
        return self.tokenizer.settings.query_length

    @property
    def document_length(self) -> int:
        return self.tokenizer.settings.document_length

    @cached_property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def encode_documents(
        self, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS, show_progress: bool = False
    ) -> TokenEmbeddings:
        """Token vectors of documents, in the order given, cut at document_length tokens.

        vectors (total_tokens, dim) float32, offsets (n + 1,) int64, truncated: how many were cut.
        """
        return self._encode(self.tokenizer.documents(_strings(texts)), batch_tokens, show_progress)

    def encode_queries(
        self, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS, show_progress: bool = False
    ) -> TokenEmbeddings:
        """Token vectors of queries, in the order given; with expansion where the model was trained with it."""
        return self._encode(self.tokenizer.queries(_strings(texts)), batch_tokens, show_progress)

    def query_tokens(self, text: str) -> list[Token]:
        """What each vector of a query stands for: the token and its place in the text."""
        return self.tokenizer.query_tokens(text)

    def document_tokens(self, text: str) -> list[Token]:
        """What each vector of a document stands for, as `encode_documents` gives them."""
        return self.tokenizer.document_tokens(text)

    @torch.inference_mode()
    def _encode(self, texts: TokenizedTexts, batch_tokens: int, show_progress: bool) -> TokenEmbeddings:
        if batch_tokens < 1:
            raise ArgumentError(f"batch_tokens={batch_tokens}; pass at least 1")
        kept = None if texts.kept is None else [np.array(k) for k in texts.kept]
        lengths = [len(i) for i in texts.ids] if kept is None else [int(k.sum()) for k in kept]
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        vectors = np.empty((int(offsets[-1]), self.dim), dtype=np.float32)
        bar = tqdm(total=len(texts.ids), unit="text", desc="encode", disable=not show_progress)
        with bar:
            for batch in length_sorted_batches([len(i) for i in texts.ids], batch_tokens):
                packed = pack([texts.ids[i] for i in batch], [texts.n_keys[i] for i in batch])
                rows = self.model(packed.to(self.device)).cpu().numpy()
                start = 0
                for i in batch:
                    stop = start + len(texts.ids[i])
                    own = rows[start:stop] if kept is None else rows[start:stop][kept[i]]
                    vectors[offsets[i] : offsets[i + 1]] = own
                    start = stop
                bar.update(len(batch))
        return TokenEmbeddings(vectors, offsets, texts.truncated)


def _check_length(model: LateInteractionModel, key: str, value: int) -> None:
    positions = model.backbone.config.max_positions
    if value > positions:
        raise ArgumentError(f"{key}={value} exceeds the model's {positions} positions; pass <= {positions}")


def _strings(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise ArgumentError("texts is one string; pass a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"text {i} is {type(text).__name__}; pass strings")
    return texts


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hex digest of all that decides whether a query fits a document's vectors: weights, vocabulary,
    markers and expansion. Lengths and the skiplist say how much of a text is kept, and are left out."""
    digest = hashlib.sha256()
    for key, tensor in sorted(checkpoint.model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    digest.update(repr(checkpoint.model.backbone.config).encode())
    digest.update(repr([dense.config for dense in checkpoint.model.head]).encode())
    digest.update(checkpoint.tokenizer.tokenizer.to_str().encode())
    s = checkpoint.tokenizer.settings
    markers = [s.query_prefix, s.document_prefix, s.do_query_expansion, s.attend_to_expansion_tokens]
    markers += [s.query_prompt, s.document_prompt, s.do_lower_case]
    digest.update(repr(markers).encode())
    return digest.hexdigest()[:32]
