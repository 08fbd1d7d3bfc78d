"""The files of a model folder: JSON, module list, where its weights are. What cannot be read is a CheckpointError."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.arguments import absolute
from encoder.errors import ArgumentError, CheckpointError, StorageError

__all__ = [
    "Module",
    "backbone_folder",
    "first_line",
    "optional_json",
    "output_file",
    "output_folder",
    "read_json",
    "read_modules",
    "weight_files",
    "write_json",
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


def backbone_folder(folder: Path, modules: Sequence[Module]) -> Path:
    """Where the backbone is: a folder of its own, if modules.json says so."""
    return modules[0].folder if modules else folder


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


def weight_files(folder: Path) -> list[Path]:
    """The files with a folder's weights: safetensors, else pytorch_model.bin; one file, or shards with an index."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            names = read_json(index).get("weight_map")
            if not isinstance(names, dict):
                raise CheckpointError(f"{index} lacks 'weight_map'; download or save the weights again")
            # A shard's name is a name in this folder, never a path out of it.
            return [folder / shard for shard in sorted({Path(str(shard)).name for shard in names.values()})]
    raise CheckpointError(
        f"{folder} holds neither model.safetensors nor pytorch_model.bin; pass a model folder"
    )


def first_line(error: Exception) -> str:
    """What an error of a library says, in a line."""
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
