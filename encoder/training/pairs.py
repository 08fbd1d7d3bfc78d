"""Training examples of retrieval: a query, a text that answers it, texts that do not, a teacher's scores.

Two layouts are read: .jsonl(.gz) with `query`, `pos` and optionally `negs` and `scores`, and PyLate's for
knowledge distillation, a folder of queries.jsonl, documents.jsonl and train.jsonl.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encoder.errors import CorpusError
from encoder.jsonl import Row, read_rows

__all__ = ["Batch", "Example", "Source", "batches", "read_examples"]

ID: Any = (str, int)  # PyLate's own files have numbers
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
    """Every example of a file, or of a folder in PyLate's layout; at least one."""
    found = list(_pylate(path) if path.is_dir() else _jsonl(path))
    if not found:
        raise CorpusError(f"{path} holds no examples; pass a file with at least one")
    return found


def _jsonl(path: Path) -> Iterator[Example]:
    for row in read_rows(path):
        documents = [row.get("pos", str), *row.get_list("negs", str, [])]
        yield _example(row, row.get("query", str), documents)


def _pylate(folder: Path) -> Iterator[Example]:
    """queries.jsonl {query_id, text}, documents.jsonl {document_id, text}, train.jsonl {query_id,
    document_ids, scores}. The document of the highest score is the positive."""
    files = [folder / f"{name}.jsonl" for name in ("queries", "documents", "train")]
    for path in files:
        if not path.is_file():
            raise CorpusError(
                f"{path} is missing; a folder needs queries.jsonl, documents.jsonl and train.jsonl"
            )
    queries, documents = _texts(files[0], "query_id"), _texts(files[1], "document_id")
    for row in read_rows(files[2]):
        found = _example(
            row,
            _text(row, queries, row.get("query_id", ID), files[0]),
            [_text(row, documents, i, files[1]) for i in row.get_list("document_ids", ID)],
        )
        if found.scores:
            ranked = sorted(zip(found.scores, found.documents, strict=True), key=lambda pair: -pair[0])
            found = Example(found.query, tuple(d for _, d in ranked), tuple(s for s, _ in ranked))
        yield found


def _texts(path: Path, key: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in read_rows(path):
        name, text = str(row.get(key, ID)), row.get("text", str)
        if texts.setdefault(name, text) != text:
            raise CorpusError(f"{row.where} has {key} {name!r} again, with another text; give each its own")
    return texts


def _text(row: Row, texts: Mapping[str, str], name: int | str, path: Path) -> str:
    if str(name) not in texts:
        raise CorpusError(f"{row.where}: {name!r} is not in {path}; add it there")
    return texts[str(name)]


def _example(row: Row, query: str, documents: Sequence[str]) -> Example:
    scores = row.get_list("scores", (int, float), [])
    if not documents:
        raise CorpusError(f"{row.where} names no document; give it one at least, the answer")
    if scores and len(scores) != len(documents):
        raise CorpusError(
            f"{row.where}: {len(scores)} scores for {len(documents)} documents; give one for each"
        )
    return Example(query, tuple(documents), tuple(float(s) for s in scores))


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
            groups = [drawn[rich[drawn]], drawn[~rich[drawn]]]
            if max(map(len, groups)) < size:
                groups = [drawn]  # too few of either kind for a batch
            for group in groups:
                plan += [(source, group[i : i + size]) for i in range(0, len(group) - size + 1, size)]
        if not plan:
            raise CorpusError(f"no source has {size} examples; pass more data or a smaller batch")
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
