"""Judgements: qrels/{split}.tsv in BEIR's form or in TREC's, plain or gzipped."""

import gzip
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from encoder.errors import CorpusError

__all__ = ["Qrels", "qrels_files", "read_qrels"]

Qrels = dict[str, dict[str, int]]

# What the columns are called in headers, `_` and capitals aside.
_NAMES = (
    ("query-id", "queryid", "query", "qid", "topic", "topic-id"),
    ("corpus-id", "corpusid", "doc-id", "docid", "document-id", "did", "passage-id", "pid", "docno"),
    ("score", "relevance", "rel", "label", "grade", "judgement", "judgment"),
)
_WANTED = "query-id, corpus-id and an integer score, separated by tabs"
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


class _Form(NamedTuple):
    """columns: of query id, doc_id and score. width: of all that a line has."""

    columns: tuple[int, int, int]
    width: int

    def read(self, line: str) -> tuple[str, str, int] | None:
        """Query id, doc_id and score; None for a line of another form."""
        fields = line.split() if self == _TREC and "\t" not in line else line.split("\t")
        if len(fields) != self.width:
            return None
        qid, doc, score = (fields[column].strip() for column in self.columns)
        return (qid, doc, int(score)) if qid and doc and _INTEGER.fullmatch(score) else None


_BEIR, _TREC = _Form((0, 1, 2), 3), _Form((0, 2, 3), 4)


def qrels_files(folder: Path) -> dict[str, Path]:
    """{split: file} of a BEIR folder, by name; of a plain and a gzipped file of one split the plain one."""
    files = [*folder.glob("qrels/*.tsv.gz"), *folder.glob("qrels/*.tsv")]
    found = {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in files if path.is_file()}
    return dict(sorted(found.items()))


def read_qrels(path: Path) -> tuple[Qrels, int]:
    """{query id: {doc_id: relevance}}, and how many judgements stand there more than once.

    The first line tells the form: a header names the columns, in any order; without one they are BEIR's three
    (query-id, corpus-id, score, between tabs, ids may hold spaces) or TREC's four (query-id, 0, corpus-id, score).
    Raises CorpusError naming file:line on a line of another form, and on a judgement that another contradicts.
    """
    qrels: Qrels = {}
    lines: dict[tuple[str, str], int] = {}
    form: _Form | None = None
    repeated = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        if form is None:
            form, header = _form(line, f"{path}:{number}")
            if header:
                continue
        judgement = form.read(line)
        if judgement is None:
            raise CorpusError(f"{path}:{number} is {line.strip()!r:.60}; write {_WANTED}")
        qid, doc, score = judgement
        if qrels.setdefault(qid, {}).setdefault(doc, score) != score:
            raise CorpusError(
                f"{path}:{number} gives document {doc!r} of query {qid!r} the score {score}, line "
                f"{lines[qid, doc]} gave it {qrels[qid][doc]}; keep one"
            )
        repeated += lines.setdefault((qid, doc), number) != number
    if not qrels:
        raise CorpusError(f"{path} judges nothing; write a header, then query-id, corpus-id, score a line")
    return qrels, repeated


def _lines(path: Path) -> list[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {path}: {reason}; check the file and its permissions") from error


def _form(line: str, where: str) -> tuple[_Form, bool]:
    """The form of a file by its first line, and whether that is a header."""
    names = [name.strip(" \r#").lower().replace("_", "-") for name in line.split("\t")]
    query, document, score = (
        next((i for i, name in enumerate(names) if name in known), -1) for known in _NAMES
    )
    if min(query, document, score) >= 0:
        return _Form((query, document, score), len(names)), True
    for form in (_BEIR, _TREC):
        if form.read(line) is not None:
            return form, False
    raise CorpusError(f"{where} is {line.strip()!r:.60}, no header and no judgement; write {_WANTED}")
