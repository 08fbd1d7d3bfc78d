"""Folders as other libraries write their indexes, without those libraries: the same files, names, types and bits.

Looked at: ColBERT 0.2.22 and RAGatouille 0.0.9 (`ResidualCodec.save`, `IndexSaver`, `IndexUpdater`), fast-plaid 1.7 and
1.4 (`storage.py`), xtr-warp-rs 2.1, PyLate 1.6 (`indexes/`).
"""

import json
import pickle
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "Coded",
    "write_fast_plaid",
    "write_pylate",
    "write_ragatouille",
    "write_stanford",
    "write_xtr_warp",
]


@dataclass
class Coded:
    """Documents as PLAID codes them: vectors (tokens, dim) of each, and how many chunks they lie in."""

    vectors: Sequence[npt.NDArray[np.float32]]
    nbits: int = 4
    n_chunks: int = 2
    centroids: Any = field(init=False)

    def __post_init__(self) -> None:
        rows = np.concatenate(self.vectors)
        self.lengths = [len(own) for own in self.vectors]
        self.centroids = rows[:: max(1, len(rows) // 16)].astype(np.float16)
        self.codes = (rows @ self.centroids.astype(np.float32).T).argmax(axis=1)
        residuals = rows - self.centroids.astype(np.float32)[self.codes]
        levels = np.arange(1 << self.nbits) / (1 << self.nbits)
        self.cutoffs = np.quantile(residuals, levels[1:]).astype(np.float32)
        self.weights = np.quantile(residuals, levels + levels[1] / 2).astype(np.float32)
        self.buckets = np.searchsorted(self.cutoffs, residuals)  # (tokens, dim)
        bits = self.buckets[..., None] >> np.arange(self.nbits) & 1  # as `ResidualCodec.binarize`
        self.residuals = np.packbits(bits.astype(np.uint8).reshape(-1)).reshape(len(rows), -1)
        self.parts = np.array_split(np.arange(len(self.lengths)), self.n_chunks)

    def decoded(self, *, unit: bool) -> list[npt.NDArray[np.float32]]:
        """What each document's vectors are by these codes."""
        rows = self.centroids.astype(np.float32)[self.codes] + self.weights[self.buckets]
        if unit:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.split(rows, np.cumsum(self.lengths)[:-1])

    def chunks(self) -> list[tuple[npt.NDArray[np.int64], list[int], Any, Any]]:
        """Documents, lengths, codes and residuals of each chunk."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        found = []
        for part in self.parts:
            rows = slice(ends[part[0]], ends[part[-1] + 1])
            found.append((part, [self.lengths[i] for i in part], self.codes[rows], self.residuals[rows]))
        return found


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _tch_npy(path: Path, array: npt.NDArray[Any], length: int = 16) -> None:
    """As `tch::Tensor::write_npy`, or with a header of a fixed length, as fast-plaid's merged files."""
    shape = ",".join(map(str, array.shape)) + ","
    header = (
        f"{{'descr': '<{array.dtype.kind}{array.itemsize}', 'fortran_order': False, 'shape': ({shape}), }}"
    )
    wanted = -(-(10 + len(header) + 1) // length) * length
    header += " " * (wanted - 10 - len(header) - 1) + "\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + array.tobytes()
    )


def _tables(folder: Path, coded: Coded) -> None:
    folder.mkdir(parents=True)
    _tch_npy(folder / "centroids.npy", coded.centroids)
    _tch_npy(folder / "bucket_cutoffs.npy", coded.cutoffs)
    _tch_npy(folder / "bucket_weights.npy", coded.weights)
    _tch_npy(folder / "avg_residual.npy", np.zeros(coded.centroids.shape[1], np.float32))


def write_fast_plaid(
    folder: Path, coded: Coded, *, merged: int | None = None, metadata: Sequence[dict[str, Any]] = ()
) -> Path:
    """merged: how many chunks lie in the merged files alone, all by default (1.7); none has files of both (1.4)."""
    _tables(folder, coded)
    chunks = coded.chunks()
    merged = len(chunks) if merged is None else merged
    for i, (_, lengths, codes, residuals) in enumerate(chunks):
        _json(folder / f"doclens.{i}.json", lengths)
        _json(folder / f"{i}.metadata.json", {"num_documents": len(lengths), "num_embeddings": sum(lengths)})
        if i >= merged:
            _tch_npy(folder / f"{i}.codes.npy", codes)
            _tch_npy(folder / f"{i}.residuals.npy", residuals)
    if merged:
        for name, place, padding in (("codes", 2, (3,)), ("residuals", 3, (3, coded.residuals.shape[1]))):
            parts = [chunk[place] for chunk in chunks[:merged]]
            rows = np.concatenate(
                [*parts, np.zeros(padding, parts[0].dtype)]
            )  # a stride behind the last document
            _tch_npy(folder / f"merged_{name}.npy", rows, 192)
            entries = {
                f"{i}.{name}.npy": {"rows": len(p), "merged": True, "mtime": None}
                for i, p in enumerate(parts)
            }
            _json(folder / f"merged_{name}.manifest.json", entries)
    about = {"nbits": coded.nbits, "num_chunks": len(chunks), "num_documents": len(coded.lengths)}
    _json(folder / "metadata.json", about | {"frozen": True, "mutable": True})
    if metadata:
        names = list(metadata[0])
        with sqlite3.connect(folder / "metadata.db") as db:
            db.execute(f'CREATE TABLE METADATA ("_subset_" INTEGER PRIMARY KEY, {", ".join(names)})')
            rows_of = [(i, *(own.get(name) for name in names)) for i, own in enumerate(metadata)]
            db.executemany(f"INSERT INTO METADATA VALUES ({', '.join('?' * (len(names) + 1))})", rows_of)
        db.close()
    return folder


def write_xtr_warp(folder: Path, coded: Coded, *, deleted: Sequence[int] = (), first: int = 0) -> Path:
    """first: the number of the first passage; those behind a compaction do not begin at 0."""
    _tables(folder, coded)
    for i, (part, lengths, codes, residuals) in enumerate(coded.chunks()):
        _tch_npy(folder / f"{i}.codes.npy", codes)
        _tch_npy(folder / f"{i}.residuals.npy", residuals)
        _tch_npy(folder / f"{i}.passage_ids.npy", part + first)
        _tch_npy(folder / f"doclens.{i}.npy", np.array(lengths, np.int64))
        _json(folder / f"{i}.metadata.json", {"num_passages": len(part), "num_embeddings": len(codes)})
    if deleted:
        np.save(folder / "deleted_pids.npy", np.array(deleted, np.int64))
    about = {"num_chunks": coded.n_chunks, "nbits": coded.nbits, "dim": coded.centroids.shape[1]}
    _json(folder / "metadata.json", about | {"next_passage_id": first + len(coded.lengths)})
    return folder


def write_stanford(folder: Path, coded: Coded, *, removed: Sequence[int] = (), zipped: bool = True) -> Path:
    """removed: passages that the updater has deleted, which keep their numbers. zipped: the form of torch since 1.6."""

    def save(name: str, value: Any) -> None:
        torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)

    folder.mkdir(parents=True)
    save("centroids.pt", torch.from_numpy(coded.centroids).half())
    save("buckets.pt", (torch.from_numpy(coded.cutoffs), torch.from_numpy(coded.weights)))
    save("avg_residual.pt", torch.tensor([0.02]))
    for i, (part, lengths, codes, residuals) in enumerate(coded.chunks()):
        keep = np.repeat(~np.isin(part, removed), lengths)
        save(f"{i}.codes.pt", torch.from_numpy(codes[keep]).to(torch.int32))
        save(f"{i}.residuals.pt", torch.from_numpy(residuals[keep]))
        _json(
            folder / f"doclens.{i}.json",
            [0 if p in removed else n for p, n in zip(part, lengths, strict=True)],
        )
        about = {"passage_offset": int(part[0]), "num_passages": len(part), "num_embeddings": int(keep.sum())}
        _json(folder / f"{i}.metadata.json", about)
    config = {"dim": coded.centroids.shape[1], "nbits": coded.nbits, "checkpoint": "colbert-ir/colbertv2.0"}
    _json(folder / "metadata.json", {"config": config, "num_chunks": coded.n_chunks, "num_partitions": 16})
    return folder


def write_ragatouille(
    folder: Path,
    coded: Coded,
    names: dict[int, str],
    collection: Sequence[str],
    metadata: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """names: doc_id of each passage that is left."""
    write_stanford(folder, coded, removed=[i for i in range(len(coded.lengths)) if i not in names])
    _json(folder / "pid_docid_map.json", names)
    _json(folder / "collection.json", list(collection))
    if metadata is not None:
        _json(folder / "docid_metadata_map.json", metadata)
    return folder


def write_pylate(
    folder: Path, coded: Coded, names: dict[int, str], kind: str, protocol: int | None = None
) -> Path:
    """kind: "plaid", "stanford" or "warp"."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "warp":
        write_xtr_warp(folder / "warp_index", coded)
    elif kind == "plaid":
        write_fast_plaid(folder / "fast_plaid_index", coded)
    else:
        write_stanford(folder / "x", coded)
        for path in (folder / "x").iterdir():
            path.rename(folder / path.name)
        (folder / "x").rmdir()
    stem = "warp" if kind == "warp" else "plaid"
    reverse = {doc_id: number for number, doc_id in names.items()}
    (folder / f"{stem}_ids_to_documents_ids.pkl").write_bytes(pickle.dumps(names, protocol))
    (folder / f"documents_ids_to_{stem}_ids.pkl").write_bytes(pickle.dumps(reverse, protocol))
    return folder
