"""Chunkers: one file's text → passages whose text is exact source lines, with their line numbers.

Python is cut by `ast` into functions, methods, class outlines and the module code between them; Markdown by
headings; other code at blank lines by indentation; prose at paragraphs. Every non-blank line is in a chunk.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from encoder.errors import ArgumentError

__all__ = [
    "MAX_CHARS",
    "OVERLAP_CHARS",
    "Chunk",
    "chunk_blocks",
    "chunk_markdown",
    "chunk_python",
    "chunk_text",
]

# Code has 3.0-3.6 characters a token (by ModernBERT's and BERT's tokenizers alike), prose 4.5-4.8: at 1,500
# characters 19 in 20 pieces of the standard library fit a 512-token encoder. For 8,192 tokens pass 24_000.
MAX_CHARS = 1_500
OVERLAP_CHARS = 200
# Smaller leftovers (an import, an alias) join their neighbour: alone they say too little to be worth a hit.
_MIN_CHARS = 300

_Numbers: TypeAlias = Sequence[int]  # line numbers, 1-based, increasing
_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file.

    text: the lines of `lines` joined by a newline (a CRLF or CR file is read as if it ended lines by LF).
    lines: inclusive, 1-based (first, last) ranges. A class outline has several, all else nearly always one.
    start_line, end_line: what the passage stands for; for a class the whole of it, bodies included.
    columns: set for a part of a single line longer than max_chars: text = line[columns[0]:columns[1]].
    symbol: qualified name (`Class.method`) or heading path (`Guide > Install`); empty where there is none.
    """

    text: str
    kind: str
    symbol: str
    start_line: int
    end_line: int
    lines: tuple[tuple[int, int], ...]
    columns: tuple[int, int] | None = None


