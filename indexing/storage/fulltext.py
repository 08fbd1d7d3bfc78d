"""Full text: SQLite's FTS5 over words that are cut here, so that code is found by its parts; ranking by BM25.

The table is contentless: its rows have the numbers of documents that have a text, and live and die with them.
BM25 is FTS5's but for the weight of a word: FTS5 gives none to a word that more than half of the documents have, and
among long documents that is most words. Here it is Lucene's, which is above 0 for every word.
"""

import math
import re
import sqlite3
import unicodedata
from collections.abc import Container, Iterable
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Texts",
    "bm25",
    "create_table",
    "define_function",
    "delete_texts",
    "frequencies",
    "insert_texts",
    "queried",
    "quoted",
    "rebuild",
    "split_words",
    "varints",
    "word_spans",
]

# Scripts that put no spaces between words; also Hangul, whose words take their particles on without one.
_UNSPACED = r"\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{Hangul}\p{Yi}\p{Java}\p{Bali}\p{lb=SA}"
# Unicode's word rules (UAX 29) but for punctuation within words: l'eau is two, and so is os.path.
_RUN = rf"(?V1)[{_UNSPACED}][{_UNSPACED}\p{{M}}]*|[\w--[{_UNSPACED}]]+"
# parseHTTPResponse2 → parse HTTP Response2; MAX_LINE → MAX LINE.
_PART = r"(?:[^\W\d_a-z]+(?![a-z])\d*|[^\W\d_]?[^\W\d_A-Z]+\d*|\d+)\p{M}*"
# The same of ASCII, faster.
_ASCII_RUN = re.compile(r"\w+", re.ASCII)
_PART_OF_TEXT = re.compile(r"\S+")
_ASCII_PART = re.compile(r"[A-Z]+(?![a-z])[0-9]*|[A-Za-z]?[a-z]+[0-9]*|[0-9]+")
# What some write and others leave out: accents, points of vowels, the dots of Cyrillic's e, stress; hyphens for the end
# of a line, joiners, tatweel.
_ACCENT = (
    r"(?<=[\p{Latin}\p{Greek}\p{Hebrew}\p{Arabic}])\p{M}+|(?<=[\u0415\u0435])\u0308|(?<=\p{Cyrillic})\u0301"
)
_IGNORED = r"(?V1)[\p{DI}\u0640--\u200B]"  # U+200B is a space that is not seen
_CACHED = 64  # characters of a run
# Snowball's English stop words, as far as they are one word here (snowballstem.org/algorithms/english/stop.txt). Texts
# keep them; a query is not ranked by them. In other languages BM25's own weights have to do.
_STOP = """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves what which who whom this that these those am is are
was were be been being have has had having do does did doing would should could ought a an the and but if or
because as until while of at by for with about against between into through during before after above below
to from up down in out on off over under again further then once here there when where why how all any both
each few more most other some such no nor not only own same so than too very"""
_STOP_WORDS = frozenset(_STOP.split())
_FUNCTION = "latewood_words"
K1, B = 1.2, 0.75  # of FTS5's bm25


Numbers: TypeAlias = npt.NDArray[np.float64]


class Texts(NamedTuple):
    """Documents that have a text, and the words of all."""

    n: int
    words: int

    @property
    def mean(self) -> float:
        """Words of one; 1 where there are none."""
        return self.words / self.n if self.words else 1.0


class _Patterns(NamedTuple):
    """Of text beyond ASCII."""

    run: Any
    part: Any
    character: Any
    unspaced: Any
    accent: Any
    ignored: Any


@cache
def _patterns() -> _Patterns:
    import regex  # which takes a while, these too, and a question in ASCII needs none of them

    return _Patterns(*map(regex.compile, (_RUN, _PART, r"\X", f"[{_UNSPACED}]", _ACCENT, _IGNORED)))


def _is_unspaced(run: str) -> bool:
    return not run.isascii() and _patterns().unspaced.match(run) is not None


def _normal(text: str) -> str:
    """NFKC, without what one may leave out."""
    if text.isascii():
        return text
    bare = _patterns().accent.sub("", unicodedata.normalize("NFKD", text))
    return str(_patterns().ignored.sub("", unicodedata.normalize("NFC", bare)))


