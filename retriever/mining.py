"""Hard negatives: what the project's own searcher finds for a query beside the text that answers it."""

import gzip
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.arguments import absolute, as_list
from encoder.checkpoints.folder import output_file
from encoder.errors import ArgumentError
from encoder.options import check, option
from encoder.progress import Progress, Told
from encoder.training.pairs import Example, read_examples
from indexing import Index
from retriever.options import Scoring
from retriever.searcher import Searcher

if TYPE_CHECKING:
    from encoder import Encoder

__all__ = ["MiningConfig", "mine", "mine_file"]

QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class MiningConfig:
    """Which of a query's hits are taken for wrong."""

    n_negatives: int = option(4, "Negatives kept of each query.", "--negatives", least=1)
    depth: int = option(50, "Hits looked at.", least=2)
    max_ratio: float = option(0.95, "Hits above the positive's score times this may be answers: left out.")

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.max_ratio <= 1:
            raise ArgumentError(f"max_ratio={self.max_ratio}; pass a number above 0 and at most 1")
        if self.n_negatives >= self.depth:
            raise ArgumentError(f"n_negatives={self.n_negatives}; pass less than depth={self.depth}")


def mine(
    encoder: "Encoder",
    examples: Iterable[Example],
    folder: Path,
    config: MiningConfig = MiningConfig(),
    *,
    progress: Told | None = None,
) -> list[Example]:
    """The examples with up to `config.n_negatives` mined negatives behind their positive, in the order given.

    The positives of all examples are the corpus, indexed in `folder`; each query's hits above its positive's
    score times `max_ratio` are taken for unlabelled answers and passed over (positive-aware mining, Moreira et
    al. 2024, arXiv 2407.15831). A query whose positive is not among the first `depth` hits gets none: nothing
    says which of its hits are wrong.
    """
    examples, folder = as_list(examples, "examples", "Example"), absolute(folder)
    doc_ids = {text: str(i) for i, text in enumerate(dict.fromkeys(e.documents[0] for e in examples))}
    with Index.create(folder, encoder) as index:
        records = ({"doc_id": i, "text": text} for text, i in doc_ids.items())
        index.add(records, progress=progress)
    # Several answers to one query are none of its negatives.
    answers: dict[str, set[str]] = {}
    for example in examples:
        answers.setdefault(example.query, set()).add(doc_ids[example.documents[0]])
    found: dict[str, list[tuple[str, float, str]]] = {}
    queries = list(answers)
    with (
        # Ratios of scores are meant for sums of cosines.
        Searcher.open(folder, encoder, scoring=Scoring(sharpness=0.0)) as searcher,
        Progress[str](phase="mining", unit="query", told=progress, total=len(queries)) as bar,
    ):
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            block = {q: q for q in queries[start : start + QUERIES_AT_ONCE]}
            for query, hits in searcher.search_many(block, k=config.depth, mode="late").items():
                found[query] = [(h.doc_id, h.score, h.text or "") for h in hits]
            bar.update(len(block))
    mined = []
    for example in examples:
        ranking = found[example.query]
        own = [score for i, score, _ in ranking if i == doc_ids[example.documents[0]]]
        limit = config.max_ratio * own[0] if own else float("-inf")
        wrong = [text for i, score, text in ranking if score <= limit and i not in answers[example.query]]
        mined.append(Example(example.query, (example.documents[0], *wrong[: config.n_negatives])))
    return mined


def mine_file(
    encoder: "Encoder",
    source: Path,
    out: Path,
    config: MiningConfig = MiningConfig(),
    *,
    progress: Told | None = None,
) -> tuple[int, int]:
    """Mine for the examples of a file and write {query, pos, negs} lines to `out` (.jsonl or .jsonl.gz),
    which is opened first and takes its place when it is whole.

    Returns how many examples there are, and how many got a negative.
    """
    opened = gzip.open if out.suffix == ".gz" else open
    with (
        output_file(out) as aside,  # hours are not lost for want of a folder
        tempfile.TemporaryDirectory(prefix="latewood-mine-") as folder,
        opened(aside, "wt", encoding="utf-8") as file,
    ):
        examples = read_examples(source)
        mined = mine(encoder, examples, Path(folder) / "index", config, progress=progress)
        for example in mined:
            record = {"query": example.query, "pos": example.documents[0], "negs": example.documents[1:]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(mined), sum(len(example.documents) > 1 for example in mined)
