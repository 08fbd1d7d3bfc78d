"""Encoder: texts → TokenEmbeddings."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from encoder.arguments import as_integer
from encoder.asking import Asked, check_length, fingerprint
from encoder.base import BaseEncoder
from encoder.batches import BATCH_TOKENS, Batching, Job, Vectors, encode_texts
from encoder.checkpoints.loading import Checkpoint, load_checkpoint, save_checkpoint
from encoder.checkpoints.places import BUNDLED
from encoder.devices import as_device
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.model.precision import apply_precision, encoding_precision
from encoder.on_device import DeviceRunner
from encoder.options import updated
from encoder.pooling import check_pool_factor
from encoder.progress import Told
from encoder.tokenizer import TokenizedTexts
from encoder.workers import WorkerPool, batches_at_once, run_jobs, worker_devices

__all__ = ["Encoder"]

CALLS_ON_DEVICE = 3  # one is computed, one is made ready, and one's vectors are put together


class Encoder(BaseEncoder):
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
        self.device = as_device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
        )
        self.tokenizer = checkpoint.tokenizer
        self.name = name
        # What Encoder.load needs to make this encoder again; an index keeps it. How and where it computes
        # is a choice of the machine, and is left out.
        self.load_arguments = {"name": name, **(load_arguments or {})}
        self.fingerprint = fingerprint_of(checkpoint)
        self.n_parameters = sum(p.numel() for p in checkpoint.model.parameters())
        self.precision = encoding_precision(self.device) if precision is None else precision
        self.model = apply_precision(checkpoint.model, self.precision, self.device)
        self.on_device = None if self.device.type == "cpu" else DeviceRunner(self.model, self.device)
        self._workers: WorkerPool | None = None

    @classmethod
    def load(
        cls,
        name: str | Path = BUNDLED,
        *,
        device: str | torch.device | None = None,
        precision: str | None = None,
        workers: int | None = None,
        **asked_for: Any,
    ) -> "Encoder":
        """Load the bundled model, a folder, or a hub name such as "lightonai/GTE-ModernColBERT-v1".

        asked_for: fields of `encoder.asking.Asked`, which say which vectors are made:
        revision: of a hub name.
        query_length, document_length: in tokens, markers included; None keeps the model's own, and "max" is
            as many as it has positions.
        skiplist_words: documents keep no vector for these; () keeps all, which suits code.
        do_query_expansion: None keeps what the model was trained with. It is the queries' affair alone, so an
            index made with one setting is searched with either.
        pool_factor: documents keep about one vector for so many tokens (Clavié et al. 2024); 1 keeps all.
        projection: safetensors with `linear.weight` (dim, hidden) for a backbone that has no head.

        precision: "fp32", "bf16", "fp16" or "int8" (x86 CPUs); None for fp32 on a CPU and bf16 on a GPU. The
            vectors differ a little, and fit the same index (docs/internals/encoder.md).
        workers: processes that share the batches of documents between them, each with the whole model. None
            for one; where device="cuda" or "all" names no GPU, one for each; for device="cuda:0,cuda:1" these.
        Raises CheckpointError for what cannot be read, ArgumentError for lengths out of range.
        """
        asked = updated(Asked(name), asked_for)
        checkpoint = load_checkpoint(asked.folder, projection=asked.projection_path, settings=asked.settings)
        again = asked.again(checkpoint.tokenizer, checkpoint.model.backbone.config.max_positions)
        places = worker_devices(device, workers)
        for place in places:
            as_device(place)
        if device == "all":
            device = "cuda"
        encoder = cls(
            checkpoint,
            name=again["name"],
            device=places[0] if len(places) > 1 else device,
            precision=precision,
            pool_factor=asked.pool_factor,
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
        check_length("query_length", query_length, self.model.backbone.config.max_positions)
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
    def nbytes(self) -> int:
        """What the weights take in memory."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def calls_at_once(self) -> int:
        if self._workers is not None:
            return self._workers.n_workers + 1
        if self.on_device is not None:
            return CALLS_ON_DEVICE
        return min(2, batches_at_once(self.device))

    @property
    def batch_tokens(self) -> int:
        """Tokens that are computed together, unless a call says otherwise."""
        return BATCH_TOKENS if self.on_device is None else self.on_device.batch_tokens

    def encode_documents(
        self, texts: Iterable[str], *, batch_tokens: int | None = None, progress: Told | None = None
    ) -> TokenEmbeddings:
        """Token vectors of documents, in the order given, cut at document_length tokens.

        texts: any iterable of strings; a generator is read to its end first.
        batch_tokens: at most so many tokens are computed together: by default 4,096 on a processor, which works on as
            many batches at a time as torch has threads, and what its memory takes on a GPU (docs/internals/encoder.md).
        vectors (total_tokens, dim) float32, offsets (n + 1,) int64, truncated: how many were cut.
        With a pool_factor there are fewer vectors than tokens.
        """
        return self._encode(self.tokenizer.documents, texts, batch_tokens, progress, documents=True)

    def encode_queries(
        self, texts: Iterable[str], *, batch_tokens: int | None = None, progress: Told | None = None
    ) -> TokenEmbeddings:
        """Token vectors of queries, in the order given; with expansion where the model was trained with it."""
        return self._encode(self.tokenizer.queries, texts, batch_tokens, progress, documents=False)

    def _encode(
        self,
        tokenise: Callable[[Sequence[str]], TokenizedTexts],
        texts: Iterable[str],
        batch_tokens: int | None,
        progress: Told | None,
        *,
        documents: bool,
    ) -> TokenEmbeddings:
        workers = self._workers if documents else None
        batching = Batching(
            self.batch_tokens if batch_tokens is None else batch_tokens,
            workers.batches_at_once if workers is not None else batches_at_once(self.device),
            self.pool_factor if documents else 1,
            self.dim,
            progress,
        )
        return encode_texts(tokenise, texts, batching, self.run if workers is None else workers.run)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]:
        """Each batch with its vectors, in order, computed by this process."""
        if self.on_device is not None:
            return self.on_device.run(jobs)
        return run_jobs(self.model, self.device, jobs)


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """See `encoder.asking.fingerprint`."""
    model = checkpoint.model
    return fingerprint(
        ((key, value.detach().to("cpu", torch.float32).numpy()) for key, value in model.state_dict().items()),
        model.backbone.config,
        [dense.config for dense in model.head],  # type: ignore[misc]
        checkpoint.tokenizer,
        checkpoint.own_expansion,
    )