def _runs(text: str) -> list[str]:
    """Runs of word characters, each of scripts with spaces or of scripts without."""
    if text.isascii():
        return _ASCII_RUN.findall(text)
    found: list[str] = []
    for part in text.split():  # most are ASCII in most texts
        found += _ASCII_RUN.findall(part) if part.isascii() else _patterns().run.findall(_normal(part))
    return found


def _pieces(run: str) -> list[tuple[int, int]]:
    """Where the parts of a run stand; its characters where the script has no spaces."""
    if run.isascii():
        pieces = _ASCII_PART.finditer(run)
    else:
        pieces = (_patterns().character if _is_unspaced(run) else _patterns().part).finditer(run)
    return [piece.span() for piece in pieces] or [(0, len(run))]


def _words(run: str) -> tuple[str, ...]:
    """A run's words in a text, in small letters: the run and its parts; or overlapping pairs of characters and the
    last one alone, so that each character begins a word."""
    pieces = _pieces(run)
    if _is_unspaced(run):
        stops = [stop for _, stop in (*pieces[1:], pieces[-1])]
        return tuple(run[start:stop].casefold() for (start, _), stop in zip(pieces, stops, strict=True))
    parts = [] if pieces == [(0, len(run))] else pieces
    return tuple(run[start:stop].casefold() for start, stop in ((0, len(run)), *parts))


_cached_words = lru_cache(1 << 16)(_words)


def _known_words(run: str) -> tuple[str, ...]:
    return _cached_words(run) if len(run) <= _CACHED else _words(run)


def split_words(text: str) -> str:
    """The words of a text in order, between spaces, in small letters; an identifier with parts adds these after
    itself; scripts without spaces give pairs of characters, and the last of a run.

    >>> split_words("def parseHTTPResponse(max_line):")
    'def parsehttpresponse parse http response max_line max line'
    >>> split_words("日本語")
    '日本 本語 語'
    """
    words: list[str] = []
    for run in _runs(text):
        words += _known_words(run)
    return " ".join(words)


def word_spans(text: str, among: Container[str] | None = None) -> list[tuple[int, int]]:
    """Where the words of a text stand, in order: an identifier with parts gives only these; pairs overlap.

    among: words in small letters; others may be left out, and with them most of the work.

    >>> [("max_line = 2"[start:stop]) for start, stop in word_spans("max_line = 2")]
    ['max', 'line', '2']
    """
    if text.isascii():
        return _ascii_spans(text, 0, among)
    spans = []
    for part in _PART_OF_TEXT.finditer(text):  # most are ASCII in most texts
        own = part.group()
        spans += _ascii_spans(own, part.start(), among) if own.isascii() else _any_spans(own, part.start())
    return spans


def _ascii_spans(text: str, at: int, among: Container[str] | None) -> list[tuple[int, int]]:
    """at: where the text begins."""
    spans = []
    for run in _ASCII_RUN.finditer(text):
        own = run.group()
        if among is None or any(word in among for word in _known_words(own)):
            first = at + run.start()
            spans += [(first + start, first + stop) for start, stop in _pieces(own)]
    return spans


def _any_spans(text: str, at: int) -> list[tuple[int, int]]:
    # By clusters, so that it is known from where each normalised character came.
    clusters = [
        (_normal(cluster.group()), cluster.span()) for cluster in _patterns().character.finditer(text)
    ]
    places = [(at + start, at + stop) for own, (start, stop) in clusters for _ in own]
    spans = []
    for run in _patterns().run.finditer("".join(own for own, _ in clusters)):
        pieces = _pieces(run.group())
        if _is_unspaced(run.group()) and len(pieces) > 1:
            pieces = [(start, stop) for (start, _), (_, stop) in pairwise(pieces)]
        first = run.start()
        spans += [(places[first + start][0], places[first + stop - 1][1]) for start, stop in pieces]
    return spans


def queried(query: str) -> list[str]:
    """The words of a text as FTS5 queries, each once, without stop words unless there are no others.

    Words are quoted: nothing in a text is an operator.

    >>> queried("where is the max_line?")
    ['"max_line"', '"max"', '"line"']
    """
    words = [word for run in _runs(query) for word in _asked(run)]
    telling = [word for word in words if word not in _STOP_WORDS] or words
    return list(dict.fromkeys(map(quoted, telling)))


