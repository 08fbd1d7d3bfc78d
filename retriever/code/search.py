"""Search a code index as grep's users do: by language, path and regular expression, ranked by meaning."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any, TypeVar

from encoder.arguments import as_strings
from encoder.errors import ArgumentError
from encoder.options import option, updated
from indexing import Snapshot
from indexing.reading.languages import language_named
from indexing.storage.filters import parse_filter, written_strings
from indexing.storage.fulltext import split_words
from retriever.code.ranking import Candidate, Question, Ranked, by_file, combined, key_of
from retriever.hits import Hit
from retriever.options import SearchOptions
from retriever.searcher import Searcher

__all__ = [
    "CodeHit",
    "CodeHits",
    "CodeOptions",
    "MatchedLine",
    "cell_of",
    "code_filter",
    "holds_code",
    "search_code",
]

DEPTH = 100  # documents by meaning, and as many by words, that the rules look at
DEFINITIONS = {"function", "method", "class", "type", "module"}  # kinds of chunks
SHOWN = 3  # lines of a hit
ALSO, ALSO_SCORE = 2, 0.75  # further chunks of a file that are shown: how many, and of the best one's score
REGEX_SECONDS = 10.0  # of matching, in all texts together: repeats within repeats may take for ever

T = TypeVar("T")


@dataclass(frozen=True)
class MatchedLine:
    """A source line. line: its number, from 1. spans: (start, end) of what matches, in characters of text."""

    line: int
    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CodeHit:
    """A document of code. rank: of its file; score: what the rules of `code.ranking` add up to, reasons: its parts;
    with `plain` both are of the document, and there are no reasons. line: its first matching line with a regular
    expression, else where it begins.

    lines: those that match the regular expression; without one the few that have most words of the query,
    else its first ones. metadata: as `read_folder` gives it.
    """

    rank: int
    score: float
    doc_id: str
    path: str
    line: int
    end_line: int
    symbol: str
    lines: tuple[MatchedLine, ...]
    text: str
    metadata: dict[str, Any]
    reasons: Mapping[str, float] = field(default_factory=dict)

    @property
    def hit(self) -> Hit:
        """The document as a search for documents gives it, with its passage and explanation."""
        hit: Hit = self.__dict__["_hit"]
        return hit


class CodeHits(list[CodeHit]):
    """Hits, best first. missing: as of `Hits`."""

    def __init__(self, hits: Iterable[CodeHit] = (), missing: Iterable[str] = ()) -> None:
        super().__init__(hits)
        self.missing = tuple(missing)


@dataclass(frozen=True)
class CodeOptions:
    """Which passages of code are looked at.

    languages: names or extensions, any of them. paths: patterns as in .gitignore, any of them, but for those that
    begin with `!`, none of which may match: `src/**`, `*.py`, `!tests/`. regex: of Python's `re`, to be found within
    the passage's text; `^` and `$` match at lines. One that takes more than ten seconds is refused.
    """

    languages: tuple[str, ...] = option(
        (), "Only this language: a name or an extension. Repeatable.", "--lang"
    )
    paths: tuple[str, ...] = option(
        (), "Only these paths, as in .gitignore: 'src/**', '*.py', '!tests/'. Repeatable.", "--path"
    )
    regex: str | None = option(None, "Only documents whose text matches, ranked by meaning.")
    plain: bool = option(False, "Rank by the mode alone: no rules for code, no files put together.")

    def __post_init__(self) -> None:
        for name in ("languages", "paths"):
            object.__setattr__(self, name, tuple(as_strings(getattr(self, name), name)))


EVERYTHING, DEFAULTS = CodeOptions(), SearchOptions()


def search_code(
    searcher: Searcher,
    query: str,
    options: SearchOptions = DEFAULTS,
    code: CodeOptions = EVERYTHING,
    **changes: Any,
) -> CodeHits:
    """The k best documents of code for a question, of those that `code_filter` lets through.

    changes: fields of CodeOptions and of SearchOptions by their names, as `languages=["py"], k=3`.
    """
    names = {field.name for field in fields(CodeOptions)} & changes.keys()
    code = updated(code, {name: changes.pop(name) for name in names})
    options = updated(options, changes)
    for name in () if code.plain else ("weights", "by"):
        if (value := getattr(options, name)) != getattr(DEFAULTS, name):
            raise ArgumentError(
                f"{name}={value!r} does nothing under the rules for code; leave it out, or pass plain=True"
            )
    searcher = searcher.still()  # by meaning and by words, of one snapshot
    where = code_filter(searcher.snapshot, code, options.filter)
    if where == "":
        return CodeHits()
    lines = _Lines(query, None if code.regex is None else _Pattern(code.regex))
    if code.plain:
        plain = searcher.search(query, options, filter=where)
        return CodeHits((_code_hit(h, lines, (h.rank, h.score, {})) for h in plain), plain.missing)
    hits, ranked, missing = _ranked(searcher, query, replace(options, filter=where))
    found = (
        _code_hit(hits[one.doc_id], lines, (rank, one.score, one.reasons))
        for rank, chunks in enumerate(by_file(ranked)[: options.k], 1)
        for one in [chunks[0], *(c for c in chunks[1 : 1 + ALSO] if c.score >= ALSO_SCORE * chunks[0].score)]
    )
    return CodeHits(found, missing)


def _ranked(
    searcher: Searcher, query: str, options: SearchOptions
) -> tuple[dict[str, Hit], list[Ranked], Iterable[str]]:
    """By meaning, by words or, in mode "hybrid" or none, by both; and by the rules. And which shards are missing."""
    depth, found, missing = max(DEPTH, options.k), dict[str, Hit](), set[str]()
    scores: dict[str, dict[str, float]] = {"late": {}, "lexical": {}}
    for mode in ("late", "lexical") if options.mode in (None, "hybrid") else (options.mode,):
        knobs = {} if mode == "late" else {"nprobe": None, "ncandidates": None, "nrerank": None}
        hits = searcher.search(query, options, mode=mode, k=depth, **knobs)
        missing.update(hits.missing)
        for hit in hits:
            found.setdefault(hit.doc_id, hit)  # that by meaning has more to tell
            scores[mode][hit.doc_id] = hit.score
    candidates = [
        Candidate(doc_id, hit.metadata, scores["late"].get(doc_id), scores["lexical"].get(doc_id))
        for doc_id, hit in found.items()
        if math.isfinite(hit.score)
    ]
    return found, combined(Question(query), candidates), sorted(missing)


def cell_of(metadata: Mapping[str, Any]) -> str:
    """What follows a path: of a notebook, whose line numbers count from the beginning of a cell."""
    return f":cell {metadata['cell']}" if isinstance(metadata.get("cell"), int) else ""


def holds_code(snapshot: Snapshot) -> bool:
    """Whether any document is a definition, as chunks of source files are."""
    keys = snapshot.reader.keys
    if keys is not None and ("kind",) not in keys:
        return False
    return not DEFINITIONS.isdisjoint(kind for kind in snapshot.values("kind") if isinstance(kind, str))


def code_filter(snapshot: Snapshot, code: CodeOptions, filter: str | None = None) -> str | None:
    """A filter (docs/guides/filters.md) for what meets all of `code` and a filter of one's own; None for all, "" where
    none does.

    Raises ArgumentError for a language, pattern or expression that cannot be read.
    """
    if filter is not None:
        parse_filter(filter)  # by itself, so that an error names the user's own position
    parts = [f"({filter})"] if filter is not None else []
    if code.languages:
        parts.append(f"language in ({written_strings(*map(_language, code.languages))})")
    if code.paths:
        among = _matching_paths([str(p) for p in snapshot.values("path") if p is not None], code.paths)
        if not among:
            return ""
        parts.append(f"path in ({written_strings(*among)})")
    where = " and ".join(parts) or None
    if code.regex is None:
        return where
    pattern = _Pattern(code.regex)
    found = [doc_id for doc_id, text in snapshot.texts(where) if pattern.is_in(text)]
    return f"doc_id in ({written_strings(*found)})" if found else ""


def _language(name: str) -> str:
    language = language_named(name)
    if language is None:
        raise ArgumentError(f"language {name!r} is unknown; pass a name or an extension, as in python or py")
    return language


def _matching_paths(known: Sequence[str], patterns: Sequence[str]) -> list[str]:
    from pathspec import GitIgnoreSpec

    try:
        wanted = GitIgnoreSpec.from_lines(p for p in patterns if not p.startswith("!"))
        unwanted = GitIgnoreSpec.from_lines(p[1:] for p in patterns if p.startswith("!"))
    except ValueError as error:
        raise ArgumentError(
            f"paths={list(patterns)}: {error}; use .gitignore's form, as in 'src/**'"
        ) from None
    anything = all(p.startswith("!") for p in patterns)
    return [p for p in known if (anything or wanted.match_file(p)) and not unwanted.match_file(p)]


class _Pattern:
    """A regular expression with the seconds that it may still take."""

    def __init__(self, expression: str) -> None:
        import regex  # whose searches end in time

        try:
            self._pattern = regex.compile(expression, regex.MULTILINE)
        except regex.error as error:
            at = "" if error.pos is None else f" at position {error.pos + 1}"
            raise ArgumentError(
                f"regex {expression!r} cannot be read: {error.msg}{at}; escape it by a backslash"
            ) from None
        self._left = REGEX_SECONDS

    def is_in(self, text: str) -> bool:
        found: bool = self._timed(lambda limits: self._pattern.search(text, **limits) is not None)
        return found

    def matches(self, text: str) -> list[tuple[int, str]]:
        """Where each match begins, and what it is."""
        return self._timed(
            lambda limits: [(m.start(), m.group()) for m in self._pattern.finditer(text, **limits)]
        )

    def _timed(self, work: Callable[[Mapping[str, Any]], T]) -> T:
        started = time.perf_counter()
        try:
            # concurrent: without the GIL, so that whoever else asks is answered.
            return work({"timeout": max(self._left, 1e-3), "concurrent": True})
        except TimeoutError:
            raise ArgumentError(
                f"regex {self._pattern.pattern!r} takes more than {REGEX_SECONDS:g} s; "
                "write it without repeats within repeats, or look at fewer paths"
            ) from None
        finally:
            self._left -= time.perf_counter() - started


@dataclass(frozen=True)
class _Lines:
    """What lines of a hit are shown for."""

    query: str
    pattern: _Pattern | None


def _code_hit(hit: Hit, shown: _Lines, ranked: tuple[int, float, Mapping[str, float]]) -> CodeHit:
    """ranked: its rank, its score, and what that adds up from."""
    meta, text, pattern = hit.metadata, hit.text or "", shown.pattern
    start = _line(meta, "start_line", 1)
    numbered = list(zip(_numbers(meta, start), text.split("\n"), strict=False))
    lines = (
        _lines_with_words(numbered, shown.query)
        if pattern is None
        else _lines_with_matches(numbered, text, pattern)
    )
    rank, score, reasons = ranked
    found = CodeHit(
        rank=rank,
        score=score,
        doc_id=hit.doc_id,
        path=str(meta.get("path", hit.doc_id)),
        line=lines[0].line if pattern and lines else start,
        end_line=_line(meta, "end_line", start),
        symbol=str(meta.get("symbol", "")),
        lines=tuple(lines),
        text=text,
        metadata=meta,
        reasons=reasons,
    )
    # No field: it holds the index, and is no part of what equality and asdict see.
    found.__dict__["_hit"] = hit
    return found


def _line(meta: dict[str, Any], key: str, default: int) -> int:
    value = meta.get(key)
    return value if isinstance(value, int) else default  # else the key is the user's own


def _numbers(meta: dict[str, Any], start: int) -> Iterator[int]:
    ranges = meta.get("lines")
    if isinstance(ranges, list) and ranges and all(map(_is_range, ranges)):
        return (n for first, last in ranges for n in range(first, last + 1))
    return count(start)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) for n in value)


def _lines_with_matches(
    numbered: Sequence[tuple[int, str]], text: str, pattern: _Pattern
) -> list[MatchedLine]:
    spans: dict[int, list[tuple[int, int]]] = {}
    for start, matched in pattern.matches(text):
        # A match may go over several lines, and be empty.
        first = text.count("\n", 0, start)
        at = start - (text.rfind("\n", 0, start) + 1)
        for i, piece in enumerate(matched.split("\n")):
            spans.setdefault(first + i, []).append((at, at + len(piece)) if i == 0 else (0, len(piece)))
    return [MatchedLine(*numbered[i], tuple(found)) for i, found in spans.items() if i < len(numbered)]


def _regex() -> Any:
    """Its \\w has the vowel signs of India's scripts."""
    import regex  # which takes a while

    return regex


def _lines_with_words(numbered: Sequence[tuple[int, str]], query: str) -> list[MatchedLine]:
    wanted = {key for word in split_words(query).split() if (key := key_of(word))}
    lines = []
    for number, line in numbered:
        spans, keys = [], set()
        for run in (re if line.isascii() else _regex()).finditer(r"\w+", line):
            if common := wanted & {key_of(word) for word in split_words(run.group()).split()}:
                spans.append(run.span())
                keys |= common
        if line.strip():
            lines.append((len(keys), MatchedLine(number, line, tuple(spans))))
    best = sorted((-n, i) for i, (n, _) in enumerate(lines) if n)[:SHOWN]
    chosen = sorted(i for _, i in best) or range(min(SHOWN, len(lines)))
    return [lines[i][1] for i in chosen]
