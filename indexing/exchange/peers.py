"""Folders of other libraries' indexes: Stanford ColBERT and RAGatouille, fast-plaid, xtr-warp-rs, PyLate."""

import json
import pickletools
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.checkpoints.folder import first_line
from encoder.errors import CorpusError
from indexing.exchange.plaid import Chunk, Documents, ResidualCodec, plaid_source
from indexing.exchange.source import VectorSource, mapped

__all__ = ["peer_source"]

# folder of the vectors → whose numbers are mapped to ids
PYLATE = {"fast_plaid_index": "plaid", "warp_index": "warp"}


def peer_source(folder: Path) -> VectorSource | None:
    """None for a folder of none of these. Raises CorpusError naming the file for one that is damaged."""
    for name, of in PYLATE.items():
        if (folder / name).is_dir():
            return _read(folder / name, f"{of}_ids_to_documents_ids.pkl", folder)
    return _read(folder, "plaid_ids_to_documents_ids.pkl", folder)


def _read(folder: Path, ids: str, named: Path) -> VectorSource | None:
    """ids: the file of `named` in which PyLate has its documents' ids, if it is there."""
    read: Callable[[Path, Documents | None], VectorSource]
    if (folder / "centroids.pt").is_file():
        read = _stanford
    elif not (folder / "centroids.npy").is_file():
        return None
    elif any(folder.glob("doclens.*.npy")):
        read = _xtr_warp
    else:
        read = _fast_plaid
    documents = None
    if (named / ids).is_file():
        found = sorted(_pickled_ids(named / ids).items())
        documents = Documents(np.array([pid for pid, _ in found], np.int64), [doc_id for _, doc_id in found])
    try:
        return read(folder, documents)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # JSON of other shapes
        raise CorpusError(
            f"{folder} does not hold together ({type(error).__name__}: {first_line(error)}); copy the index again"
        ) from error


# Stanford ColBERT, RAGatouille


def _stanford(folder: Path, documents: Documents | None) -> VectorSource:
    about = _json(folder / "metadata.json", dict)
    weights = _tensors(folder / "buckets.pt")
    if not isinstance(weights, tuple) or len(weights) != 2:
        raise CorpusError(
            f"{folder / 'buckets.pt'} holds no pair of cutoffs and weights; copy the index again"
        )
    codec = ResidualCodec.of(_array(folder / "centroids.pt"), weights[1], str(folder), unit=True)
    chunks, first = [], 0
    for i in range(_count(folder, about)):
        lengths = np.array(_json(folder / f"doclens.{i}.json", list), np.int64)
        pids = np.arange(first, first + len(lengths))
        first += len(lengths)
        # What its updater has removed keeps its number and has no tokens; nothing else is without.
        read = _reader([folder / f"{i}.codes.pt", folder / f"{i}.residuals.pt"], _array)
        chunks.append(Chunk(str(folder / f"{i}.codes.pt"), pids[lengths > 0], lengths[lengths > 0], read))
    config = about.get("config") if isinstance(about.get("config"), dict) else {}
    checkpoint = config.get("checkpoint")
    encoder = {"name": checkpoint} if isinstance(checkpoint, str) else None
    if (folder / "pid_docid_map.json").is_file():
        documents = _ragatouille(folder)
        return plaid_source("RAGatouille", codec, chunks, documents, encoder=encoder)
    if documents is not None:
        return plaid_source("PyLate (Stanford PLAID)", codec, chunks, documents)
    return plaid_source("Stanford ColBERT", codec, chunks, None, places=first, encoder=encoder)


def _ragatouille(folder: Path) -> Documents:
    """A document of RAGatouille has the passages that it was cut into. Of those that it deleted neither map nor
    collection knows; numbers stay as they were, and the collection closes up."""
    path = folder / "pid_docid_map.json"
    names = {int(pid): str(doc_id) for pid, doc_id in _json(path, dict).items()}
    texts: dict[int, str] = {}
    collection = folder / "collection.json"
    if collection.is_file():
        rows = _json(collection, list)
        if len(rows) != len(names):
            raise CorpusError(
                f"{collection} has {len(rows)} passages, {path} has {len(names)}; pass the whole index as RAGatouille "
                "saved it"
            )
        texts = dict(zip(sorted(names), map(str, rows), strict=True))
    metadata = folder / "docid_metadata_map.json"
    pids: dict[str, list[int]] = {}
    for pid in sorted(names):
        pids.setdefault(names[pid], []).append(pid)
    known = _json(metadata, dict) if metadata.is_file() else {}
    own = {doc_id: value for doc_id, value in known.items() if isinstance(value, dict)}
    counts = np.array([len(part) for part in pids.values()], np.int64)
    flat = np.array([pid for part in pids.values() for pid in part], np.int64)
    return Documents(flat, list(pids), counts, texts, own)


