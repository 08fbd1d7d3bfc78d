"""Readers: a JSONL file, a BEIR folder, a folder of text and code, or one file → a stream of passages."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from encoder.errors import CorpusError
from indexing.reading.chunking import MAX_CHARS, OVERLAP_CHARS, chunk_source
from indexing.reading.files import MAX_FILE_BYTES, FolderReport, head_commit, read_text, text_files
from indexing.reading.languages import language_of

__all__ = [
    "FolderReport",
    "Passage",
    "beir_file",
    "file_passages",
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
    max_chars: int = MAX_CHARS,
    overlap_chars: int = OVERLAP_CHARS,
) -> Iterator[Passage]:
    """Stream the passages of a .jsonl or .jsonl.gz file, a BEIR folder, or a folder or file of text or code.

    The options apply to text and code: see `read_folder`. A missing path is refused at once; nothing is read
    before the first passage is asked for.

    Raises CorpusError for a source that is missing, unreadable or holds nothing.
    """
    source = Path(path)
    if not source.exists():
        raise CorpusError(
            f"{source} does not exist; pass a .jsonl file, a BEIR folder, or a folder of text or code"
        )
    if source.is_dir():
        if (corpus := beir_file(source, "corpus")) is not None:
            return read_jsonl(corpus)
        return read_folder(
            source, report=report, exclude=exclude, max_chars=max_chars, overlap_chars=overlap_chars
        )
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(source)
    return _read_file(source, report, max_chars, overlap_chars)


# JSONL


def beir_file(folder: Path, stem: str) -> Path | None:
    """folder/stem.jsonl or folder/stem.jsonl.gz, whichever exists."""
    return next((p for p in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if p.is_file()), None)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Passage]:
    """Stream a JSONL file, gzipped when its name ends in .gz, one passage a line.

    A line needs an id (`_id`, else `doc_id`, else `id`; a string or an integer) and a `text`. A `title` goes
    before the text as in BEIR: (title + " " + text), stripped. Other keys become metadata; a `metadata`
    object is merged into them and wins. Blank lines are passed over.

    Raises CorpusError naming file:line and what is wrong with it.
    """
    source = Path(path)
    try:
        with gzip.open(source, "rb") if source.suffix == ".gz" else source.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield _passage(line, f"{source}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"cannot read {source}: {error}; check the file and its permissions") from error


def _passage(line: bytes, where: str) -> Passage:
    try:
        record = json.loads(line)
        if b"\\ud" in line.lower():
            # Half of a surrogate pair is legal JSON but no text: SQLite and the tokenizers refuse it.
            whole = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass")
            record = json.loads(whole.decode("utf-16", "replace"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise CorpusError(f"{where} is not JSON ({error}); write one JSON object a line, in UTF-8") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is a JSON {type(record).__name__}; write one JSON object a line")
    key = next((k for k in ("_id", "doc_id", "id") if k in record), None)
    if key is None:
        raise CorpusError(f"{where} has no id; give it '_id', 'doc_id' or 'id'")
    doc_id = record.pop(key)
    if isinstance(doc_id, bool) or not isinstance(doc_id, str | int) or doc_id == "":
        raise CorpusError(f"{where} has {key}={doc_id!r}; an id is a string that is not empty, or an integer")
    if "text" not in record:
        raise CorpusError(f"{where} has no 'text'; give it one (an empty string will do)")
    text = record.pop("text")
    title = record.pop("title", None)
    for name, value in (("text", text), ("title", title or "")):
        if not isinstance(value, str):
            raise CorpusError(f"{where} has {name}={value!r:.40}; make it a string")
    extra = record.pop("metadata", None) or {}
    if not isinstance(extra, dict):
        raise CorpusError(f"{where} has metadata={extra!r:.40}; make it an object")
    if title is not None:
        text = f"{title} {text}".strip()
    return {"doc_id": str(doc_id), "text": text, "metadata": {**record, **extra}}


# Folders of text and code


def read_folder(
    path: str | os.PathLike[str],
    *,
    report: FolderReport | None = None,
    exclude: Sequence[str] = (),
    max_chars: int = MAX_CHARS,
    overlap_chars: int = OVERLAP_CHARS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Iterator[Passage]:
    """Stream the passages of all text and code files under a folder, in the order of their paths.

    doc_id is `relative/path.py::symbol`, or the path alone where there is no symbol, then `#2` and on where one
    file has it again: an edit above does not change it. metadata has path, language, kind, symbol, start_line
    and end_line; `lines` (pairs) where the text is not all of the lines from start to end, `columns` where it
    is part of one line, and `commit`, the HEAD of the git work tree that the folder is in.

    Passed over, and counted in `report`: what .gitignore files say (nested ones too, and those above the
    folder in the same repository), `exclude` (patterns in .gitignore's form), hidden files and folders,
    installed packages, vendored folders, caches, virtual environments, lock files, empty files, binaries,
    files over max_file_bytes, minified files (by name, or code of very long lines), Latewood's own indexes,
    links to folders, links to files of the folder itself.

    Files are read as UTF-8 or, by their byte order mark, UTF-16 or UTF-32; else a Python file by its coding
    line, and what is none of these as Latin-1, which never fails.

    Raises CorpusError when the folder cannot be listed or nothing in it can be indexed.
    """
    root = Path(path)
    report = FolderReport() if report is None else report
    before = report.passages
    commit = head_commit(root)
    for file in text_files(root, exclude, max_file_bytes, report):
        if (text := file.read(report)) is not None:
            yield from file_passages(file.relative, text, report, commit, max_chars, overlap_chars)
    if report.passages == before:
        raise CorpusError(f"{root} holds no text or code to index: {report}")


def _read_file(
    file: Path, report: FolderReport | None, max_chars: int, overlap_chars: int
) -> Iterator[Passage]:
    text, reason = read_text(file)
    if reason:
        raise CorpusError(f"{file} cannot be indexed: {reason}; pass a file of text or code")
    report = report or FolderReport()
    yield from file_passages(file.name, text, report, None, max_chars, overlap_chars)


def file_passages(
    relative: str,
    text: str,
    report: FolderReport,
    commit: str | None = None,
    max_chars: int = MAX_CHARS,
    overlap_chars: int = OVERLAP_CHARS,
) -> Iterator[Passage]:
    """The passages of one file, counted in `report`; see `read_folder`."""
    language = language_of(PurePosixPath(relative).name, text)
    report.files += 1
    report.languages[language] += 1
    chunks, reason = chunk_source(text, language, max_chars=max_chars, overlap_chars=overlap_chars)
    if reason:
        report.by_indentation[reason, language] += 1
    # So that no two files of any names have an id in common.
    stem = relative.replace("%", "%25").replace("#", "%23").replace("::", "%3A%3A")
    seen: set[str] = set()
    for piece in chunks:
        name = f"{stem}::{piece.symbol}" if piece.symbol else stem
        doc_id, n = name, 1
        while doc_id in seen:
            n += 1
            doc_id = f"{name}#{n}"
        seen.add(doc_id)
        metadata: dict[str, Any] = {
            "path": relative,
            "language": language,
            "kind": piece.kind,
            "symbol": piece.symbol,
            "start_line": piece.start_line,
            "end_line": piece.end_line,
        }
        if piece.lines != ((piece.start_line, piece.end_line),):
            metadata["lines"] = [list(pair) for pair in piece.lines]
        if piece.columns is not None:
            metadata["columns"] = list(piece.columns)
        if commit is not None:
            metadata["commit"] = commit
        report.passages += 1
        yield {"doc_id": doc_id, "text": piece.text, "metadata": metadata}
