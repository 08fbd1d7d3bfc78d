"""Evaluation sets in BEIR's layout: corpus.jsonl, queries.jsonl and qrels/{split}.tsv, each also as .gz."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from encoder.arguments import absolute
from encoder.errors import CorpusError
from encoder.jsonl import read_rows
from indexing.reading.corpus import Passage, beir_file, read_jsonl
from indexing.storage.durable import hash_file
from retriever.evaluation.metrics import Ranking, checked_run
from retriever.evaluation.qrels import Qrels, qrels_files, read_qrels

__all__ = ["EvaluationSet", "Qrels", "Run", "beir_folders", "query_length"]

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
    root = absolute(folder)
    if beir_file(root, "corpus") is not None:
        return [root]
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [path for path in inside if beir_file(path, "corpus") is not None and (path / "qrels").is_dir()]


@dataclass(frozen=True)
class EvaluationSet:
    """One split of a BEIR folder.

    queries: {query id: text}, those that have judgements in this split, in the order of queries.jsonl.
    qrels: {query id: {doc_id: relevance}}; a doc_id need not be in the corpus.
    remarks: what one should know of these files, a sentence each: judged documents that are missing and the like.
    """

    name: str
    folder: Path
    split: str
    queries: dict[str, str]
    qrels: Qrels
    remarks: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], split: str = "test", *, name: str | None = None
    ) -> "EvaluationSet":
        """Read queries and judgements, and look through the corpus, which stays on disk. name is the folder's unless
        given.

        Raises CorpusError where a file is missing (for a split: with the splits there are) or has a bad line, an id
        comes twice, a query is judged that has no text, or no judged document is in the corpus.
        """
        root = absolute(folder)
        corpus = beir_file(root, "corpus")
        if not root.is_dir() or corpus is None:
            raise CorpusError(
                f"{root} is no BEIR folder; pass one with corpus.jsonl, queries.jsonl and qrels/{split}.tsv"
            )
        queries_path = beir_file(root, "queries")
        if queries_path is None:
            raise CorpusError(f"{root} has no queries.jsonl; write one, a line a query: _id, text")
        splits = qrels_files(root)
        if split not in splits:
            names = ", ".join(splits) or "none"
            raise CorpusError(f"{root} has no split {split!r}; the splits of qrels/*.tsv are: {names}")
        qrels, repeated = read_qrels(splits[split])
        texts = {query["doc_id"]: query["text"] for query in _each_once(queries_path)}
        queries = {qid: text for qid, text in texts.items() if qid in qrels}
        if missing := [qid for qid in qrels if qid not in queries]:
            raise CorpusError(
                f"{splits[split]} judges {len(missing)} queries that {queries_path.name} lacks, first "
                f"{missing[0]!r}; add their text or drop their judgements"
            )
        found = cls(name or root.resolve().name, root, split, queries, qrels)
        counts = {
            f"{repeated:,} judgements stand there twice": repeated,
            **found._look_through(corpus, splits[split]),
            f"{len(texts) - len(queries):,} of {len(texts):,} queries have no judgement and are left out": len(
                texts
            )
            - len(queries),
        }
        return replace(found, remarks=tuple(f"{splits[split]}: {text}" for text, n in counts.items() if n))

    def _look_through(self, corpus: Path, qrels: Path) -> dict[str, int]:
        """What to remark on judged documents: {sentence: number of cases}."""
        judged = sum(len(own) for own in self.qrels.values())
        ids = (passage["doc_id"] for passage in _each_once(corpus))
        if (first := next(ids, None)) is None:
            raise CorpusError(f"{corpus} holds no document; write one a line: _id, text")
        unknown = self.unknown_documents(chain([first], ids))
        if unknown == judged:
            document = next(iter(next(iter(self.qrels.values()))))
            raise CorpusError(
                f"{qrels} judges no document of {corpus.name}, first {document!r}; pass the corpus that it was made "
                "for, and columns in the order query-id, corpus-id, score"
            )
        barren = sum(max(own.values()) < 1 for own in self.qrels.values())
        return {
            f"{unknown:,} of {judged:,} judged documents are not in {corpus.name}": unknown,
            f"{barren:,} queries have no relevant document and score 0": barren,
        }

    def passages(self) -> Iterator[Passage]:
        """Stream the corpus."""
        corpus = beir_file(self.folder, "corpus")
        if corpus is None:
            raise CorpusError(f"{self.folder}/corpus.jsonl is gone; put it back")
        return read_jsonl(corpus)

    def digest(self) -> str:
        """Hex digest of corpus, queries and this split's judgements, byte by byte."""
        files = [beir_file(self.folder, "corpus"), beir_file(self.folder, "queries")]
        files.append(qrels_files(self.folder).get(self.split))
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

    def drop_self_hits(self, run: Mapping[str, Ranking]) -> Run:
        """The run without hits on the query's own id where the set asks for it, else the same run."""
        return {
            qid: {doc: score for doc, score in hits.items() if not (self.drops_self_hits and doc == qid)}
            for qid, hits in checked_run(run).items()
        }

    def unknown_documents(self, doc_ids: Iterable[str]) -> int:
        """How many judged documents (query by query) are not among doc_ids, the corpus's."""
        unknown = {doc for judged in self.qrels.values() for doc in judged}
        unknown.difference_update(doc_ids)
        return sum(doc in unknown for judged in self.qrels.values() for doc in judged)


def _each_once(path: Path) -> Iterator[Passage]:
    """The passages of a file; an id that comes twice, or that no judgement can name, is refused with its lines."""
    places: dict[str, int] = {}
    for place, passage in enumerate(read_jsonl(path)):
        doc_id = passage["doc_id"]
        first = places.setdefault(doc_id, place)
        if first != place:
            raise CorpusError(
                f"{_where(path, place)} has the id {doc_id!r} of {_where(path, first)}; keep one"
            )
        if doc_id != doc_id.strip():
            raise CorpusError(
                f"{_where(path, place)} has the id {doc_id!r}, which begins or ends with a blank; take it away"
            )
        yield passage


def _where(path: Path, place: int) -> str:
    return next(islice(read_rows(path), place, None)).where
