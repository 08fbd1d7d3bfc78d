"""Whatever vectors come in and go out as: one function to read, one to write."""

from pathlib import Path
from typing import Any

from encoder.arguments import absolute
from encoder.checkpoints.folder import output_folder
from encoder.errors import ArgumentError, CorpusError, LatewoodError, StorageError
from indexing.exchange.arrays import npy_source, safetensors_source, write_npy, write_safetensors
from indexing.exchange.peers import peer_source
from indexing.exchange.source import VectorSource
from indexing.exchange.tables import ARROW, PARQUET, file_source, table_source, write_table
from indexing.index import Index
from indexing.storage.snapshot import Selection, Snapshot
from indexing.storage.tables import is_index

__all__ = ["export_vectors", "open_vectors"]

TABLES = (*PARQUET, *ARROW)
FORMS = (
    "a .safetensors, .parquet or .arrow file, a folder with vectors.npy and offsets.npy, or an index of ColBERT, "
    "RAGatouille, fast-plaid, PyLate or xtr-warp-rs"
)


def open_vectors(source: Any) -> VectorSource:
    """Documents with their vectors, for `Index.add_batches`, in bounded memory.

    source: a path (docs/guides/import.md has the forms), or a table of Python that speaks Arrow.
    Raises CorpusError for what is none of these or is damaged, naming the file; MissingDependencyError for a table
    without pyarrow.
    """
    if hasattr(source, "__arrow_c_stream__"):
        return table_source(source)
    path = absolute(source)
    if path.is_dir():
        if (path / "vectors.npy").is_file():
            return npy_source(path)
        if (found := peer_source(path)) is not None:
            return found
        if is_index(path):
            raise CorpusError(
                f"{path} is an index of Latewood; search it, or write its vectors by latewood export"
            )
        raise CorpusError(f"{path} is no folder of vectors; pass {FORMS}")
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; pass {FORMS}")
    if path.suffix.lower() == ".safetensors":
        return safetensors_source(path)
    if path.suffix.lower() in TABLES:
        return file_source(path)
    raise CorpusError(f"{path} is of no known form; pass {FORMS}")


def export_vectors(index: Index | Snapshot, out: str | Path, *, filter: str | None = None) -> int:
    """Write documents with their vectors, in bounded memory; how many.

    out: a new .safetensors file (ids, texts and metadata go into .jsonl beside it), .parquet, .arrow or .feather file
    (extra `arrow`), else a new folder of .npy files. filter: only documents that meet it.
    Vectors are float16 as stored or, where an index keeps codes, as these decode; in tables float32.
    Raises ArgumentError where there is something already, StorageError where the disk refuses.
    """
    path = absolute(out)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise ArgumentError(f"{path} exists; pass a new path")
    if isinstance(index, Index):
        with index.snapshot() as snapshot:
            return export_vectors(snapshot, path, filter=filter)
    selection, kind = index.select(filter), path.suffix.lower()
    try:
        return _written(index, selection, path, kind)
    except LatewoodError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}); free space on that disk, or pass another path"
        ) from error


def _written(index: Snapshot, selection: Selection, path: Path, kind: str) -> int:
    if kind == ".safetensors":
        if path.with_suffix(".jsonl").exists():
            raise ArgumentError(f"{path.with_suffix('.jsonl')} exists; pass a new path")
        return write_safetensors(index, selection, path)
    if kind in TABLES:
        return write_table(index, selection, path)
    if kind:
        raise ArgumentError(
            f"out={str(path)!r} is of no known form; pass a name that ends in .safetensors, "
            f"{', '.join(TABLES)}, or a folder's, without a dot"
        )
    return write_npy(index, selection, output_folder(path))
