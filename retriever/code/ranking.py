"""How code is ranked beyond MaxSim and words: small rules, each with its weight, added to one score; files, not chunks.

score = late + WORDS * words_weight * lexical + the sum of weight * rule, where late and lexical run from 0 to 1 over
what was found, and words weigh more in a longer question, as in mode "hybrid" (ranking/fusion.py); where words are all
there is, they weigh 1. A file counts as its best chunk, and a little more for each further one that is good. Weights
were chosen on tests/data/code_questions (docs/guides/search-code.md).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from indexing.storage.fulltext import split_words
from retriever.ranking.fusion import words_weight

__all__ = ["RULES", "Candidate", "Question", "Ranked", "by_file", "combined"]

WORDS = 0.3  # of the lexical score of a question of ten words, beside late's
DECAY = 0.7  # of each further chunk of a file
FURTHER = 3  # chunks of a file that count, beside the best
SHARE = 0.3  # of the sum of further chunks
KEY = 5  # letters by which words are compared: expires, expired, expiry
# What says nothing about code in a question.
_STOP = """a an and any are as at be by can do does for from get how i if in into is it its of on or that the their this
to use used was what when where which who why will with"""
STOP = frozenset(_STOP.split())
TESTS = re.compile(
    r"(^|/)(tests?|testing|__tests__|specs?|fixtures|conftest\.py)(/|$)|(^|/)test_|_test\.|\.(test|spec)\."
)
VENDORED = re.compile(r"(^|/)(_?vendor(ed)?|third_?party|externals?|node_modules|_internal|compat)(/|$)")
GENERATED = re.compile(r"(_pb2|\.min|\.generated|_generated)\.|(^|/)(generated|dist|build)/")
ASKS_FOR_TESTS = re.compile(r"\b(tests?|tested|testing|fixtures?|specs?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A document of code that was found. late, lexical: its scores, None where it was not among the best by them."""

    doc_id: str
    metadata: Mapping[str, Any]
    late: float | None
    lexical: float | None

    @property
    def path(self) -> str:
        return str(self.metadata.get("path", self.doc_id))


@dataclass(frozen=True)
class Ranked:
    """score: the sum. reasons: what each part of it adds, by name."""

    doc_id: str
    path: str
    score: float
    reasons: Mapping[str, float] = field(default_factory=dict)


class Question:
    """What rules look at. words: keys of the question's words that say something. names: words that look like names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = {key for word in split_words(text).split() if (key := key_of(word))}
        runs = re.findall(r"[\w.]*\w", text)
        alone = len(runs) == 1
        self.names = {run.rpartition(".")[2].lower() for run in runs if alone or _is_name(run)}


def _is_name(run: str) -> bool:
    return (
        "_" in run.strip("_")
        or "." in run
        or bool(re.search(r"[a-z][A-Z]|^[A-Z][a-z]+[A-Z]", run))
        or run.startswith("_")
    )


def key_of(word: str) -> str:
    """A word's first letters; nothing for what says nothing."""
    word = word.lower()
    return "" if (word.isascii() and len(word) < 3) or word in STOP else word[:KEY]


# Rules: question, candidate → 0 to 1 ---------------------------------------------------------------------------


def defines(question: Question, found: Candidate) -> float:
    """The chunk defines a name that is asked for, rather than using it."""
    symbol = str(found.metadata.get("symbol", "")).rpartition(".")[2].lower()
    return float(symbol in question.names) if symbol else 0.0


def named_for(question: Question, found: Candidate) -> float:
    """The words of the chunk's symbol that the question has, of all that the symbol has."""
    return _share(question, str(found.metadata.get("symbol", "")).rpartition(".")[2])


def file_name(question: Question, found: Candidate) -> float:
    """The words of the file's name that the question has."""
    return _share(question, PurePosixPath(found.path).stem)


def folder_names(question: Question, found: Candidate) -> float:
    """The words of the folders' names that the question has."""
    return _share(question, " ".join(PurePosixPath(found.path).parts[:-1]))


def is_test(question: Question, found: Candidate) -> float:
    """A test, where no test is asked for."""
    return float(bool(TESTS.search(found.path)) and not ASKS_FOR_TESTS.search(question.text))


def is_copy(question: Question, found: Candidate) -> float:
    """A vendored or generated file."""
    return float(bool(VENDORED.search(found.path) or GENERATED.search(found.path)))


def is_prose(question: Question, found: Candidate) -> float:
    """No code: documentation, data, settings."""
    return float(found.metadata.get("kind") in ("text", "section", "block"))


RULES: dict[str, tuple[Callable[[Question, Candidate], float], float]] = {
    "defines the name": (defines, 0.8),
    "is named for it": (named_for, 0.08),
    "file name": (file_name, 0.15),
    "folder names": (folder_names, 0.05),
    "is a test": (is_test, -0.4),
    "is a copy": (is_copy, -0.2),
    "is no code": (is_prose, -0.1),
}


def _share(question: Question, name: str) -> float:
    keys = {key for word in split_words(name.replace("_", " ")).split() if (key := key_of(word))}
    return len(keys & question.words) / len(keys) if keys else 0.0


# Scores --------------------------------------------------------------------------------------------------------


def combined(question: Question, found: Sequence[Candidate]) -> list[Ranked]:
    """All candidates with their scores, best first, equal ones by doc_id."""
    late = _scaled([one.late for one in found])
    highest = max((one.lexical or 0.0 for one in found), default=0.0) or 1.0
    alone = all(one.late is None for one in found)
    words, ranked = 1.0 if alone else WORDS * words_weight(question.text), []
    for one, nearness in zip(found, late, strict=True):
        reasons = {"meaning": nearness, "words": words * (one.lexical or 0.0) / highest}
        for name, (rule, weight) in RULES.items():
            if value := rule(question, one):
                reasons[name] = weight * value
        ranked.append(Ranked(one.doc_id, one.path, sum(reasons.values()), reasons))
    return sorted(ranked, key=lambda one: (-one.score, one.doc_id))


def _scaled(scores: Sequence[float | None]) -> list[float]:
    """From 0, the least or none, to 1."""
    known = [score for score in scores if score is not None]
    if not known:
        return [0.0] * len(scores)
    least, most = min(known), max(known)
    return [0.0 if score is None else (score - least) / ((most - least) or 1.0) for score in scores]


def by_file(ranked: Sequence[Ranked]) -> list[list[Ranked]]:
    """The chunks of each file together, best first; files by their best chunk and, with less weight, the next few."""
    files: dict[str, list[Ranked]] = {}
    for one in ranked:
        files.setdefault(one.path, []).append(one)

    def score(chunks: list[Ranked]) -> float:
        further = (max(0.0, one.score) * DECAY**i for i, one in enumerate(chunks[1 : 1 + FURTHER]))
        return chunks[0].score + SHARE * sum(further)

    return sorted(files.values(), key=lambda chunks: (-score(chunks), chunks[0].path))