class _File:
    """The lines of one file and the bounds on its chunks."""

    def __init__(self, source: str, max_chars: int, overlap_chars: int) -> None:
        if max_chars < 1:
            raise ArgumentError(f"max_chars={max_chars}; pass at least 1")
        if not 0 <= overlap_chars <= max_chars // 2:
            raise ArgumentError(f"overlap_chars={overlap_chars}; pass 0 to max_chars // 2 = {max_chars // 2}")
        # The line ends of Python's tokenizer; str.splitlines would also cut at form feeds and U+2028.
        self.lines = re.split(r"\r\n|\r|\n", source)
        self.max_chars = max_chars
        self.overlap_chars = overlap_chars
        self.min_chars = min(_MIN_CHARS, max_chars // 4)

    def __len__(self) -> int:
        return len(self.lines)

    def line(self, n: int) -> str:
        return self.lines[n - 1]

    def blank(self, n: int) -> bool:
        return not self.line(n).strip()

    def comment(self, n: int) -> bool:
        return self.line(n).lstrip().startswith("#")

    def indent(self, n: int) -> int:
        line = self.line(n).expandtabs(4)
        return len(line) - len(line.lstrip())

    def chars(self, numbers: _Numbers) -> int:
        return sum(len(self.line(n)) + 1 for n in numbers)

    def trim(self, numbers: _Numbers) -> _Numbers:
        """Without the blank lines at both ends."""
        first, last = 0, len(numbers)
        while first < last and self.blank(numbers[first]):
            first += 1
        while last > first and self.blank(numbers[last - 1]):
            last -= 1
        return numbers[first:last]

    def chunks(self, numbers: _Numbers, kind: str, symbol: str = "") -> Iterator[Chunk]:
        """One chunk of these lines, or overlapping ones when they are too long; none when all are blank."""
        for window in self.windows(self.trim(numbers)):
            window = self.trim(window)
            if not window:
                continue
            text = "\n".join(self.line(n) for n in window)
            chunk = Chunk(text, kind, symbol, window[0], window[-1], _ranges(window))
            if len(window) > 1 or len(text) <= self.max_chars:
                yield chunk
            else:
                for start, end in _cuts(text, self.max_chars):
                    yield replace(chunk, text=text[start:end], columns=(start, end))

    def windows(self, numbers: _Numbers) -> Iterator[_Numbers]:
        """Runs of at most max_chars, or of one longer line; each repeats <= overlap_chars of the last one."""
        start = 0
        while start < len(numbers):
            end, size = start, 0
            while end < len(numbers) and (
                end == start or size + len(self.line(numbers[end])) <= self.max_chars
            ):
                size += len(self.line(numbers[end])) + 1
                end += 1
            if end < len(numbers):
                # A blank line in the second half is the better place to stop.
                stops = (i for i in range(end, (start + end) // 2, -1) if self.blank(numbers[i]))
                end = next(stops, end)
            yield numbers[start:end]
            if end == len(numbers):
                return
            previous, start = start, end
            room = min(self.overlap_chars, self.max_chars - len(self.line(numbers[end])))
            while start - 1 > previous and (size := len(self.line(numbers[start - 1])) + 1) <= room:
                start -= 1
                room -= size

    def pack(self, blocks: Iterable[_Numbers], enough: int) -> list[_Numbers]:
        """Join blocks until they hold `enough` characters, scraps to the block before; at most max_chars."""
        packed: list[list[int]] = []
        sizes: list[int] = []
        for block in blocks:
            size = self.chars(block)
            small = packed and (sizes[-1] < enough or size < enough // 4)
            if small and sizes[-1] + size - 1 <= self.max_chars:
                packed[-1].extend(block)
                sizes[-1] += size
            else:
                packed.append(list(block))
                sizes.append(size)
        return list(packed)


def _ranges(numbers: _Numbers) -> tuple[tuple[int, int], ...]:
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    return tuple(
        (numbers[a], numbers[b - 1]) for a, b in zip([0, *breaks], [*breaks, len(numbers)], strict=True)
    )


def _cuts(line: str, max_chars: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(line):
        end = min(start + max_chars, len(line))
        if end < len(line):
            space = line.rfind(" ", start + max_chars // 2, end)
            end = space + 1 if space >= 0 else end
        if line[start:end].strip():
            yield start, end
        start = end


# Python


def chunk_python(
    source: str, *, max_chars: int = MAX_CHARS, overlap_chars: int = OVERLAP_CHARS
) -> list[Chunk]:
    """Functions, methods, class outlines and the module code between them, in the order of their first lines.

    A function has its decorators, the comments above it and everything nested in it. A class outline
    has the class's header, docstring and statements, and its methods' signatures instead of their bodies.
    Definitions inside a module's or a class's `if`, `try`, `with`, `for` count as its own.

    kind is "function", "method", "class" or "module". What is longer than max_chars is split; the pieces
    overlap by whole lines of at most overlap_chars.

    Raises SyntaxError where `ast` cannot parse the source (Python 2, templates): use `chunk_blocks` then.
    """
    file = _File(source, max_chars, overlap_chars)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            module = ast.parse(source)
        chunks: list[Chunk] = []
        gaps = _cut_scope(file, module, range(1, len(file) + 1), "", chunks)
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte; too deep for the parser
        raise SyntaxError(str(error)) from error
    for numbers in file.pack((gap for gap in gaps if gap), file.min_chars):
        chunks.extend(file.chunks(numbers, "module"))
    return sorted(chunks, key=lambda c: (c.start_line, -c.end_line))


def _cut_scope(
    file: _File, scope: ast.Module | ast.ClassDef, span: range, prefix: str, chunks: list[Chunk]
) -> list[_Numbers]:
    """Append the chunks of the definitions in span; return the runs of lines that are the scope's own."""
    own: list[_Numbers] = []
    at = span.start
    for node in _definitions(scope.body):
        first, last = _extent(file, node, at, span.stop - 1)
        own.append(file.trim(range(at, first)))
        symbol = prefix + node.name
        if isinstance(node, ast.ClassDef):
            outline = _cut_scope(file, node, range(first, last + 1), f"{symbol}.", chunks)
            numbers = [n for run in outline for n in run]
            pieces = list(file.chunks(numbers, "class", symbol))
            chunks.extend(pieces if len(pieces) != 1 else [replace(pieces[0], end_line=last)])
        else:
            kind = "method" if isinstance(scope, ast.ClassDef) else "function"
            chunks.extend(file.chunks(range(first, last + 1), kind, symbol))
        if isinstance(scope, ast.ClassDef):
            own.append(_signature(file, node))
        at = last + 1
    own.append(file.trim(range(at, span.stop)))
    return own


def _definitions(body: Iterable[ast.stmt]) -> Iterator[_Definition]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
            continue
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            for child in getattr(node, field, ()):
                yield from _definitions([child] if isinstance(child, ast.stmt) else child.body)


def _extent(file: _File, node: _Definition, low: int, high: int) -> tuple[int, int]:
    """First and last line with decorators, the comments above, and those indented at the end."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    while first > low and file.comment(first - 1) and file.indent(first - 1) == file.indent(node.lineno):
        first -= 1
    gap = range(low, first)
    if file.chars(gap) < file.min_chars and all(file.blank(n) or file.comment(n) for n in gap):
        first = low  # nothing but a banner since the definition before
    last = node.end_lineno or node.lineno
    for n in range(last + 1, high + 1):
        if file.blank(n):
            continue
        if not (file.comment(n) and file.indent(n) > file.indent(node.lineno)):
            break
        last = n
    return first, last


def _signature(file: _File, node: _Definition) -> _Numbers:
    body = node.body[0]
    decorators = body.decorator_list if isinstance(body, _Definition) else []
    first_of_body = min([body.lineno, *(d.lineno for d in decorators)])
    last = max(node.lineno, first_of_body - 1)
    while last > node.lineno and (file.blank(last) or file.comment(last)):
        last -= 1
    return range(node.lineno, last + 1)


# Everything else


def chunk_blocks(
    source: str, *, max_chars: int = MAX_CHARS, overlap_chars: int = OVERLAP_CHARS
) -> list[Chunk]:
    """Code of any language: blocks that begin, at the outermost indentation, after a blank or a closing line.

    A block longer than max_chars is split at the next indentation, and so on; one without such a place into
    overlapping windows. Indentation stands for nesting: it needs no grammar and is not misled by braces in
    strings, but a file without blank lines or indentation gets windows. kind is "block".
    """
    file = _File(source, max_chars, overlap_chars)
    everything = file.trim(range(1, len(file) + 1))
    return [c for block in _nested_blocks(file, everything) for c in file.chunks(block, "block")]


_CLOSING = re.compile(r"\s*(?:[}\])]|end\b)")
_CONTINUES = re.compile(r"\s*(?:[}\])]|(?:else|elif|elsif|catch|except|finally|end)\b)")


def _nested_blocks(file: _File, numbers: _Numbers) -> Iterator[_Numbers]:
    starts = [
        i
        for i in range(1, len(numbers))
        if not file.blank(numbers[i])
        and not _CONTINUES.match(file.line(numbers[i]))
        and (file.blank(numbers[i - 1]) or _CLOSING.match(file.line(numbers[i - 1])))
    ]
    outermost = min((file.indent(numbers[i]) for i in starts), default=0)
    starts = [i for i in starts if file.indent(numbers[i]) == outermost]
    blocks = [numbers[a:b] for a, b in zip([0, *starts], [*starts, len(numbers)], strict=True)]
    for block in file.pack(blocks, file.min_chars):
        # One block of many is worth a closer look; a lone one has no more places to cut.
        if len(block) < len(numbers) and file.chars(block) - 1 > file.max_chars:
            yield from _nested_blocks(file, block)
        else:
            yield block


def chunk_text(source: str, *, max_chars: int = MAX_CHARS, overlap_chars: int = OVERLAP_CHARS) -> list[Chunk]:
    """Prose: as many paragraphs as fit max_chars; a longer one in overlapping windows. kind is "text"."""
    file = _File(source, max_chars, overlap_chars)
    return list(_paragraphs(file, range(1, len(file) + 1), "text", ""))


def _paragraphs(file: _File, numbers: _Numbers, kind: str, symbol: str) -> Iterator[Chunk]:
    numbers = file.trim(numbers)
    starts = [i for i in range(1, len(numbers)) if not file.blank(numbers[i]) and file.blank(numbers[i - 1])]
    blocks = [numbers[a:b] for a, b in zip([0, *starts], [*starts, len(numbers)], strict=True)]
    for block in file.pack(blocks, file.max_chars):
        yield from file.chunks(block, kind, symbol)


_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NOT_A_TITLE = re.compile(r"\s*(?:$|[>|#*+-]|\d+[.)]\s)| {4}|\t")


def chunk_markdown(
    source: str, *, max_chars: int = MAX_CHARS, overlap_chars: int = OVERLAP_CHARS
) -> list[Chunk]:
    """Markdown: a section from each heading (`#` or underlined) to the next; symbol is the path of headings.

    A section of a heading alone joins the next one; a long one is cut at paragraphs. kind is "section".
    """
    file = _File(source, max_chars, overlap_chars)
    path: list[tuple[int, str]] = []
    chunks: list[Chunk] = []
    start = body = 1
    symbol = ""
    for first, next_body, level, title in [*_headings(file), (len(file) + 1, len(file) + 1, 0, "")]:
        if level == 0 or any(not file.blank(n) for n in range(body, first)):
            chunks.extend(_paragraphs(file, range(start, first), "section", symbol))
            start = first
        body = next_body
        path = [*(p for p in path if p[0] < level), (level, title)]
        symbol = " > ".join(title for _, title in path if title)
    return chunks


def _headings(file: _File) -> Iterator[tuple[int, int, int, str]]:
    """(first line, first line of its body, level, title) of each heading outside fences and front matter."""
    fence = ""
    n = 1
    if file.line(1).rstrip() == "---":
        n = next((i + 1 for i in range(2, len(file) + 1) if file.line(i).rstrip() == "---"), 1)
    while n <= len(file):
        line = file.line(n)
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif not fence and (atx := _ATX.match(line)):
            yield n, n + 1, len(atx[1]), (atx[2] or "").strip()
        elif (
            not fence
            and n < len(file)
            and not _NOT_A_TITLE.match(line)
            and (underline := _SETEXT.match(file.line(n + 1)))
        ):
            yield n, n + 2, 1 if underline[1][0] == "=" else 2, line.strip()
            n += 1
        n += 1
