"""The parts of a model folder: backbone, head, module list, as arrays of the kind its reader makes; without torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from encoder.checkpoints.folder import Module, backbone_folder, read_json, read_modules, weight_files
from encoder.errors import CheckpointError
from encoder.model.config import DenseConfig

__all__ = ["Parts", "backbone_weights", "check_shapes", "check_widths", "new_rows", "read_all", "read_parts"]

# Masked-language and classification heads of published ModernBERTs; retrieval has no use for them.
IGNORED_HEADS = ("head.", "decoder.", "classifier.")


class Array(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


A = TypeVar("A", bound=Array)
ReadFile = Callable[[Path], dict[str, A]]


@dataclass(frozen=True)
class Parts(Generic[A]):
    """base: where the backbone is; weights: its own, as named there. head: the Dense layers, with their weights and
    where those are."""

    base: Path
    modules: list[Module]
    weights: dict[str, A]
    head: list[tuple[DenseConfig, dict[str, A], Path]]


def read_parts(folder: Path, projection: Path | None, read_file: ReadFile[A]) -> Parts[A]:
    """projection: see `load_checkpoint`. read_file: of a file of weights, all arrays by name."""
    modules = read_modules(folder)
    base = backbone_folder(folder, modules)
    weights = read_all(base, read_file)
    linear = weights.pop("linear.weight", None)
    if projection is not None:
        head = [_dense(read_file(projection), None, projection)]
    else:
        parts = [module.folder for module in modules if module.kind == "Dense"]
        head = [_dense(read_all(part, read_file), read_json(part / "config.json"), part) for part in parts]
    if not head and linear is not None:  # a projection beside the backbone, as Stanford ColBERT saves it
        head = [_dense({"linear.weight": linear}, None, folder)]
    return Parts(base, modules, weights, head)


def read_all(folder: Path, read_file: ReadFile[A]) -> dict[str, A]:
    """All arrays of a folder."""
    return {name: array for path in weight_files(folder) for name, array in read_file(path).items()}


def _dense(
    weights: dict[str, A], raw: Mapping[str, Any] | None, where: Path
) -> tuple[DenseConfig, dict[str, A], Path]:
    weight = weights.get("linear.weight")
    if weight is None or len(weight.shape) != 2:
        raise CheckpointError(f"{where} lacks a matrix 'linear.weight'; it is not a Dense layer")
    found = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": "linear.bias" in weights,
    }
    raw = found if raw is None else raw
    for key, value in found.items():
        if raw.get(key, value) != value:
            raise CheckpointError(f"{where}/config.json says {key}={raw[key]!r}, its weights have {value}")
    known = {field.name for field in fields(DenseConfig)}
    try:
        config = DenseConfig(**(found | {key: value for key, value in raw.items() if key in known}))
    except CheckpointError as error:
        raise CheckpointError(f"{where}/config.json: {error}") from error
    return config, weights, where


def backbone_weights(weights: Mapping[str, A]) -> dict[str, A]:
    """A ModernBERT's own, by Hugging Face's names: a model with a head saves its backbone under `model.`, Stanford
    ColBERT under `bert.`."""
    named = {key.removeprefix("bert.").removeprefix("model."): value for key, value in weights.items()}
    return {name: value for name, value in named.items() if not name.startswith(IGNORED_HEADS)}


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Array], where: Path) -> None:
    """Names and shapes must be those expected, or CheckpointError says which are not."""
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(
            f"{where}: weights lack {missing[0]!r} and {len(missing) - 1} more; not this architecture"
        )
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{where}: weights hold an unknown {extra[0]!r} and {len(extra) - 1} more")
    for key, shape in expected.items():
        if tuple(found[key].shape) != shape:
            raise CheckpointError(
                f"{where}: {key!r} has shape {tuple(found[key].shape)}, config.json wants {shape}"
            )


def check_widths(hidden_size: int, head: list[DenseConfig]) -> int:
    """The width that the Dense layers of a head end in, each of which takes what the one before gives."""
    width = hidden_size
    for i, dense in enumerate(head, 1):
        if dense.in_features != width:
            raise CheckpointError(
                f"Dense {i} takes in_features={dense.in_features}, what is before gives {width}"
            )
        width = dense.out_features
    return width


def new_rows(embeddings: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """What is to be added to embeddings for `size` tokens: rows at the mean of those there are."""
    mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(mean, (max(0, size - len(embeddings)), len(mean)))
