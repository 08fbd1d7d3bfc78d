"""The weights of a model folder as torch tensors. What cannot be read is a CheckpointError."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.checkpoints.folder import first_line
from encoder.checkpoints.parts import read_all
from encoder.errors import CheckpointError, StorageError

__all__ = ["not_finite", "read_tensors", "read_weights", "write_tensors"]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, else pytorch_model.bin; one file, or shards with an index."""
    return read_all(folder, read_tensors)


def _load_bin(path: Path) -> dict[str, Tensor]:
    """weights_only: a pickle that would run code is refused by torch."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many errors of its own; to the user they are one fact
        raise CheckpointError(
            f"{path}: weights cannot be read ({first_line(error)}); save them again"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors; save the model's state_dict()")
    return _finite(path, loaded)


def read_tensors(path: Path, remedy: str = "save it again") -> dict[str, Tensor]:
    """All tensors of one file, safetensors or .bin. remedy: what to do about one that is cut or damaged."""
    if path.suffix == ".bin":
        return _load_bin(path)
    try:
        tensors = load_file(path)
    except Exception as error:  # of safetensors and of the system
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}); {remedy}") from error
    return _finite(path, tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, aside and renamed: one that is there is whole. NaN and infinity are refused."""
    _finite(path, tensors)
    aside = path.with_name(path.name + ".tmp")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside, metadata=metadata)
        aside.rename(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({first_line(error)}); free some space") from error


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = torch.aminmax(tensor.detach())
            if not (least.isfinite() and most.isfinite()):
                return name
    return None


def _finite(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if bad := not_finite(tensors):
        raise CheckpointError(
            f"{path}: {bad!r} holds NaN or infinite values; take weights from before they diverged"
        )
    return dict(tensors)
