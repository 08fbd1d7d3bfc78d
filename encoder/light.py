"""LightEncoder: what `Encoder` is for queries and a few texts, without torch, which takes seconds to import."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoder.asking import Asked, fingerprint
from encoder.base import BaseEncoder
from encoder.batches import BATCH_TOKENS, Batching, Job, Vectors, encode_texts, vectors_of
from encoder.checkpoints.folder import backbone_folder, first_line, read_json, read_modules
from encoder.checkpoints.formats import read_settings
from encoder.checkpoints.parts import backbone_weights, check_shapes, check_widths, new_rows, read_parts
from encoder.checkpoints.places import BUNDLED
from encoder.checkpoints.tokenizer_files import read_tokenizer
from encoder.embeddings import TokenEmbeddings
from encoder.errors import CheckpointError, LatewoodError
from encoder.model.config import EncoderConfig
from encoder.options import updated
from encoder.progress import Told
from encoder.threads import in_order, numpy_libraries, shared_threads, thread_count
from encoder.tokenizer import LateTokenizer, TokenizedTexts

if TYPE_CHECKING:
    from encoder.encode import Encoder
    from encoder.model.light_modernbert import LightModel

__all__ = ["LightEncoder", "NeedsTorchError", "encoder_for_searching"]

HELD = {"F16", "F32", "F64"}  # numbers of a safetensors file that numpy knows too
TOKENS = "embeddings.tok_embeddings.weight"  # most of a small model, and few rows of it are read

Floats = npt.NDArray[np.float32]


class NeedsTorchError(LatewoodError):
    """A checkpoint that only `Encoder` can compute."""


class LightEncoder(BaseEncoder):
    """A late-interaction encoder on the processor, in float32: the vectors of `Encoder` but for rounding.

    Made by `load`; attributes and methods are those of `Encoder` with the same names.
    """

    def __init__(
        self,
        model: "LightModel",
        tokenizer: LateTokenizer,
        own_expansion: bool,
        load_arguments: dict[str, Any],
    ) -> None:
        """own_expansion: see `Checkpoint`."""
        self.model = model
        self.tokenizer = tokenizer
        self.load_arguments = load_arguments
        self.name = str(load_arguments["name"])
        self.pool_factor = int(load_arguments.get("pool_factor", 1))
        configs = [config for config, _ in model.head]
        self.dim = check_widths(model.config.hidden_size, configs)
        weights = [(f"backbone.{name}", array) for name, array in model.weights.items()]
        for i, (_, arrays) in enumerate(model.head):
            weights += [(f"head.{i}.{name}", array) for name, array in arrays.items()]
        self.fingerprint = fingerprint(weights, model.config, configs, tokenizer, own_expansion)

    @classmethod
    def load(cls, name: str | Path = BUNDLED, **arguments: Any) -> "LightEncoder":
        """arguments: those of `Encoder.load` that are in `load_arguments`; see there.

        Raises NeedsTorchError for a checkpoint that is no ModernBERT, or whose files numpy or tokenizers cannot read,
        else what `Encoder.load` does.
        """
        asked = updated(Asked(name), arguments)
        folder = asked.folder
        modules = read_modules(folder)
        base = backbone_folder(folder, modules)
        raw = read_json(base / "config.json")
        if raw.get("model_type", "modernbert") != "modernbert":
            raise NeedsTorchError(f"model_type={raw['model_type']!r}")
        if not (base / "tokenizer.json").is_file():
            raise NeedsTorchError("there is no tokenizer.json")
        config = EncoderConfig.from_hf(raw, str(base / "config.json"))
        parts = read_parts(folder, asked.projection_path, _read_arrays)
        weights = backbone_weights(parts.weights)
        check_shapes(config.shapes(), weights, base)
        for dense, arrays, where in parts.head:
            check_shapes(dense.shapes(), arrays, where)
        own = read_settings(folder, base, modules, config.max_positions)
        tokenizer = read_tokenizer(base, own, asked.settings, config.max_positions)
        config = _grow(config, weights, tokenizer.vocab_size)
        from encoder.model.light_modernbert import LightModel  # imports numba

        model = LightModel(config, weights, [(dense, arrays) for dense, arrays, _ in parts.head])
        return cls(model, tokenizer, own.expands, asked.again(tokenizer, config.max_positions))

    @property
    def nbytes(self) -> int:
        """What the weights take in memory."""
        own = [self.model.weights, *(arrays for _, arrays in self.model.head)]
        return sum(array.nbytes for arrays in own for array in arrays.values())

    def encode_queries(
        self, texts: Iterable[str], *, batch_tokens: int = BATCH_TOKENS, progress: Told | None = None
    ) -> TokenEmbeddings:
        """Token vectors of queries, in the order given."""
        batching = Batching(batch_tokens, thread_count(), 1, self.dim, progress)
        return self._encode(self.tokenizer.queries, texts, batching)

    def encode_documents(
        self, texts: Iterable[str], *, batch_tokens: int = BATCH_TOKENS, progress: Told | None = None
    ) -> TokenEmbeddings:
        """Token vectors of documents, in the order given, cut at document_length tokens."""
        batching = Batching(batch_tokens, thread_count(), self.pool_factor, self.dim, progress)
        return self._encode(self.tokenizer.documents, texts, batching)

    def _encode(
        self, tokenise: Callable[[Sequence[str]], TokenizedTexts], texts: Iterable[str], batching: Batching
    ) -> TokenEmbeddings:
        # numpy's threads wait for each other by spinning: beside a busy program they take ten times as long as one.
        # So a thread of ours takes a whole batch.
        threads = batching.at_once

        def run(jobs: Iterator[Job]) -> Iterator[tuple[Job, Vectors]]:
            if threads == 1:
                return ((job, self._vectors(job)) for job in jobs)
            pool = shared_threads(threads)
            return in_order(lambda job: pool.submit(self._vectors, job), jobs, 2 * threads)

        with numpy_libraries().limit(limits=1, user_api="blas"):
            return encode_texts(tokenise, texts, batching, run)

    def _vectors(self, job: Job) -> Vectors:
        return vectors_of(self.model(job.ids, job.n_keys), job)


def encoder_for_searching(arguments: dict[str, Any], device: object = None) -> "LightEncoder | Encoder":
    """The encoder of an index's `load_arguments`: without torch where that can be, unless a device is given.

    Where it cannot be, a line of the log says why, once.
    """
    if device is None:
        try:
            return LightEncoder.load(**arguments)
        except NeedsTorchError as reason:
            _say_once(
                f"{arguments.get('name')}: queries are encoded by torch, which takes seconds to start: {reason}"
            )
    from encoder.encode import Encoder

    return Encoder.load(**arguments, device=device)  # type: ignore[arg-type]


@functools.cache
def _say_once(text: str) -> None:
    logging.getLogger("latewood").warning(text)


def _read_arrays(path: Path) -> dict[str, Floats]:
    """All arrays of a safetensors file, as float32; token embeddings in float16 as they lie."""
    if path.suffix == ".bin":
        raise NeedsTorchError(f"{path.name} is no safetensors file")
    from safetensors import safe_open

    arrays = {}
    try:
        with safe_open(path, framework="np") as file:
            kinds = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
            if not kinds <= HELD:
                raise NeedsTorchError(
                    f"{path.name} holds {', '.join(sorted(kinds - HELD))}, which numpy has not"
                )
            for name in file.keys():  # noqa: SIM118
                array = file.get_tensor(name)
                half = name.endswith(TOKENS) and array.dtype == np.float16
                arrays[name] = array if half else array.astype(np.float32, copy=False)
    except NeedsTorchError:
        raise
    except Exception as error:  # of safetensors and of the system
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}); save it again") from error
    for name, array in arrays.items():
        if array.size and not np.isfinite(array.sum(dtype=np.float64)):
            raise CheckpointError(
                f"{path}: {name!r} holds NaN or infinite values; take weights from before they diverged"
            )
    return arrays


def _grow(config: EncoderConfig, weights: dict[str, Floats], size: int) -> EncoderConfig:
    """Rows for marker tokens that the checkpoint does not have yet; the configuration that counts them."""
    if size <= len(weights[TOKENS]):
        return config
    old = weights[TOKENS].astype(np.float32, copy=False)
    weights[TOKENS] = np.concatenate([old, new_rows(old, size)])
    return replace(config, vocab_size=size)
