"""Python, cut by its own parser."""

import ast
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from indexing.reading.chunking.cutting import Definition, cut
from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize, File

__all__ = ["chunk_python"]

_Node: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def chunk_python(source: str, size: ChunkSize = CHUNK_SIZE) -> list[Chunk]:
    """Functions, methods, class outlines and the module code between them, in the order of their first lines.

    A function has its decorators, the comments above it and everything nested in it. A class outline
    has the class's header, docstring and statements, and not its methods. Definitions inside a module's or
    a class's `if`, `try`, `with`, `for` count as its own.

    kind is "function", "method", "class" or "module". What is longer than max_chars is split; the pieces
    overlap by whole lines of at most overlap_chars.

    Raises SyntaxError where `ast` cannot parse the source (Python 2, templates): use `chunk_tree` or
    `chunk_blocks` then.
    """
    file = File(source, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            module = ast.parse(source)
        definitions = list(_definitions(file, module.body, ""))
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte; too deep for the parser
        raise SyntaxError(str(error)) from error
    comments = {n: n for n in range(1, len(file) + 1) if _is_comment(file, n)}
    return cut(file, definitions, comments)


def _definitions(file: File, body: Iterable[ast.stmt], prefix: str) -> Iterator[Definition]:
    for node in _nodes(body):
        symbol = prefix + node.name
        is_class = isinstance(node, ast.ClassDef)
        yield Definition(
            kind="class" if is_class else "function",
            symbol=symbol,
            first=min([node.lineno, *(d.lineno for d in node.decorator_list)]),
            last=_last(file, node),
            inside=list(_definitions(file, node.body, f"{symbol}.")) if is_class else [],
        )


def _nodes(body: Iterable[ast.stmt]) -> Iterator[_Node]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
            continue
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            for child in getattr(node, field, ()):
                yield from _nodes([child] if isinstance(child, ast.stmt) else child.body)


def _last(file: File, node: _Node) -> int:
    """The last line with the comments indented below it."""
    last = node.end_lineno or node.lineno
    for n in range(last + 1, len(file) + 1):
        if file.blank(n):
            continue
        if not (_is_comment(file, n) and file.indent(n) > file.indent(node.lineno)):
            break
        last = n
    return last


def _is_comment(file: File, n: int) -> bool:
    return file.line(n).lstrip().startswith("#")
