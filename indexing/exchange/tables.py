"""Vectors in tables: Parquet and Arrow files, and any table of Python that speaks Arrow. A row is a document.

doc_id string                          or id, or _id
vectors list<list<float>>              or embeddings: a vector a token, of equal length
text string                            maybe
metadata string                        maybe: a JSON object
token_ids list<int32>                  maybe: the vocabulary id of each token, -1 for none
passages list<struct<tokens, start, end>>   maybe: where a document has several, or none yet
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.checkpoints.folder import first_line, output_file
from encoder.errors import CorpusError, MissingDependencyError
from indexing.exchange.arrays import made_by
from indexing.exchange.snapshots import Shape, blocks, shape_of
from indexing.exchange.source import VectorSource, packed
from indexing.storage.snapshot import Selection, Snapshot
from indexing.writing.given import VectorBatch

__all__ = ["ARROW", "PARQUET", "file_source", "table_source", "write_table"]

ARROW = (".arrow", ".feather")
PARQUET = (".parquet", ".pq")
IDS = ("doc_id", "id", "_id")
VECTORS = ("vectors", "embeddings")
ROWS = 64  # documents read at a time
Batches: TypeAlias = Callable[[], Iterator[Any]]


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            "tables need pyarrow, which is not installed; pip install 'latewood[arrow]'"
        ) from error
    return pyarrow


def _parquet() -> Any:
    _arrow()
    from pyarrow import parquet as module

    return module


@contextmanager
def _reading(where: str) -> Iterator[None]:
    pa = _arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{where} cannot be read ({first_line(error)}); write it anew") from None


# Reading


def file_source(path: Path) -> VectorSource:
    """A .parquet, .arrow or .feather file."""
    pa, where = _arrow(), str(path)
    if path.suffix.lower() in PARQUET:

        def batches() -> Iterator[Any]:
            with _reading(where), _parquet().ParquetFile(path) as file:
                yield from file.iter_batches(ROWS)

        with _reading(where), _parquet().ParquetFile(path) as file:
            return _source("Parquet", where, file.schema_arrow, batches, file.metadata.num_rows)

    def mapped() -> Iterator[Any]:
        with _reading(where), pa.memory_map(where) as memory, pa.ipc.open_file(memory) as file:
            for i in range(file.num_record_batches):
                yield from _sliced(file.get_batch(i))

    with _reading(where), pa.memory_map(where) as memory, pa.ipc.open_file(memory) as file:
        return _source("Arrow", where, file.schema, mapped, None)


def table_source(table: Any) -> VectorSource:
    """A table of pyarrow, polars, DuckDB: whatever has `__arrow_c_stream__`."""
    pa = _arrow()
    found = table if isinstance(table, pa.Table) else pa.RecordBatchReader.from_stream(table).read_all()

    def batches() -> Iterator[Any]:
        for batch in found.to_batches():
            yield from _sliced(batch)

    return _source("Arrow", "the table", found.schema, batches, found.num_rows)


def _sliced(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, ROWS):
        yield batch.slice(start, ROWS)


def _source(kind: str, where: str, schema: Any, batches: Batches, n: int | None) -> VectorSource:
    def column(names: tuple[str, ...]) -> str:
        found = next((name for name in names if name in schema.names), None)
        if found is None:
            raise CorpusError(
                f"{where} has the columns {', '.join(schema.names)}; give it one called {names[0]}"
            )
        return found

    doc_id, vectors = column(IDS), column(VECTORS)
    _check_types(where, schema, vectors)
    dim = getattr(schema.field(vectors).type.value_type, "list_size", 0)
    widths = (_widths(batch.column(vectors)) for batch in batches() if not dim)
    dim = dim or next((int(own[0]) for own in widths if len(own)), 0)

    def read() -> Iterator[VectorBatch]:
        done = 0
        for batch in batches():
            yield _batch(f"{where}, rows from {done}", batch, (doc_id, vectors), dim)
            done += batch.num_rows

    if not dim:
        raise CorpusError(f"{where} has no vector in {vectors}; give it a list of vectors a row")
    told = {key.decode("latin-1"): value.decode("latin-1") for key, value in (schema.metadata or {}).items()}
    return VectorSource(kind, dim, read, n, **made_by(told))


def _check_types(where: str, schema: Any, vectors: str) -> None:
    types = _arrow().types

    def inside(kind: Any, depth: int) -> Any:
        """What lists hold that lie in each other so deep; None where there are no such lists."""
        for _ in range(depth):
            if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
                return None
            kind = kind.value_type
        return kind

    def is_passages(kind: Any) -> bool:
        parts = inside(kind, 1)
        names = ("tokens", "start", "end")
        return (
            parts is not None and types.is_struct(parts) and all(parts.get_field_index(n) >= 0 for n in names)
        )

    def is_vectors(kind: Any) -> bool:
        numbers = inside(kind, 2)
        return numbers is not None and types.is_floating(numbers)

    def is_ids(kind: Any) -> bool:
        numbers = inside(kind, 1)
        return numbers is not None and types.is_integer(numbers)

    wanted = {
        vectors: (is_vectors, "a list of lists of numbers, one a token"),
        "token_ids": (is_ids, "a list of integers"),
        "passages": (is_passages, "a list of structs of the integers tokens, start and end"),
    }
    for name, (fits, remedy) in wanted.items():
        if name in schema.names and not fits(schema.field(name).type):
            raise CorpusError(f"{where}: {name} is {schema.field(name).type}; give it {remedy}")


def _batch(where: str, batch: Any, names: tuple[str, str], dim: int) -> VectorBatch:
    """Some rows. names: of the columns with ids and with vectors."""
    ids, vectors = (batch.column(name) for name in names)
    widths = _widths(vectors)
    if (widths != dim).any():
        raise CorpusError(
            f"{where}: {names[1]} has vectors of {set(widths.tolist())} numbers; give all {dim}"
        )
    tokens = _lengths(vectors)
    rows = _numbers(vectors.flatten().flatten(), f"{where}: {names[1]}").reshape(-1, dim)
    columns = {
        name: batch.column(name)
        for name in ("text", "metadata", "token_ids", "passages")
        if name in batch.schema.names
    }
    token_ids = None
    if "token_ids" in columns:
        own = columns["token_ids"]
        if (_lengths(own) != tokens).any():
            raise CorpusError(
                f"{where}: token_ids has not one for each vector; give as many, or leave the column out"
            )
        token_ids = _numbers(own.flatten(), f"{where}: token_ids")
    counts, lengths, spans = None, tokens, None
    if "passages" in columns:
        counts, lengths, spans = _passages(where, columns["passages"], tokens)
    return VectorBatch(
        [str(value) if isinstance(value, int) else value for value in ids.to_pylist()],
        packed(rows, lengths, token_ids),
        columns["text"].to_pylist() if "text" in columns else None,
        [_object(where, value) for value in columns["metadata"].to_pylist()]
        if "metadata" in columns
        else None,
        counts,
        spans,
    )


def _passages(
    where: str, column: Any, tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """counts (n,), lengths (n_passages,) and spans (n_passages, 2)."""
    if column.null_count:
        raise CorpusError(f"{where}: passages has a null; give a list a row, or leave the column out")
    counts, parts = _lengths(column), column.flatten()
    lengths, start, end = (
        _numbers(parts.field(name), f"{where}: passages").astype(np.int64)
        for name in ("tokens", "start", "end")
    )
    owners = np.repeat(np.arange(len(counts)), counts)
    if (lengths < 0).any() or (np.bincount(owners, lengths, len(counts)) != tokens).any():
        raise CorpusError(
            f"{where}: the tokens of passages do not add up to the vectors; give each vector to one"
        )
    return counts, lengths, np.stack([start, end], axis=1).astype(np.int32)


def _widths(column: Any) -> npt.NDArray[np.int64]:
    return _lengths(column.flatten())


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    """Of the lists of a column, 0 for null: (n,)."""
    import pyarrow.compute as pc

    found: npt.NDArray[np.int64] = pc.fill_null(pc.list_value_length(column), 0).to_numpy(
        zero_copy_only=False
    )
    return found.astype(np.int64)


def _numbers(column: Any, where: str) -> npt.NDArray[Any]:
    if column.null_count:
        raise CorpusError(f"{where} has a null; give numbers")
    found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found


def _object(where: str, value: Any) -> Any:
    """Metadata: JSON text, or a struct as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise CorpusError(
            f"{where}: metadata {value!r:.60} is not JSON ({error}); give it an object"
        ) from None


