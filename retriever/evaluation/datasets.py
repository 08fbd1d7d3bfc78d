"""Evaluation sets in BEIR's layout: corpus.jsonl, queries.jsonl and qrels/{split}.tsv."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from encoder.errors import CorpusError
from indexing.reading.corpus import Passage, beir_file, read_jsonl
from indexing.storage.durable import hash_file

__all__ = ["EvaluationSet", "Qrels", "Run", "beir_folders", "query_length"]

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]

# ColBERTv2's and PyLate's convention for BEIR; 32 elsewhere.
_QUERY_LENGTHS = {"arguana": 64, "climate-fever": 64, "scifact": 48, "scidocs": 48, "trec-covid": 48}
# In these the queries are documents of the corpus, which would answer themselves.
_SELF_HITS = {"arguana", "quora"}


def query_length(name: str) -> int:
    """Query length in tokens that BEIR results of late interaction are published with."""
    return _QUERY_LENGTHS.get(_plain(name), 32)


def _plain(name: str) -> str:
    """nano-arguana, NanoBEIR's cut of arguana, is read as arguana is."""
    return name.lower().replace("_", "-").removeprefix("nano-")


def beir_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folder itself where it is a BEIR folder with judgements, else those in it, by name; maybe none."""
    root = Path(folder)
    if beir_file(root, "corpus") is not None:
        return [root]
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [path for path in inside if beir_file(path, "corpus") is not None and (path / "qrels").is_dir()]


@dataclass(frozen=True)
class EvaluationSet:
    """One split of a BEIR folder.

    queries: {query id: text}, those that have judgements in this split, in the order of queries.jsonl.
    qrels: {query id: {doc_id: relevance}}; a doc_id need not be in the corpus.
    """

    name: str
    folder: Path
    split: str
    queries: dict[str, str]
    qrels: Qrels

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], split: str = "test", *, name: str | None = None
    ) -> "EvaluationSet":
        """Read queries and judgements; the corpus stays on disk. name is the folder's unless given.

        Raises CorpusError where a file is missing (for a split: with the splits there are), has a bad line,
        or judges a query without text.
        """
        root = Path(folder)
        qrels_path = root / "qrels" / f"{split}.tsv"
        if not root.is_dir() or beir_file(root, "corpus") is None:
            raise CorpusError(
                f"{root} is no BEIR folder; pass one with corpus.jsonl, queries.jsonl and qrels/{split}.tsv"
            )
        queries_path = beir_file(root, "queries")
        if queries_path is None:
            raise CorpusError(f"{root} has no queries.jsonl; write one, a line a query: _id, text")
        if not qrels_path.is_file():
            splits = ", ".join(sorted(path.stem for path in root.glob("qrels/*.tsv"))) or "none"
            raise CorpusError(f"{root} has no split {split!r}; the splits of qrels/*.tsv are: {splits}")
        qrels = _read_qrels(qrels_path)
        queries = {
            query["doc_id"]: query["text"] for query in read_jsonl(queries_path) if query["doc_id"] in qrels
        }
        if missing := [qid for qid in qrels if qid not in queries]:
            raise CorpusError(
                f"{qrels_path} judges {len(missing)} queries that {queries_path.name} lacks, first "
                f"{missing[0]!r}; add their text or drop their judgements"
            )
        return cls(name or root.resolve().name, root, split, queries, qrels)

    def passages(self) -> Iterator[Passage]:
        """Stream the corpus."""
        corpus = beir_file(self.folder, "corpus")
        if corpus is None:
            raise CorpusError(f"{self.folder}/corpus.jsonl is gone; put it back")
        return read_jsonl(corpus)

    def digest(self) -> str:
        """Hex digest of corpus, queries and this split's judgements, byte by byte."""
        files = [beir_file(self.folder, "corpus"), beir_file(self.folder, "queries")]
        files.append(self.folder / "qrels" / f"{self.split}.tsv")
        hashes = [hash_file(file) for file in files if file is not None]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:32]

    @property
    def query_length(self) -> int:
        """Query length in tokens by BEIR's convention for this name."""
        return query_length(self.name)

    @property
    def drops_self_hits(self) -> bool:
        """Whether a hit on the query's own id must not count (arguana, quora): then ask for one hit more."""
        return _plain(self.name) in _SELF_HITS

    def drop_self_hits(self, run: Mapping[str, Mapping[str, float]]) -> Run:
        """The run without hits on the query's own id where the set asks for it, else the same run."""
        return {
            qid: {doc: score for doc, score in hits.items() if not (self.drops_self_hits and doc == qid)}
            for qid, hits in run.items()
        }

    def unknown_documents(self, doc_ids: Iterable[str]) -> int:
        """How many judged documents (query by query) are not among doc_ids, the corpus's."""
        known = set(doc_ids)
        return sum(doc not in known for judged in self.qrels.values() for doc in judged)


def _read_qrels(path: Path) -> Qrels:
    """BEIR's: query-id, corpus-id, score between tabs, below a header; ids may hold spaces."""
    qrels: Qrels = {}
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.rstrip("\r\n").split("\t")
                if fields == [""] or (number == 1 and not _is_integer(fields[-1])):
                    continue
                if len(fields) != 3 or not _is_integer(fields[2]):
                    raise CorpusError(
                        f"{path}:{number} is {line.strip()!r:.60}; write query-id, corpus-id and an integer "
                        "score, separated by tabs"
                    )
                qrels.setdefault(fields[0], {})[fields[1]] = int(fields[2])
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {path}: {error}; check the file and its permissions") from error
    if not qrels:
        raise CorpusError(f"{path} judges nothing; write a header, then query-id, corpus-id, score a line")
    return qrels


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
