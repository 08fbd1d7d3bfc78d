"""Full text: SQLite's FTS5 with words cut so that code is found by its parts; ranking by BM25.

The table is contentless: its rows have the numbers of documents that have a text, and live and die with them.
"""

import re
import sqlite3
from collections.abc import Iterable

__all__ = [
    "create_table",
    "define_function",
    "delete_texts",
    "insert_texts",
    "match_expression",
    "quoted",
    "rebuild",
    "split_words",
    "word_spans",
]

RUN = re.compile(r"\w+")
# parseHTTPResponse2 → parse HTTP Response2; MAX_LINE → MAX LINE.
PART = re.compile(r"[^\W\d_a-z]+(?![a-z])\d*|[^\W\d_]?[^\W\d_A-Z]+\d*|\d+")
FUNCTION = "latewood_words"


def split_words(text: str) -> str:
    """The words of a text in order, between spaces; an identifier with parts adds these after itself.

    >>> split_words("def parseHTTPResponse(max_line):")
    'def parseHTTPResponse parse HTTP Response max_line max line'
    """
    words = []
    for run in RUN.findall(text):
        words.append(run)
        parts = PART.findall(run)
        if parts != [run]:
            words += parts
    return " ".join(words)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand, in order and apart: an identifier with parts gives only these.

    >>> [("max_line = 2"[start:stop]) for start, stop in word_spans("max_line = 2")]
    ['max', 'line', '2']
    """
    spans = []
    for run in RUN.finditer(text):
        parts = [part.span() for part in PART.finditer(text, *run.span())]
        spans += parts or [run.span()]
    return spans


def match_expression(query: str) -> str | None:
    """An FTS5 query for passages with any of a text's words; None where it has none.

    Words are quoted: nothing in a query is an operator.
    """
    words = dict.fromkeys(split_words(query).lower().split())
    return " OR ".join(quoted(word) for word in words) or None


def quoted(word: str) -> str:
    """An FTS5 query for one word, whatever it is; words have no quotation marks (RUN)."""
    return f'"{word}"'


def create_table(connection: sqlite3.Connection) -> None:
    # Porter's stems; `_` belongs to words, for split_words has cut there already.
    connection.execute(
        "CREATE VIRTUAL TABLE fulltext USING fts5("
        "words, content = '', tokenize = \"porter unicode61 remove_diacritics 2 tokenchars '_'\")"
    )


def insert_texts(connection: sqlite3.Connection, texts: Iterable[tuple[int, str | None]]) -> None:
    """Add (document, text) pairs; those without a text have no row."""
    rows = ((document, split_words(text)) for document, text in texts if text is not None)
    connection.executemany("INSERT INTO fulltext (rowid, words) VALUES (?, ?)", rows)


def delete_texts(connection: sqlite3.Connection, documents: Iterable[int]) -> None:
    """Take out documents that `documents` still has: FTS5 must be given again what went in."""
    connection.executemany(
        f"INSERT INTO fulltext (fulltext, rowid, words) SELECT 'delete', document, {FUNCTION}(text) "
        "FROM documents WHERE document = ? AND text IS NOT NULL",
        ([document] for document in documents),
    )


def rebuild(connection: sqlite3.Connection) -> None:
    """Make the table anew from `documents`; nothing of what was deleted stays in it."""
    connection.execute("INSERT INTO fulltext (fulltext) VALUES ('delete-all')")
    connection.execute(
        f"INSERT INTO fulltext (rowid, words) SELECT document, {FUNCTION}(text) "
        "FROM documents WHERE text IS NOT NULL ORDER BY document"
    )


def define_function(connection: sqlite3.Connection) -> None:
    """What a connection needs once for `delete_texts` and `rebuild`."""
    connection.create_function(FUNCTION, 1, split_words, deterministic=True)