# Writing


def write_table(snapshot: Snapshot, selection: Selection, path: Path) -> int:
    """As many documents as are written."""
    pa, shape, n = _arrow(), shape_of(snapshot, selection), 0
    schema = _schema(shape)
    with output_file(path) as aside, _writer(aside, schema, path.suffix.lower() in PARQUET) as writer:
        for batch in blocks(snapshot, selection):
            writer.write_batch(pa.record_batch(_filled(batch, shape, schema), schema=schema))
            n += len(batch)
    return n


def _schema(shape: Shape) -> Any:
    pa = _arrow()
    fields = {
        "doc_id": pa.string(),
        "text": pa.string(),
        "metadata": pa.string(),
        "vectors": pa.list_(pa.list_(pa.float32(), shape.dim)),
    }
    if shape.token_ids:
        fields["token_ids"] = pa.list_(pa.int32())
    if not shape.one_each:
        fields["passages"] = pa.list_(pa.struct(dict.fromkeys(("tokens", "start", "end"), pa.int32())))
    return pa.schema(fields, metadata=shape.about)


def _writer(path: Path, schema: Any, in_parquet: bool) -> Any:
    pa = _arrow()
    if in_parquet:
        # float16's numbers in float32: their last 13 bits are zeros, which shuffled bytes and zstd take little for.
        return _parquet().ParquetWriter(path, schema, compression="zstd", use_dictionary=["doc_id"])
    return pa.ipc.new_file(str(path), schema)


def _filled(batch: VectorBatch, shape: Shape, schema: Any) -> list[Any]:
    pa, embeddings = _arrow(), batch.embeddings
    tokens = pa.array(embeddings.offsets[batch.starts], pa.int32())
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.vectors.astype(np.float16).astype(np.float32).ravel()), shape.dim
    )
    columns = [
        pa.array(batch.doc_ids, pa.string()),
        pa.array(batch.texts, pa.string()),
        pa.array([json.dumps(own, ensure_ascii=False) for own in batch.metadata or ()], pa.string()),
        pa.ListArray.from_arrays(tokens, vectors),
    ]
    if shape.token_ids:
        columns.append(pa.ListArray.from_arrays(tokens, pa.array(embeddings.token_ids, pa.int32())))
    if not shape.one_each:
        assert batch.spans is not None
        numbers = [embeddings.lengths, batch.spans[:, 0], batch.spans[:, 1]]
        parts = pa.StructArray.from_arrays(
            [pa.array(own, pa.int32()) for own in numbers], ["tokens", "start", "end"]
        )
        columns.append(pa.ListArray.from_arrays(pa.array(batch.starts, pa.int32()), parts))
    return columns