def _asked(run: str) -> tuple[str, ...]:
    """A run's words in a query: as in a text, but the last character is no word of its own beside pairs."""
    words = _words(run)
    return words[:-1] if len(words) > 1 and _is_unspaced(run) else words


def quoted(word: str) -> str:
    """An FTS5 query for one word, whatever it is. One character of a script without spaces stands for all words that
    it begins; more of them are found where they stand together."""
    words: list[str] = []
    for run in _runs(word):
        words += _asked(run) if _is_unspaced(run) else _asked(run)[:1]
    alone = len(words) == 1 and len(_pieces(words[0])) == 1 and _is_unspaced(words[0])
    return f'"{" ".join(words)}"' + ("*" if alone else "")  # words have no quotation marks


def bm25(found: npt.NDArray[Any], having: int, texts: Texts) -> Numbers:
    """BM25 of a word in documents: found has its `times` in each, of `length` words; `having` of all texts have it.
    FTS5's, but for the weight of a word, which is Lucene's."""
    times = found["times"].astype(np.float64)
    weight = math.log(1 + (texts.n - having + 0.5) / (having + 0.5))
    scores: Numbers = weight * times * (K1 + 1) / (times + _damping(found["length"], texts))
    return scores


def frequencies(scores: Numbers, lengths: npt.NDArray[np.uint32], having: int, texts: Texts) -> Numbers:
    """How often each document has a word that `having` of them have, from FTS5's bm25 of it."""
    theirs = math.log((texts.n - having + 0.5) / (having + 0.5))
    parts = scores / (theirs if theirs > 0 else 1e-6)
    return np.rint(parts * _damping(lengths, texts) / (K1 + 1 - parts))


def _damping(lengths: npt.NDArray[np.uint32], texts: Texts) -> Numbers:
    damping: Numbers = K1 * (1 - B + B * lengths.astype(np.float64) / texts.mean)
    return damping


def varints(block: bytes) -> npt.NDArray[np.int64]:
    """SQLite's integers of seven bits a byte, one after the other as FTS5 writes them."""
    found = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(found < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    found = found[: ends[-1] + 1].astype(np.int64)
    shifts = 7 * (np.repeat(ends, ends - starts + 1) - np.arange(len(found)))
    return np.add.reduceat((found & 0x7F) << shifts, starts)


def create_table(connection: sqlite3.Connection) -> None:
    # Porter's stems. All but ASCII belongs to words, and `_`, for split_words has cut there already.
    connection.execute(
        "CREATE VIRTUAL TABLE fulltext USING fts5("
        "words, content = '', tokenize = \"porter ascii tokenchars '_'\")"
    )


def insert_texts(connection: sqlite3.Connection, texts: Iterable[tuple[int, str | None]]) -> None:
    """Add (document, text) pairs; those without a text have no row."""
    rows = ((document, split_words(text)) for document, text in texts if text is not None)
    connection.executemany("INSERT INTO fulltext (rowid, words) VALUES (?, ?)", rows)


def delete_texts(connection: sqlite3.Connection, documents: Iterable[int]) -> None:
    """Take out documents that `documents` still has: FTS5 must be given again what went in."""
    connection.executemany(
        f"INSERT INTO fulltext (fulltext, rowid, words) SELECT 'delete', document, {_FUNCTION}(text) "
        "FROM documents WHERE document = ? AND text IS NOT NULL",
        ([document] for document in documents),
    )


def rebuild(connection: sqlite3.Connection) -> None:
    """Make the table anew from `documents`; nothing of what was deleted stays in it."""
    connection.execute("INSERT INTO fulltext (fulltext) VALUES ('delete-all')")
    connection.execute(
        f"INSERT INTO fulltext (rowid, words) SELECT document, {_FUNCTION}(text) "
        "FROM documents WHERE text IS NOT NULL ORDER BY document"
    )


def define_function(connection: sqlite3.Connection) -> None:
    """What a connection needs once for `delete_texts` and `rebuild`."""
    connection.create_function(_FUNCTION, 1, split_words, deterministic=True)
