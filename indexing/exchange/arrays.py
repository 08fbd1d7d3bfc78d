"""Vectors in plain arrays: a .safetensors file, or a folder of .npy files; ids, texts and metadata in JSON lines.

vectors (n_tokens, dim) float16, float32 or bfloat16   of all passages, end to end
offsets (n_passages + 1,) integers                     where each begins
token_ids (n_tokens,) int32        maybe: the vocabulary id of each token, -1 for none
owners (n_passages,) int64         maybe: the document of each, ascending; without it each is one
spans (n_passages, 2) int32        maybe: where each stands in its text, in characters
documents.jsonl, or NAME.jsonl beside NAME.safetensors   maybe: doc_id, text, metadata of each document
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.checkpoints.folder import first_line, output_file, write_json
from encoder.errors import CorpusError
from encoder.jsonl import Row, read_rows
from indexing.exchange.snapshots import Shape, blocks, shape_of
from indexing.exchange.source import VectorSource, checked_offsets, cut, mapped, packed
from indexing.storage.snapshot import Selection, Snapshot
from indexing.writing.given import VectorBatch

__all__ = ["npy_source", "safetensors_source", "write_npy", "write_safetensors"]

DOCUMENTS = "documents.jsonl"
AGAIN = "write it anew"
NAMES = {"F16": "<f2", "I32": "<i4", "I64": "<i8"}
Slice: TypeAlias = Callable[[str, int, int], npt.NDArray[Any]]


@dataclass(frozen=True)
class _Arrays:
    """where: of an array, for messages. shapes: by name. read: rows [start, stop) of an array."""

    where: Callable[[str], str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Slice

    def whole(self, name: str) -> npt.NDArray[Any]:
        return self.read(name, 0, self.shapes[name][0])


# Reading


def npy_source(folder: Path) -> VectorSource:
    """A folder with vectors.npy and offsets.npy."""
    names = ("vectors", "offsets", "token_ids", "owners", "spans")
    paths = {name: folder / f"{name}.npy" for name in names if (folder / f"{name}.npy").exists()}
    arrays = _Arrays(
        lambda name: str(folder / f"{name}.npy"),
        {name: mapped(path, AGAIN).shape for name, path in paths.items()},
        lambda name, start, stop: np.array(mapped(paths[name], AGAIN)[start:stop]),
    )
    about = folder / "about.json"
    try:
        told = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{about} cannot be read ({first_line(error)}); leave it out") from None
    return _source("npy", arrays, folder / DOCUMENTS, told if isinstance(told, dict) else {})


def safetensors_source(path: Path) -> VectorSource:
    """A file with the tensors vectors and offsets."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            wide = {name for name, part in slices.items() if part.get_dtype() == "BF16"}
            told = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CorpusError(f"{path} cannot be read ({first_line(error)}); {AGAIN}") from None

    def read(name: str, start: int, stop: int) -> npt.NDArray[Any]:
        with safe_open(path, "pt" if name in wide else "numpy") as file:
            if shapes[name][0]:  # its slices may begin nowhere but at a row
                part = file.get_slice(name)[slice(start, stop) if start < stop else slice(0)]
            else:
                part = file.get_tensor(name)
        rows: npt.NDArray[Any] = part.float().numpy() if name in wide else part
        return rows

    arrays = _Arrays(lambda name: f"{path}: {name}", shapes, read)
    return _source("safetensors", arrays, path.with_suffix(".jsonl"), told)


def _source(kind: str, arrays: _Arrays, documents: Path, told: Mapping[str, Any]) -> VectorSource:
    for name in ("vectors", "offsets"):
        if name not in arrays.shapes:
            known = ", ".join(sorted(arrays.shapes)) or "nothing"
            raise CorpusError(f"{arrays.where(name)} is missing, there is {known}; give vectors and offsets")
    n_tokens = _rows(arrays, "vectors", None)
    offsets = checked_offsets(arrays.whole("offsets"), n_tokens, arrays.where("offsets"))
    n_passages = len(offsets) - 1
    for name, n in (("token_ids", n_tokens), ("owners", n_passages), ("spans", n_passages)):
        if name in arrays.shapes:
            _rows(arrays, name, n)
    owners = np.arange(n_passages)
    if "owners" in arrays.shapes:
        owners = arrays.whole("owners").astype(np.int64)
        if len(owners) and (owners[0] < 0 or (np.diff(owners) < 0).any()):
            raise CorpusError(
                f"{arrays.where('owners')} does not ascend from 0; give each passage its document's row"
            )
    named = documents.is_file()
    n = sum(1 for _ in read_rows(documents)) if named else int(owners[-1]) + 1 if n_passages else 0
    if named and (
        n < (int(owners[-1]) + 1 if n_passages else 0) or ("owners" not in arrays.shapes and n != n_passages)
    ):
        raise CorpusError(
            f"{documents} has {n} documents, {arrays.where('offsets')} has {n_passages} passages; "
            "give a line to each document"
        )
    counts = np.bincount(owners, minlength=n)

    def batches() -> Iterator[VectorBatch]:
        rows = read_rows(documents) if named else None
        starts = np.concatenate([[0], np.cumsum(counts)])
        for first, last in cut(np.diff(offsets[starts])):
            passages = slice(starts[first], starts[last])
            a, b = int(offsets[passages.start]), int(offsets[passages.stop])
            ids = arrays.read("token_ids", a, b) if "token_ids" in arrays.shapes else None
            yield VectorBatch(
                **(
                    _columns(islice(rows, last - first))
                    if rows
                    else {"doc_ids": list(map(str, range(first, last)))}
                ),
                embeddings=packed(
                    arrays.read("vectors", a, b), np.diff(offsets[passages.start : passages.stop + 1]), ids
                ),
                counts=counts[first:last] if "owners" in arrays.shapes else None,
                spans=arrays.read("spans", passages.start, passages.stop)
                if "spans" in arrays.shapes
                else None,
            )

    return VectorSource(kind, arrays.shapes["vectors"][1], batches, n, None if named else n, **made_by(told))