# fast-plaid


def _fast_plaid(folder: Path, documents: Documents | None) -> VectorSource:
    about = _json(folder / "metadata.json", dict)
    codec = _npy_codec(folder, unit=True)
    rows = {name: _merged_rows(folder, name) for name in ("codes", "residuals")}
    chunks, first, start = [], 0, 0
    for i in range(_count(folder, about)):
        lengths = np.array(_json(folder / f"doclens.{i}.json", list), np.int64)
        paths = [folder / f"{i}.{name}.npy" for name in rows]
        alone = all(
            path.is_file() for path in paths
        )  # else its rows lie in the merged files, chunk behind chunk
        if not alone:
            paths = [folder / f"merged_{name}.npy" for name in rows]
        pids = np.arange(first, first + len(lengths))
        chunks.append(Chunk(str(paths[0]), pids, lengths, _reader(paths, _npy), 0 if alone else start))
        first += len(lengths)
        start += rows["codes"].get(f"{i}.codes.npy", int(lengths.sum()))
    if documents is not None:
        return plaid_source("PyLate (fast-plaid)", codec, chunks, documents)
    database = folder / "metadata.db"
    metadata = _fast_plaid_metadata(database) if database.is_file() else {}
    if not metadata:
        return plaid_source("fast-plaid", codec, chunks, None, places=first)
    own = {str(pid): value for pid, value in metadata.items()}
    return plaid_source("fast-plaid", codec, chunks, Documents(np.arange(first), metadata=own), places=first)


def _merged_rows(folder: Path, name: str) -> dict[str, int]:
    """How many rows of the merged file are of each chunk, where fast-plaid has noted it."""
    path = folder / f"merged_{name}.manifest.json"
    return {chunk: int(own["rows"]) for chunk, own in _json(path, dict).items()} if path.is_file() else {}


