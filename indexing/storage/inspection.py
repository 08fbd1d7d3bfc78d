"""What `Index.info` and `Index.verify` say: figures of an index, and whether every byte is as it was written."""

from pathlib import Path
from typing import Any

from encoder.errors import IndexFormatError
from encoder.progress import Progress
from indexing.settings import IndexSettings
from indexing.storage.durable import hash_file
from indexing.storage.snapshot import Snapshot
from indexing.storage.store import DATABASE, FORMAT_VERSION

__all__ = ["describe", "verify"]


def describe(snapshot: Snapshot, settings: IndexSettings) -> dict[str, Any]:
    """See Index.info."""
    kinds = {segment.kind for segment in snapshot.segments}
    parts = dict.fromkeys(("codes", "vectors", "lists", "offsets", "codec", "database"), 0)
    for file in snapshot.store.files:
        name = Path(file.path).name.split(".")[0].split("-")[0]
        parts[name] += file.bytes
    parts["database"] = sum(f.stat().st_size for f in snapshot.folder.glob(f"{DATABASE}*"))
    passages_bytes = parts["codes"] + parts["vectors"] + parts["lists"] + parts["offsets"]
    n_tokens = snapshot.n_tokens
    codec = snapshot.codec
    return {
        "format_version": FORMAT_VERSION,
        "kind": "mixed" if len(kinds) > 1 else next(iter(kinds), "flat"),
        "passages": len(snapshot),
        "tokens": n_tokens,
        "segments": len(snapshot.segments),
        "dim": settings.dim,
        "nlist": None if codec is None else codec.nlist,
        "m": None if codec is None else codec.m,
        "length_byte": settings.length_byte,
        "bytes": parts,
        "bytes_per_token": passages_bytes / n_tokens if n_tokens else 0.0,
        "encoder": None if settings.encoder is None else str(settings.encoder["name"]),
        "encoder_fingerprint": settings.encoder_fingerprint,
        "tuned_search": snapshot.store.search,
    }


def verify(snapshot: Snapshot, show_progress: bool = False) -> None:
    """See Index.verify."""
    snapshot.refresh()
    store = snapshot.store
    store.check()
    for file in Progress(store.files, desc="verify", unit="file", show=show_progress):
        path = snapshot.folder / file.path
        try:
            digest = hash_file(path)
        except FileNotFoundError:
            if snapshot.refresh():  # a writer has replaced it since
                verify(snapshot, show_progress)
                return
            raise IndexFormatError(f"{path} is missing; restore it or build the index again") from None
        if digest != file.sha256:
            raise IndexFormatError(f"{path} is damaged (its checksum differs); restore it or build again")
    if store.count() != len(snapshot):
        raise IndexFormatError(
            f"{snapshot.folder / DATABASE} has {store.count()} documents for {len(snapshot)} passages; "
            "restore it or build again"
        )
