"""Training examples of retrieval: a query, a text that answers it, texts that do not, a teacher's scores.

Two layouts are read: .jsonl(.gz) with `query`, `pos` and optionally `negs` and `scores`, and PyLate's for
knowledge distillation, a folder of queries.jsonl, documents.jsonl and train.jsonl.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encoder.errors import CorpusError

__all__ = ["Batch", "Example", "Source", "batches", "read_examples"]

SPAN_WORDS = (3, 12)  # of a query that is cut from its document


@dataclass(frozen=True)
class Example:
    """documents: the positive first, then negatives. scores: a teacher's, one a document, or empty."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Source:
    """share: of the examples, taken in an epoch. grown: seeds, size → rows of a batch of examples like the seeds
    (`Topics.grown`); None: a batch is drawn at random. seeds: how many a batch grows from."""

    examples: Sequence[Example]
    share: float = 1.0
    labelled: bool = True
    grown: Callable[[Sequence[int], int], list[int]] | None = None
    seeds: int = 6


@dataclass(frozen=True)
class Batch:
    """n examples of one source. documents: (n, width) texts, the positive first; scores: as wide, or None.
    labelled: the positive is what the query should find; without, only a teacher says what it should."""

    queries: list[str]
    documents: list[list[str]]
    scores: list[list[float]] | None = field(default=None)
    labelled: bool = True


def read_examples(path: Path) -> list[Example]:
    """Every example of a file, or of a folder in PyLate's layout."""
    return list(_pylate(path) if path.is_dir() else _jsonl(path))


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(
                    f"{where} is not JSON ({error.msg}); each line must be one object"
                ) from error
            yield where, record


def _jsonl(path: Path) -> Iterator[Example]:
    for where, record in _records(path):
        query, positive = record.get("query"), record.get("pos")
        if not isinstance(query, str) or not isinstance(positive, str):
            raise CorpusError(f"{where} has no text under 'query' and 'pos'; each line needs both")
        yield _example(where, query, (positive, *record.get("negs", ())), record.get("scores", ()))


def _pylate(folder: Path) -> Iterator[Example]:
    """queries.jsonl {query_id, text}, documents.jsonl {document_id, text}, train.jsonl {query_id,
    document_ids, scores}. The document of the highest score is the positive."""
    texts: dict[str, dict[str, str]] = {}
    for name, key in (("queries", "query_id"), ("documents", "document_id")):
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            raise CorpusError(
                f"{path} is missing; a folder needs queries.jsonl, documents.jsonl and train.jsonl"
            )
        texts[name] = {str(record[key]): record["text"] for _, record in _records(path)}
    for where, record in _records(folder / "train.jsonl"):
        try:
            query = texts["queries"][str(record["query_id"])]
            documents = [texts["documents"][str(i)] for i in record["document_ids"]]
        except KeyError as error:
            raise CorpusError(f"{where}: {error} is in no file of {folder}") from error
        scores = record.get("scores", ())
        if scores:
            order = sorted(range(len(documents)), key=lambda i: -scores[i])
            documents, scores = [documents[i] for i in order], [scores[i] for i in order]
        yield _example(where, query, tuple(documents), scores)


def _example(where: str, query: str, documents: tuple[str, ...], scores: Sequence[float]) -> Example:
    if scores and len(scores) != len(documents):
        raise CorpusError(f"{where}: {len(scores)} scores for {len(documents)} documents; give one for each")
    return Example(query, documents, tuple(float(s) for s in scores))


def batches(
    sources: Sequence[Source], *, size: int, n_negatives: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Batches for ever, each of one source: what competes in a batch is then alike, and hard to tell apart.

    An epoch takes its share of each source, drawn anew. The order depends on the seed alone, and `start`
    batches are passed over, so that a resumed run goes on where it stopped. Each query gets `n_negatives` of
    its own negatives, or none in a batch where one lacks them: documents of other queries compete anyway.
    In a batch that is not labelled every other query, by chance, is a few words of its document.
    """
    epoch = 0
    while True:
        random = np.random.default_rng((seed, epoch))
        plan = []
        for source, this in enumerate(sources):
            # Queries without negatives are put together, or they would cost their neighbours theirs.
            rich = np.array([len(e.documents) > n_negatives for e in this.examples])
            drawn = random.permutation(len(rich))[: max(size, round(this.share * len(rich)))]
            for group in (drawn[rich[drawn]], drawn[~rich[drawn]]):
                plan += [(source, group[i : i + size]) for i in range(0, len(group) - size + 1, size)]
        if not plan:
            raise CorpusError(f"no source has {size} examples of a kind; pass more data or a smaller batch")
        for number in random.permutation(len(plan)):
            if start > 0:
                start -= 1
                continue
            source, rows = plan[number]
            this = sources[source]
            if this.grown is not None:
                rows = this.grown(rows[: this.seeds], size)
            examples = [this.examples[i] for i in rows]
            yield _batch(examples, n_negatives, this.labelled, (seed, epoch, int(number)))
        epoch += 1


def _batch(examples: list[Example], n_negatives: int, labelled: bool, seed: tuple[int, ...]) -> Batch:
    random = np.random.default_rng(seed)
    width = n_negatives if all(len(e.documents) > n_negatives for e in examples) else 0
    documents, scores = [], []
    for example in examples:
        chosen = [0, *(1 + np.sort(random.permutation(len(example.documents) - 1)[:width]))]
        documents.append([example.documents[i] for i in chosen])
        scores.append([example.scores[i] for i in chosen] if example.scores else [])
    queries = [e.query for e in examples]
    if not labelled:
        queries = [_span(e, random) if random.random() < 0.5 else e.query for e in examples]
    return Batch(queries, documents, scores if all(scores) else None, labelled)


def _span(example: Example, random: np.random.Generator) -> str:
    words = example.documents[0].split()
    length = int(random.integers(SPAN_WORDS[0], SPAN_WORDS[1] + 1))
    first = int(random.integers(0, max(1, len(words) - length + 1)))
    return " ".join(words[first : first + length]) or example.query
