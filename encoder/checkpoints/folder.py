"""The files of a model folder: JSON, weights, module list. What cannot be read is a CheckpointError."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.arguments import absolute
from encoder.errors import ArgumentError, CheckpointError, StorageError

__all__ = [
    "Module",
    "not_finite",
    "optional_json",
    "output_file",
    "output_folder",
    "read_json",
    "read_modules",
    "read_tensors",
    "read_weights",
    "write_json",
    "write_tensors",
]

# What a module of these packages does is known; a class of any other package is code we do not have.
PACKAGES = ("sentence_transformers.", "pylate.")
# Only Transformer and Dense make token vectors; the rest pools, normalises or masks, which is done elsewhere.
KINDS = ("Transformer", "Dense", "Pooling", "Normalize", "MultiVectorMask", "Dropout")
READ = ("Transformer", "Dense", "MultiVectorMask")  # of these the files are read
SETTINGS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Module:
    """One entry of modules.json: the class's short name and where its files are."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The entries of modules.json in order, the first a Transformer; [] for a plain backbone, which has none.

    A folder that is more than a backbone, or less than its modules.json says, is refused: read as it is, it would
    give vectors without their projection.
    """
    path = folder / "modules.json"
    heads = sorted(part.name for part in folder.glob("*_Dense") if re.fullmatch(r"\d+_Dense", part.name))
    if not path.is_file():
        signs = [*heads, *([SETTINGS] if (folder / SETTINGS).is_file() else [])]
        if signs:
            raise CheckpointError(
                f"{path} is missing, though {signs[0]} is there: the projection would be left out; "
                "pass the whole folder"
            )
        return []
    modules = []
    for entry in read_json(path, list):
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or "type" not in entry:
            raise CheckpointError(f"{path}: an entry lacks 'path' or 'type': {entry!r}; save the model again")
        kind = str(entry["type"]).rsplit(".", 1)[-1]
        if kind not in KINDS or not str(entry["type"]).startswith(PACKAGES):
            raise CheckpointError(f"{path}: type={entry['type']!r} is not known; known: {', '.join(KINDS)}")
        part = folder / entry["path"]
        if folder.resolve() not in (part.resolve(), *part.resolve().parents):
            raise CheckpointError(f"{path}: path={entry['path']!r} leaves the folder")
        if kind in READ and not part.is_dir():
            raise CheckpointError(f"{path}: path={entry['path']!r} is not there; pass the whole folder")
        modules.append(Module(kind, part))
    if [m.kind for m in modules].count("Transformer") != 1 or modules[0].kind != "Transformer":
        raise CheckpointError(
            f"{path} has {[m.kind for m in modules]}; it must begin with its one Transformer"
        )
    if unnamed := set(heads) - {m.folder.name for m in modules}:
        raise CheckpointError(f"{path} does not name {min(unnamed)}, which is there; name it, or remove it")
    return modules


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, else pytorch_model.bin; one file, or shards with an index."""
    for name, read in (("model.safetensors", read_tensors), ("pytorch_model.bin", _load_bin)):
        single, index = folder / name, folder / f"{name}.index.json"
        try:
            if single.is_file():
                return read(single)
            if index.is_file():
                names = read_json(index).get("weight_map")
                if not isinstance(names, dict):
                    raise CheckpointError(f"{index} lacks 'weight_map'; download or save the weights again")
                # A shard's name is a name in this folder, never a path out of it.
                shards = sorted({Path(str(shard)).name for shard in names.values()})
                return {key: value for shard in shards for key, value in read(folder / shard).items()}
        except CheckpointError:
            raise
        except Exception as error:  # torch has many errors of its own; to the user they are one fact
            raise CheckpointError(
                f"{single if single.is_file() else index}: weights cannot be read ({_reason(error)}); save them again"
            ) from error
    raise CheckpointError(
        f"{folder} holds neither model.safetensors nor pytorch_model.bin; pass a model folder"
    )


def _load_bin(path: Path) -> dict[str, Tensor]:
    """weights_only: a pickle that would run code is refused by torch."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors; save the model's state_dict()")
    return _finite(path, loaded)


def read_tensors(path: Path, remedy: str = "save it again") -> dict[str, Tensor]:
    """All tensors of one safetensors file. remedy: what to do about one that is cut or damaged."""
    try:
        tensors = load_file(path)
    except Exception as error:  # of safetensors and of the system
        raise CheckpointError(f"{path} cannot be read ({_reason(error)}); {remedy}") from error
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
        raise StorageError(f"{path} cannot be written ({_reason(error)}); free some space") from error


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


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def output_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, whole path, made where it is not there; a link's target is made too. Said before any work:
    ArgumentError where a file is in its place, StorageError where it cannot be written."""
    real = Path(os.path.realpath(absolute(path)))
    try:
        real.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=real):
            return real
    except (FileExistsError, NotADirectoryError) as error:
        raise ArgumentError(f"{path} is a file, or lies under one; pass a folder") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}); pass another folder") from error


@contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path aside that takes the file's place when the block ends without an error.
    Its folder is made. What was there stays until then."""
    real = Path(os.path.realpath(absolute(path)))
    if real.is_dir():
        raise ArgumentError(f"{path} is a folder; pass a file")
    aside = output_folder(real.parent) / f".{real.name}.tmp"
    try:
        yield aside
        aside.rename(real)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file whose outermost value is of `kind`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; pass a complete model folder") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); save it again") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where the file is absent."""
    return read_json(path) if path.is_file() else {}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