def made_by(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of ours says of the encoder of its vectors."""
    try:
        encoder = json.loads(told.get("encoder") or "null")
    except (TypeError, ValueError):
        encoder = None
    named = isinstance(encoder, dict) and isinstance(encoder.get("name"), str)
    return {"encoder": encoder if named else None, "fingerprint": told.get("fingerprint") if named else None}


def _rows(arrays: _Arrays, name: str, n: int | None) -> int:
    """How many; refused where the array has not n of them, or not the right axes."""
    shape, axes = arrays.shapes[name], 2 if name in ("vectors", "spans") else 1
    if len(shape) != axes or (n is not None and shape[0] != n) or (name == "spans" and shape[1] != 2):
        wanted = {"vectors": "(n_tokens, dim)", "spans": f"({n}, 2)"}.get(name, f"({n},)")
        raise CorpusError(f"{arrays.where(name)} has shape {shape}; give it {wanted}")
    return shape[0]


def _columns(rows: Iterator[Row]) -> dict[str, Any]:
    found = list(rows)
    return {
        "doc_ids": [row.get("doc_id", str) for row in found],
        "texts": [row.get("text", str, None) for row in found],
        "metadata": [row.get("metadata", dict, None) for row in found],
    }


# Writing


class _Filled:
    """Arrays of known shapes, each filled from its beginning: name → the file it lies in, and where it goes on."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[BinaryIO, int]] = {}

    def append(self, name: str, rows: npt.NDArray[Any] | None) -> None:
        assert rows is not None
        file, at = self.places[name]
        file.seek(at)
        file.write(rows.tobytes())
        self.places[name] = file, at + rows.nbytes


def write_npy(snapshot: Snapshot, selection: Selection, folder: Path) -> int:
    """As many documents as are written, into a folder of .npy files that is there and empty."""
    shape, filled = shape_of(snapshot, selection), _Filled()
    with ExitStack() as stack:
        for name, (kind, size) in _plan(shape).items():
            file = stack.enter_context(stack.enter_context(output_file(folder / f"{name}.npy")).open("wb"))
            header = {"descr": NAMES[kind], "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(file, header)
            filled.places[name] = file, file.tell()
        documents = stack.enter_context(output_file(folder / DOCUMENTS))
        lines = stack.enter_context(documents.open("w", encoding="utf-8"))
        write_json(stack.enter_context(output_file(folder / "about.json")), shape.about)
        return _fill(filled, lines, blocks(snapshot, selection))


def write_safetensors(snapshot: Snapshot, selection: Selection, path: Path) -> int:
    """As many documents as are written: path, and the same name with .jsonl."""
    shape, filled, header, at = shape_of(snapshot, selection), _Filled(), {}, 0
    starts = {}
    for name, (kind, size) in _plan(shape).items():
        n_bytes = int(np.prod(size, dtype=np.int64)) * np.dtype(NAMES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": list(size), "data_offsets": [at, at + n_bytes]}
        starts[name], at = at, at + n_bytes
    told = json.dumps({"__metadata__": shape.about, **header}).encode()
    told += b" " * (-len(told) % 8)
    with ExitStack() as stack:
        documents = stack.enter_context(output_file(path.with_suffix(".jsonl")))
        lines = stack.enter_context(documents.open("w", encoding="utf-8"))
        file = stack.enter_context(stack.enter_context(output_file(path)).open("wb"))
        file.write(len(told).to_bytes(8, "little") + told)
        filled.places = {name: (file, 8 + len(told) + start) for name, start in starts.items()}
        return _fill(filled, lines, blocks(snapshot, selection))


def _plan(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → type and shape, the widest types first, so that each array lies where a reader may map it."""
    plan: dict[str, tuple[str, tuple[int, ...]]] = {"offsets": ("I64", (shape.passages + 1,))}
    if not shape.one_each:
        plan |= {"owners": ("I64", (shape.passages,)), "spans": ("I32", (shape.passages, 2))}
    if shape.token_ids:
        plan["token_ids"] = ("I32", (shape.tokens,))
    return plan | {"vectors": ("F16", (shape.tokens, shape.dim))}


def _fill(filled: _Filled, lines: Any, found: Iterator[VectorBatch]) -> int:
    n, n_tokens = 0, 0
    filled.append("offsets", np.zeros(1, np.int64))
    for batch in found:
        assert batch.texts is not None
        assert batch.metadata is not None
        assert batch.counts is not None
        embeddings = batch.embeddings
        filled.append("vectors", embeddings.vectors.astype("<f2"))
        filled.append("offsets", embeddings.offsets[1:] + n_tokens)
        if "owners" in filled.places:
            filled.append("owners", np.repeat(np.arange(n, n + len(batch)), batch.counts))
            filled.append("spans", batch.spans)
        if "token_ids" in filled.places:
            filled.append("token_ids", embeddings.token_ids)
        for doc_id, text, metadata in zip(batch.doc_ids, batch.texts, batch.metadata, strict=True):
            line = {"doc_id": doc_id, "text": text, "metadata": metadata}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        n, n_tokens = n + len(batch), n_tokens + len(embeddings.vectors)
    return n
