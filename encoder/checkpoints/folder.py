"""The files of a model folder: JSON, weights, module list. What cannot be read is a CheckpointError."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from encoder.errors import CheckpointError

__all__ = ["Module", "optional_json", "read_json", "read_modules", "read_weights", "write_json"]

# What a module of these packages does is known; a class of any other package is code we do not have.
PACKAGES = ("sentence_transformers.", "pylate.")
# Only Transformer and Dense make token vectors; the rest pools, normalises or masks, which is done elsewhere.
KINDS = ("Transformer", "Dense", "Pooling", "Normalize", "MultiVectorMask", "Dropout")


@dataclass(frozen=True)
class Module:
    """One entry of modules.json: the class's short name and where its files are."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The entries of modules.json in order, the first a Transformer; [] where the file is absent."""
    path = folder / "modules.json"
    if not path.is_file():
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
        modules.append(Module(kind, part))
    if [m.kind for m in modules].count("Transformer") != 1 or modules[0].kind != "Transformer":
        raise CheckpointError(
            f"{path} has {[m.kind for m in modules]}; it must begin with its one Transformer"
        )
    return modules


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, else pytorch_model.bin; one file, or shards with an index."""
    for name, read in (("model.safetensors", load_file), ("pytorch_model.bin", _load_bin)):
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
        except Exception as error:  # each reader has errors of its own; to the user they are one fact
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{single if single.is_file() else index}: weights cannot be read ({reason}); save them again"
            ) from error
    raise CheckpointError(
        f"{folder} holds neither model.safetensors nor pytorch_model.bin; pass a model folder"
    )


def _load_bin(path: Path) -> dict[str, Tensor]:
    """weights_only: a pickle that would run code is refused by torch."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors; save the model's state_dict()")
    return loaded


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file whose outermost value is of `kind`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; pass a complete model folder") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where the file is absent."""
    return read_json(path) if path.is_file() else {}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
