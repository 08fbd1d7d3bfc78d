"""Sources, on whatever machine reads them: files and URLs of JSON lines or Parquet, folders → documents."""

import glob
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from encoder.arguments import absolute
from encoder.errors import CorpusError
from encoder.jsonl import Row, rows_of
from indexing.reading.corpus import Passage, passage_of, read_source

__all__ = ["files_of", "read_documents"]

PARQUET = ".parquet"
LINES = (".jsonl", ".jsonl.gz")
ROWS = 256  # of Parquet, read at a time


def files_of(sources: Sequence[str]) -> list[str]:
    """What is read by itself: patterns become the files that match, paths absolute.

    Raises CorpusError for what is not there, and for a URL of what cannot be read from afar.
    """
    found = []
    for source in sources:
        if "://" in source:
            found += _there(source)
            continue
        matching = [source] if os.path.exists(source) else sorted(glob.glob(source))  # noqa: PTH110, PTH207
        for path in matching or [source]:
            if not path.lower().endswith(PARQUET):
                read_source(path)  # raises for one that is not there
            found.append(str(absolute(path)))
    return found


def _there(url: str) -> list[str]:
    if not url.lower().endswith((PARQUET, *LINES)):
        raise CorpusError(f"{url} is no .jsonl, .jsonl.gz or .parquet file; pass one, or a pattern of some")
    with _reading(url):
        import fsspec

        filesystem, path = fsspec.url_to_fs(url)
        found = sorted(filesystem.glob(path)) if glob.has_magic(path) else [path][: filesystem.exists(path)]
        if not found:
            raise CorpusError(f"{url} does not exist; pass a .jsonl or .parquet file")
        return [filesystem.unstrip_protocol(one) for one in found]


def read_documents(source: str, exclude: Sequence[str] = ()) -> Iterator[Passage]:
    """Stream the documents of one of `files_of`: as `read_source`, and of Parquet each row as a line of JSON would be.

    Raises CorpusError naming the place and what is wrong there.
    """
    table = source.lower().endswith(PARQUET)
    if not table and "://" not in source:
        return read_source(source, exclude=exclude)
    return (passage_of(row) for row in (_table_rows(source) if table else _lines(source)))


def _lines(url: str) -> Iterator[Row]:
    with _reading(url), _opened(url, "infer") as data:
        yield from rows_of(io.BufferedReader(data), url)


def _table_rows(source: str) -> Iterator[Row]:
    with _reading(source), _opened(source) as data:
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(data).iter_batches(ROWS):
            for values in batch.to_pylist():
                yield Row(f"{source}: row {number}", values)
                number += 1


def _opened(source: str, compression: str | None = None) -> Any:
    import fsspec

    return fsspec.open(source, "rb", compression=compression)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:  # s3fs, gcsfs and their like
        raise CorpusError(f"cannot read {source}: {error}") from error
    except (OSError, EOFError, ValueError) as error:  # pyarrow's are ValueErrors
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            f"cannot read {source}: {error or type(error).__name__}; check the file and its permissions"
        ) from error