def _fast_plaid_metadata(path: Path) -> dict[int, dict[str, Any]]:
    """Of each passage, by its number: the columns of a table, without those that are null."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute('SELECT * FROM "METADATA"')
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found]
    except sqlite3.DatabaseError as error:
        raise CorpusError(f"{path} cannot be read ({error}); copy the index again") from None
    return {
        int(row.pop("_subset_")): {name: value for name, value in row.items() if _fits_json(value)}
        for row in rows
    }


def _fits_json(value: Any) -> bool:
    return isinstance(value, str | int | float)


# xtr-warp-rs


def _xtr_warp(folder: Path, documents: Documents | None) -> VectorSource:
    """Its scores take a centroid and a residual apart, so what it decodes is of no unit length."""
    about = _json(folder / "metadata.json", dict)
    codec = _npy_codec(folder, unit=False)
    deleted = folder / "deleted_pids.npy"
    gone = _npy(deleted) if deleted.is_file() else np.zeros(0, np.int64)
    chunks: list[Chunk] = []
    for i in range(_count(folder, about)):
        paths = [folder / f"{i}.{name}.npy" for name in ("codes", "residuals")]
        numbered, lengths = folder / f"{i}.passage_ids.npy", _npy(folder / f"doclens.{i}.npy")
        first = sum(len(chunk.pids) for chunk in chunks)
        pids = _npy(numbered) if numbered.is_file() else np.arange(first, first + len(lengths))
        if lengths.shape != pids.shape or lengths.dtype.kind not in "iu":
            raise CorpusError(
                f"{numbered} has {len(pids)} numbers for {len(lengths)} passages; copy the index again"
            )
        own = pids.astype(np.int64), lengths.astype(np.int64)
        chunks.append(Chunk(str(paths[0]), *own, _reader(paths, _npy)))
    lost = []
    if (folder / "metadata.duckdb").is_file():
        lost.append("metadata.duckdb, which only DuckDB reads: write it as JSON lines, and pass --texts")
    if documents is None:
        pids = np.concatenate([chunk.pids for chunk in chunks])
        documents = Documents(pids[~np.isin(pids, gone)])
        places = max(int(about.get("next_passage_id") or 0), int(pids.max(initial=-1)) + 1)
        return plaid_source("xtr-warp-rs", codec, chunks, documents, places=places, lost=lost)
    return plaid_source("PyLate (WARP)", codec, chunks, documents, lost=lost)


# Files


def _count(folder: Path, about: dict[str, Any]) -> int:
    n = about.get("num_chunks")
    if not isinstance(n, int) or isinstance(n, bool) or not 0 < n <= 1_000_000:
        raise CorpusError(f"{folder / 'metadata.json'} has num_chunks = {n!r:.60}; copy the index again")
    return n


def _npy_codec(folder: Path, *, unit: bool) -> ResidualCodec:
    centroids, weights = (_npy(folder / f"{name}.npy") for name in ("centroids", "bucket_weights"))
    return ResidualCodec.of(centroids, weights, str(folder), unit=unit)


def _reader(
    paths: Sequence[Path], read: Callable[[Path], npt.NDArray[Any]]
) -> Callable[[], tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]:
    """paths: of codes and of residuals."""
    codes, residuals = paths
    return lambda: (read(codes), read(residuals))


def _npy(path: Path) -> npt.NDArray[Any]:
    return mapped(path, "copy the index again")


def _tensors(path: Path) -> Any:
    """What a .pt file holds. Code that is pickled in it is refused by torch, which runs none."""
    import torch

    for in_place in (True, False):  # the form of torch before 1.6 cannot be mapped
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=in_place)
        except Exception as error:  # torch has many errors of its own; to the user they are one fact
            failed = error
    raise CorpusError(
        f"{path} cannot be read ({first_line(failed)[:150]}); it must hold tensors alone: copy the index again"
    ) from None


def _array(path: Path) -> npt.NDArray[Any]:
    import torch

    found = _tensors(path)
    if not isinstance(found, torch.Tensor):
        raise CorpusError(f"{path} holds a {type(found).__name__} and no tensor; copy the index again")
    array: npt.NDArray[Any] = found.numpy()
    return array


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{path} cannot be read ({first_line(error)}); copy the index again") from None
    if not isinstance(found, kind):
        raise CorpusError(
            f"{path} holds a {type(found).__name__}, not a {kind.__name__}; copy the index again"
        )
    return found


def _pickled_ids(path: Path) -> dict[int, str]:
    """PyLate's {number: doc_id}, out of a pickle. The opcodes are read and none is run: what needs more than a flat
    dictionary does is refused."""
    flat: list[Any] = []
    kept: dict[Any, Any] = {}
    ended = False
    try:
        for code, value, _ in pickletools.genops(path.read_bytes()):
            ended = code.name == "STOP"
            if code.name in (
                "BININT",
                "BININT1",
                "BININT2",
                "LONG1",
                "SHORT_BINUNICODE",
                "BINUNICODE",
                "BINUNICODE8",
            ):
                flat.append(value)
            elif code.name == "MEMOIZE":
                kept[len(kept)] = flat[-1] if flat else None
            elif code.name in ("BINPUT", "LONG_BINPUT"):
                kept[value] = flat[-1] if flat else None
            elif code.name in ("BINGET", "LONG_BINGET"):
                flat.append(kept[value])
            elif code.name not in ("PROTO", "FRAME", "EMPTY_DICT", "MARK", "SETITEM", "SETITEMS", "STOP"):
                raise CorpusError(
                    f"{path} has {code.name}, which a dictionary of ids has not; it is refused, and none of it was run"
                )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CorpusError(f"{path} cannot be read ({first_line(error)}); copy the index again") from None
    pairs = list(zip(flat[::2], flat[1::2], strict=False))
    if (
        not ended
        or len(flat) % 2
        or not all(isinstance(pid, int) and isinstance(i, str | int) for pid, i in pairs)
    ):
        raise CorpusError(f"{path} is no dictionary of numbers and ids; copy the index again")
    return {pid: str(doc_id) for pid, doc_id in pairs}
