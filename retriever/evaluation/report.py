"""Run files in TREC's form: `query-id Q0 doc_id rank score tag`, a line a hit, ranks from 1."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.errors import ArgumentError, CorpusError
from encoder.progress import Told
from retriever.evaluation.datasets import EvaluationSet, Run
from retriever.evaluation.metrics import Ranking, checked_run, trec_order

__all__ = ["RunFile", "read_run", "write_run"]


def write_run(path: str | os.PathLike[str], run: Mapping[str, Ranking], tag: str = "latewood") -> None:
    """Write {query id: {doc_id: score}}, each query's hits in trec_eval's order, scores to the last digit; as in
    `evaluate`, doc_ids or hits best first do in place of scores.

    Raises ArgumentError, before anything is written, on an id that is empty or holds white space, which the
    form cannot hold, and on a path that cannot be written.
    """
    _refuse_spaces("tag", tag)
    lines = []
    for qid, scores in checked_run(run).items():
        _refuse_spaces("query id", qid)
        for rank, doc in enumerate(trec_order(scores), start=1):
            _refuse_spaces("doc_id", doc)
            lines.append(f"{qid} Q0 {doc} {rank} {float(scores[doc])!r} {tag}\n")
    try:
        Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise ArgumentError(
            f"cannot write {path}: {error.strerror}; pass a file in a folder of yours"
        ) from error


def _refuse_spaces(what: str, value: str) -> None:
    if value.split() != [value]:
        raise ArgumentError(
            f"{what} {value!r} is empty or holds white space, which a TREC run cannot hold; "
            "rename it, or write no run file"
        )


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """{query id: {doc_id: score}}; ranks are not read, as in trec_eval. Queries without a hit left no line.

    Raises CorpusError naming file:line on a line that is not of the form, or a document given twice.
    """
    run: dict[str, dict[str, float]] = {}
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.split()
                if not fields:
                    continue
                try:
                    qid, _, doc, _, score, _ = fields
                    value = float(score)
                except ValueError:
                    raise CorpusError(
                        f"{path}:{number} is {line.strip()!r:.60}; write query-id Q0 doc_id rank score tag"
                    ) from None
                hits = run.setdefault(qid, {})
                if doc in hits:
                    raise CorpusError(f"{path}:{number} repeats document {doc!r} of query {qid!r}; keep one")
                hits[doc] = value
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {path}: {error}; check the file and its permissions") from error
    return run


@dataclass(frozen=True)
class RunFile:
    """A system that has searched elsewhere: its run in TREC's form. It has no times and no size."""

    path: Path

    @property
    def name(self) -> str:
        """The file's, without its last ending."""
        return self.path.stem

    def identity(self, data: EvaluationSet) -> dict[str, Any]:
        try:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise CorpusError(f"cannot read {self.path}: {error.strerror}; pass a run file") from error
        return {"model": "run", "fingerprint": digest, "settings": {"file": self.path.name}}

    def run(self, data: EvaluationSet, *, progress: Told | None = None) -> tuple[Run, dict[str, Any]]:
        """Raises CorpusError for what is no run, and for one that answers none of the data set's queries."""
        run = read_run(self.path)
        own = {qid: hits for qid, hits in run.items() if qid in data.queries}
        if not own:
            first = next(iter(run), None)
            what = "is empty" if first is None else f"has queries as {first!r}, and none of {data.name}"
            raise CorpusError(f"{self.path} {what}; pass a run of this data set")
        nothing = ("index_bytes", "index_seconds", "search_seconds", "ms_per_query")
        documents = sum(1 for _ in data.passages())
        return own, {"answered": len(own), "documents": documents, **dict.fromkeys(nothing)}
