"""What `Index.info` and `Index.verify` say: figures of an index, and whether every byte is as it was written."""

from pathlib import Path
from typing import Any

import numpy as np

from encoder.errors import IndexFormatError
from encoder.progress import Progress, Told
from indexing.storage.durable import hash_file
from indexing.storage.snapshot import Snapshot
from indexing.storage.tables import DATABASE, FORMAT_VERSION

__all__ = ["describe", "verify"]


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """See Index.info."""
    settings, codec = snapshot.settings, snapshot.codec
    kinds = {segment.kind for segment in snapshot.segments}
    parts = dict.fromkeys(
        [
            "codes",
            "vectors",
            "token_ids",
            "lists",
            "offsets",
            "owners",
            "spans",
            "originals",
            "codec",
            "database",
        ],
        0,
    )
    for file in snapshot.files:
        name = Path(file.path).name.split(".")[0].split("-")[0]
        parts["originals" if name == "sampled" else name] += file.bytes
    stored = sum(parts.values()) - parts["codec"] - parts["originals"]
    parts["database"] = sum(
        file.stat().st_size
        for part in snapshot.parts
        for file in part.folder.glob(f"{DATABASE}*")
        if not file.name.endswith("-shm")  # of those that are open, and gone with the last of them
    )
    shards = {"shards": len(snapshot.parts)} if snapshot.parts != [snapshot] else {}
    return shards | {
        "format_version": FORMAT_VERSION,
        "kind": "mixed" if len(kinds) > 1 else next(iter(kinds), "flat"),
        "documents": len(snapshot),
        "unencoded": snapshot.n_unencoded,
        "passages": snapshot.n_passages,
        "tokens": snapshot.n_tokens,
        "segments": len(snapshot.segments),
        "dim": settings.dim,
        "window": settings.window,
        "nlist": None if codec is None else codec.nlist,
        "m": None if codec is None else codec.m,
        "bytes": parts,
        "bytes_per_token": stored / snapshot.n_tokens if snapshot.n_tokens else 0.0,
        "encoder": settings.encoder_name,
        "encoder_fingerprint": settings.encoder_fingerprint,
        "tuned_search": snapshot.reader.search,
    }


def verify(snapshot: Snapshot, progress: Told | None = None) -> None:
    """See Index.verify."""
    snapshot.reader.check()
    for file in Progress(snapshot.files, phase="verifying", unit="file", told=progress):
        path = snapshot.folder / file.path
        try:
            digest = hash_file(path)
        except FileNotFoundError:
            newest = snapshot.newest()
            if newest.state.generation != snapshot.state.generation:  # a writer has replaced it since
                verify(newest, progress)
                return
            raise IndexFormatError(f"{path} is missing; restore it or build the index again") from None
        if digest != file.sha256:
            raise IndexFormatError(f"{path} is damaged (its checksum differs); restore it or build again")
    owners = [
        np.unique(segment.owners[live])
        for segment, live in zip(snapshot.segments, snapshot.lives, strict=True)
    ]
    encoded = len(np.unique(np.concatenate([np.zeros(0, np.int64), *owners])))
    if encoded + snapshot.n_unencoded != len(snapshot):
        raise IndexFormatError(
            f"{snapshot.folder / DATABASE} has {len(snapshot)} documents for vectors of {encoded} and "
            f"{snapshot.n_unencoded} to be encoded; restore it or build again"
        )
