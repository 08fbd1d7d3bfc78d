"""Encoder: texts → TokenEmbeddings."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from encoder.arguments import as_integer, as_strings
from encoder.checkpoints.loading import BUNDLED, Checkpoint, load_checkpoint, resolve_folder, save_checkpoint
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.model.late_interaction import LateInteractionModel
from encoder.model.packing import length_sorted_batches
from encoder.model.precision import apply_precision, default_precision
from encoder.pooling import check_pool_factor
from encoder.progress import Progress
from encoder.tokenizer import Token, TokenizedTexts
from encoder.workers import Job, Vectors, WorkerPool, batches_at_once, run_jobs, worker_devices

__all__ = ["Encoder"]

BATCH_TOKENS = 4096  # a budget of tokens, not of texts: memory and speed follow tokens
BLOCK_TEXTS = 512  # tokenised at a time, while the block before them is encoded


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
        precision: str | None = None,
        pool_factor: int = 1,
        load_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.pool_factor = check_pool_factor(pool_factor)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = checkpoint.tokenizer
        self.name = name
        # What Encoder.load needs to make this encoder again; an index keeps it. How and where it computes
        # is a choice of the machine, and is left out.
        self.load_arguments = {"name": name, **(load_arguments or {})}
        self.fingerprint = fingerprint(checkpoint)
        self.n_parameters = sum(p.numel() for p in checkpoint.model.parameters())
        self.precision = precision or default_precision(self.device)
        self.model = apply_precision(checkpoint.model, self.precision, self.device)
        self._workers: WorkerPool | None = None

    @classmethod
    def load(
        cls,
        name: str | Path = BUNDLED,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        workers: int | None = None,
        projection: str | Path | None = None,
        query_length: int | None = None,
        document_length: int | Literal["max"] | None = None,
        skiplist_words: Sequence[str] | None = None,
        do_query_expansion: bool | None = None,
        pool_factor: int = 1,
    ) -> "Encoder":
        """Load the bundled model, a folder, or a hub name such as "lightonai/GTE-ModernColBERT-v1".

        query_length, document_length: in tokens, markers included; None keeps the model's own, and "max" is
            as many as it has positions.
        skiplist_words: documents keep no vector for these; () keeps all, which suits code.
        do_query_expansion: None keeps what the model was trained with. It is the queries' affair alone, so an
            index made with one setting is searched with either.
        pool_factor: documents keep about one vector for so many tokens (Clavié et al. 2024); 1 keeps all.
        projection: safetensors with `linear.weight` (dim, hidden) for a backbone that has no head.
        precision: "fp32", "bf16", "fp16" or "int8" (x86 CPUs); None for fp32 on a CPU and bf16 on a GPU. The
            vectors differ a little, and fit the same index (docs/encoder.md).
        workers: processes that share the batches of documents between them, each with the whole model. None
            for one; where device="cuda" names no GPU, one for each.
        Raises CheckpointError for what cannot be read, ArgumentError for lengths out of range.
        """
        folder = resolve_folder(name, revision)
        settings = {
            "query_length": _integer(query_length, "query_length"),
            "document_length": document_length
            if document_length == "max"
            else _integer(document_length, "document_length"),
            "skiplist_words": None
            if skiplist_words is None
            else tuple(as_strings(skiplist_words, "skiplist_words")),
            "do_query_expansion": do_query_expansion,
        }
        checkpoint = load_checkpoint(
            folder, projection=None if projection is None else Path(projection), settings=settings
        )
        own = checkpoint.tokenizer.settings
        for key in ("query_length", "document_length"):
            _check_length(checkpoint.model, key, getattr(own, key))
        again: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
        # What is kept of a document is named even where the model's folder says it: an index stays as it is when the
        # folder changes, and a value given is the same as that value by default.
        again |= {"document_length": own.document_length, "skiplist_words": sorted(set(own.skiplist_words))}
        if pool_factor != 1:
            again["pool_factor"] = check_pool_factor(pool_factor)
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
        places = worker_devices(device, workers)
        encoder = cls(
            checkpoint,
            name=stable,
            device=places[0] if len(places) > 1 else device,
            precision=precision,
            pool_factor=pool_factor,
            load_arguments=again,
        )
        if len(places) > 1:
            arguments = encoder.load_arguments | {"precision": precision}
            encoder._workers = WorkerPool(places, partial(cls.load, **arguments))
            encoder._workers.users.add(encoder)
        return encoder

    def close(self) -> None:
        """Do without the worker processes, if there are any; documents are then encoded by this one.

        They end when the last of the encoders that share them (`with_query_length`) is closed.
        """
        if self._workers is not None:
            self._workers.leave(self)
            self._workers = None

    def with_query_length(self, query_length: int) -> "Encoder":
        """An encoder for queries of another length, in tokens; it shares the weights and worker processes of this one.

        Raises ArgumentError for a length out of range.
        """
        query_length = as_integer(query_length, "query_length")
        _check_length(self.model, "query_length", query_length)
        other = copy.copy(self)
        if self._workers is not None:
            self._workers.users.add(other)
        other.tokenizer = self.tokenizer.with_query_length(query_length)
        other.load_arguments = {**self.load_arguments, "query_length": query_length}
        return other

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a PyLate / sentence-transformers folder. Raises ArgumentError where the weights are rounded."""
        if self.precision != "fp32":
            raise ArgumentError(
                f"precision={self.precision!r} has rounded the weights; load with precision='fp32' to save"
            )
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

    def encode_documents(
        self, texts: Iterable[str], *, batch_tokens: int = BATCH_TOKENS, show_progress: bool = False
    ) -> TokenEmbeddings:
        """Token vectors of documents, in the order given, cut at document_length tokens.

        texts: any iterable of strings; a generator is read to its end first.
        batch_tokens: at most so many tokens are computed together; a processor works on as many batches at a time as
            torch has threads (docs/encoder.md).
        vectors (total_tokens, dim) float32, offsets (n + 1,) int64, truncated: how many were cut.
        With a pool_factor there are fewer vectors than tokens.
        """
        return self._encode(self.tokenizer.documents, texts, batch_tokens, show_progress, documents=True)

    def encode_queries(
        self, texts: Iterable[str], *, batch_tokens: int = BATCH_TOKENS, show_progress: bool = False
    ) -> TokenEmbeddings:
        """Token vectors of queries, in the order given; with expansion where the model was trained with it."""
        return self._encode(self.tokenizer.queries, texts, batch_tokens, show_progress, documents=False)

    def query_tokens(self, text: str) -> list[Token]:
        """What each vector of a query stands for: the token and its place in the text."""
        return self.tokenizer.query_tokens(*as_strings([text], "text"))

    def document_tokens(self, text: str) -> list[Token]:
        """What each vector of a document stands for, as `encode_documents` gives them.

        Raises ArgumentError where pooling has left no vector for each token.
        """
        if self.pool_factor != 1:
            raise ArgumentError(
                f"pool_factor={self.pool_factor}: a vector stands for several tokens; index without pooling"
            )
        return self.tokenizer.document_tokens(*as_strings([text], "text"))

    def _encode(
        self,
        tokenise: Callable[[Sequence[str]], TokenizedTexts],
        texts: Iterable[str],
        batch_tokens: int,
        show_progress: bool,
        *,
        documents: bool,
    ) -> TokenEmbeddings:
        texts = as_strings(texts, "texts")
        batch_tokens = as_integer(batch_tokens, "batch_tokens", least=1)
        workers = self._workers if documents else None
        pool_factor = self.pool_factor if documents else 1
        at_once = workers.batches_at_once if workers is not None else batches_at_once(self.device)
        vectors: Vectors = [np.empty((0, self.dim), np.float32)] * len(texts)
        truncated = 0

        def jobs() -> Iterator[Job]:
            nonlocal truncated
            for start, block in _tokenised(tokenise, texts):
                truncated += block.truncated
                n_tokens = [len(ids) for ids in block.ids]
                # So that there is a batch for each thread where the texts are few.
                budget = min(batch_tokens, sum(n_tokens) // at_once + max(n_tokens))
                yield from _jobs(block, start, budget, pool_factor)

        results = run_jobs(self.model, self.device, jobs()) if workers is None else workers.run(jobs())
        with Progress[str](desc="encode", unit="text", show=show_progress, total=len(texts)) as bar:
            for job, found in results:
                for i, rows in zip(job.places, found, strict=True):
                    vectors[i] = rows
                bar.update(len(found))
        return _joined(vectors, self.dim, truncated)


def _tokenised(
    tokenise: Callable[[Sequence[str]], TokenizedTexts], texts: Sequence[str]
) -> Iterator[tuple[int, TokenizedTexts]]:
    """Blocks of texts with where they start, each tokenised while its caller works on the one before."""
    starts = range(0, len(texts), BLOCK_TEXTS)
    if len(starts) <= 1:
        yield from ((start, tokenise(texts)) for start in starts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as thread:
        ahead = thread.submit(tokenise, texts[:BLOCK_TEXTS])
        for start in starts:
            block = ahead.result()
            ahead = thread.submit(tokenise, texts[start + BLOCK_TEXTS : start + 2 * BLOCK_TEXTS])
            yield start, block


def _jobs(texts: TokenizedTexts, start: int, batch_tokens: int, pool_factor: int) -> Iterator[Job]:
    """Batches of a block that begins with text `start`."""
    for batch in length_sorted_batches([len(i) for i in texts.ids], batch_tokens):
        yield Job(
            places=[start + i for i in batch],
            ids=[texts.ids[i] for i in batch],
            n_keys=[texts.n_keys[i] for i in batch],
            kept=None if texts.kept is None else [np.array(texts.kept[i], dtype=bool) for i in batch],
            pool_factor=pool_factor,
        )


def _joined(vectors: Vectors, dim: int, truncated: int) -> TokenEmbeddings:
    """One array a text, end to end; `vectors` is emptied on the way, so that memory holds them about once."""
    offsets = np.zeros(len(vectors) + 1, dtype=np.int64)
    np.cumsum([len(rows) for rows in vectors], out=offsets[1:])
    out = np.empty((int(offsets[-1]), dim), dtype=np.float32)
    for i in range(len(vectors)):
        out[offsets[i] : offsets[i + 1]] = vectors[i]
        vectors[i] = out[:0]
    return TokenEmbeddings(out, offsets, truncated)


def _integer(value: int | None, name: str) -> int | None:
    return None if value is None else as_integer(value, name)


def _check_length(model: LateInteractionModel, key: str, value: int) -> None:
    positions = model.backbone.config.max_positions
    if value > positions:
        raise ArgumentError(f"{key}={value} exceeds the model's {positions} positions; pass <= {positions}")


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hex digest of all that decides whether a query fits a document's vectors: weights, vocabulary,
    markers and expansion. Lengths, the skiplist and pooling say how much of a text is kept, and are left out;
    so is an expansion asked for by argument, which changes no document."""
    digest = hashlib.sha256()
    for key, tensor in sorted(checkpoint.model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    digest.update(repr(checkpoint.model.backbone.config).encode())
    digest.update(repr([dense.config for dense in checkpoint.model.head]).encode())
    digest.update(checkpoint.tokenizer.tokenizer.to_str().encode())
    s = checkpoint.tokenizer.settings
    expansion = s.do_query_expansion if checkpoint.own_expansion is None else checkpoint.own_expansion
    markers = [s.query_prefix, s.document_prefix, expansion, s.attend_to_expansion_tokens]
    markers += [s.query_prompt, s.document_prompt, s.do_lower_case]
    digest.update(repr(markers).encode())
    return digest.hexdigest()[:32]
