"""Readers: a JSONL file, a BEIR folder, a folder of text and code, or one file → a stream of passages."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from encoder.arguments import absolute
from encoder.errors import ArgumentError, CorpusError
from encoder.jsonl import Row, read_rows
from indexing.reading.chunking import CHUNK_SIZE, ChunkSize, chunk_source
from indexing.reading.files import MAX_FILE_BYTES, FolderReport, read_text, text_files
from indexing.reading.git import head_commit
from indexing.reading.languages import language_of
from indexing.reading.notebooks import Cell, is_notebook, notebook_cells

__all__ = [
    "FolderReport",
    "Passage",
    "beir_file",
    "file_passages",
    "passage_of",
    "read_folder",
    "read_jsonl",
    "read_source",
]

Passage: TypeAlias = dict[str, Any]
"""{"doc_id": str, "text": str, "metadata": dict}"""


def read_source(
    path: str | os.PathLike[str],
    *,
    report: FolderReport | None = None,
    exclude: Sequence[str] = (),
    size: ChunkSize = CHUNK_SIZE,
) -> Iterator[Passage]:
    """Stream the passages of a .jsonl or .jsonl.gz file, a BEIR folder, or a folder or file of text or code.

    The options apply to text and code: see `read_folder`. A missing path is refused at once; nothing is read
    before the first passage is asked for.

    Raises CorpusError for a source that is missing, unreadable or holds nothing, ArgumentError for patterns to exclude
    where there are no paths that they could meet.
    """
    source = absolute(path)
    try:
        source.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        fault = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise CorpusError(
            f"{source} {fault}; pass a .jsonl file, a BEIR folder, or a folder of text or code"
        ) from None
    corpus = beir_file(source, "corpus") if source.is_dir() else None
    if exclude and (corpus is not None or not source.is_dir()):
        raise ArgumentError(
            f"exclude={list(exclude)} is of folders of text or code, and {source} is none; leave it out"
        )
    if source.is_dir():
        if corpus is not None:
            return read_jsonl(corpus)
        return read_folder(source, report=report, exclude=exclude, size=size)
    if source.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(source)
    return _read_file(source, report, size)


# JSONL


def beir_file(folder: Path, stem: str) -> Path | None:
    """folder/stem.jsonl or folder/stem.jsonl.gz, whichever exists; their ends in capitals, too."""
    names = [f"{stem}{end}" for end in (".jsonl", ".jsonl.gz", ".JSONL", ".JSONL.GZ")]
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)  # noqa: PTH113


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Passage]:
    """Stream a JSONL file, gzipped when its name ends in .gz, one passage a line.

    A line needs an id (`_id`, else `doc_id`, else `id`; a string or an integer) and a `text`. A `title` goes
    before the text as in BEIR: (title + " " + text), stripped. Other keys become metadata; a `metadata`
    object is merged into them and wins. Blank lines are passed over.

    Raises CorpusError naming file:line and what is wrong with it.
    """
    return (passage_of(row) for row in read_rows(absolute(path)))


def passage_of(row: Row) -> Passage:
    """Of one line, as `read_jsonl` says."""
    key = next((k for k in ("_id", "doc_id", "id") if k in row.values), None)
    if key is None:
        raise CorpusError(f"{row.where} has no id; give it '_id', 'doc_id' or 'id'")
    doc_id = row.get(key, (str, int))
    if doc_id == "":
        raise CorpusError(f"{row.where} has {key!r} = ''; give it an id that is not empty")
    text, title = row.get("text", str), row.get("title", str, None)
    extra: dict[str, Any] = row.get("metadata", dict, None) or {}
    used = {key, "text", "title", "metadata"}
    return {
        "doc_id": str(doc_id),
        "text": text if title is None else f"{title} {text}".strip(),
        "metadata": {k: v for k, v in row.values.items() if k not in used} | extra,
    }


# Folders of text and code


def read_folder(
    path: str | os.PathLike[str],
    *,
    report: FolderReport | None = None,
    exclude: Sequence[str] = (),
    size: ChunkSize = CHUNK_SIZE,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Iterator[Passage]:
    """Stream the passages of all text and code files under a folder, in the order of their paths.

    doc_id is `relative/path.py::symbol`, or the path alone where there is no symbol, then `#2` and on where one
    file has it again: an edit above does not change it. metadata has path, language, kind, symbol, start_line
    and end_line; `lines` (pairs) where the text is not all of the lines from start to end, `columns` where it
    is part of one line, `cell` (from 1) where it is of a notebook, and `commit`, the HEAD of the git work tree
    that the folder is in.

    Passed over, and counted in `report`: what git ignores (by nested .gitignore files, those above the folder in
    the same repository, .git/info/exclude and the user's own excludes file), `exclude` (patterns in .gitignore's
    form), hidden files and folders, installed packages, vendored folders, caches, virtual environments, lock files,
    empty files, binaries, what is no regular file or cannot be read, files over max_file_bytes, minified files (by
    name, or code of very long lines), Latewood's own indexes, links to folders, links to files of the folder itself.

    Files are read as UTF-8 or, by their byte order mark, UTF-16 or UTF-32; else a Python file by its coding
    line. What is none of these is passed over, and named in `report`. Of a notebook (.ipynb) the cells are read,
    each for itself: its lines are those of the cell.

    Raises CorpusError when the folder cannot be listed or nothing in it can be indexed.
    """
    root = absolute(path)
    told = FolderReport() if report is None else report

    def passages() -> Iterator[Passage]:
        before = told.passages
        commit = head_commit(root)
        for file in text_files(root, exclude, max_file_bytes, told):
            reading = file.read()
            if reading.reason:
                told.skip(reading.reason, file.relative)
            else:
                yield from file_passages(file.relative, reading.text, told, commit, size)
        if told.passages == before:
            raise CorpusError(f"{root} holds no text or code to index: {told}")

    return passages()


def _read_file(file: Path, report: FolderReport | None, size: ChunkSize) -> Iterator[Passage]:
    text, reason = read_text(file)
    if reason:
        raise CorpusError(f"{file} cannot be indexed: {reason}; pass a file of text or code")
    report = report or FolderReport()
    yield from file_passages(file.name, text, report, None, size)


def file_passages(
    relative: str,
    text: str,
    report: FolderReport,
    commit: str | None = None,
    size: ChunkSize = CHUNK_SIZE,
) -> Iterator[Passage]:
    """The passages of one file, counted in `report`; see `read_folder`."""
    language = language_of(PurePosixPath(relative).name, text)
    cells = notebook_cells(text) if is_notebook(relative) else None
    parts = [Cell(0, language, text)] if cells is None else cells
    report.files += 1
    report.languages[language] += 1
    # So that no two files of any names have an id in common.
    stem = relative.replace("%", "%25").replace("#", "%23").replace("::", "%3A%3A")
    seen: set[str] = set()
    for part in parts:
        chunks, reason = chunk_source(part.source, part.language, size)
        if reason:
            report.by_indentation[reason, part.language] += 1
        for piece in chunks:
            name = f"{stem}::{piece.symbol}" if piece.symbol else stem
            doc_id, n = name, 1
            while doc_id in seen:
                n += 1
                doc_id = f"{name}#{n}"
            seen.add(doc_id)
            metadata: dict[str, Any] = {
                "path": relative,
                "language": part.language,
                "kind": piece.kind,
                "symbol": piece.symbol,
                "start_line": piece.start_line,
                "end_line": piece.end_line,
            }
            if piece.lines != ((piece.start_line, piece.end_line),):
                metadata["lines"] = [list(pair) for pair in piece.lines]
            if piece.columns is not None:
                metadata["columns"] = list(piece.columns)
            if part.number:
                metadata["cell"] = part.number
            if commit is not None:
                metadata["commit"] = commit
            report.passages += 1
            yield {"doc_id": doc_id, "text": piece.text, "metadata": metadata}
