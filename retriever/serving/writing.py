"""Writing to an index that is served: one write at a time, each answered when it is on the disk and can be found."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from encoder.errors import ArgumentError, CorpusError
from encoder.jsonl import read_rows
from indexing.settings import DocumentEncoder
from retriever.serving.errors import ProblemError
from retriever.serving.indexes import Served

__all__ = ["add", "delete", "documents_of"]

KEYS = {"doc_id", "text", "metadata"}


def add(served: Served, documents: Iterable[Mapping[str, Any]], *, encode: bool) -> dict[str, Any]:
    """Add or replace documents; what was done. encode: their vectors too, and all that an earlier write left.

    Texts are stored first, and found by words. After an error, what was committed before it stays.
    """
    index = served.writer
    if encode and index.settings.encoder is None:
        raise ArgumentError(
            f"{served.name} was made of vectors and has no encoder; pass encode=false, for words alone"
        )
    report = asdict(index.add(documents, encode=False))
    if encode and index.n_unencoded:
        index._light = cast(DocumentEncoder, served.searcher.encoder)  # one model for both
        made = asdict(index.encode())
        report |= {key: report[key] + made[key] for key in ("truncated", "windowed", "passages", "tokens")}
    return report | served.now()


def delete(served: Served, doc_ids: Iterable[str] | None = None, filter: str | None = None) -> dict[str, Any]:
    """As `Index.delete`; how many."""
    return {"deleted": served.writer.delete(doc_ids, filter=filter)} | served.now()


def documents_of(path: Path, most_bytes: int) -> Iterable[dict[str, Any]]:
    """The documents of a file of NDJSON, line by line. Raises CorpusError naming the line of what is none."""
    check_lines(path, most_bytes)
    try:
        for row in read_rows(path):
            document = {"doc_id": row.get("doc_id", str), "text": row.get("text", str)}
            if unknown := row.values.keys() - KEYS:
                raise CorpusError(
                    f"{row.where} has {min(unknown)!r}; a document has doc_id, text and metadata"
                )
            yield document | {"metadata": row.get("metadata", dict, {})}
    except CorpusError as error:  # the file's name is ours
        raise CorpusError(str(error).replace(f"{path}:", "line ").replace(str(path), "the body")) from None


def check_lines(path: Path, most_bytes: int) -> None:
    """Raises 413 for a line that is longer than may be read at once."""
    with path.open("rb") as file:
        number = 1
        while line := file.readline(most_bytes + 1):
            if len(line) > most_bytes:
                raise ProblemError(
                    413, f"line {number} has more than {most_bytes:,} bytes; send shorter documents"
                )
            number += 1
