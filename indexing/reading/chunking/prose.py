"""Prose and Markdown: paragraphs and sections."""

import re
from collections.abc import Iterator

from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize, File, Numbers

__all__ = ["chunk_markdown", "chunk_text"]


def chunk_text(source: str, size: ChunkSize = CHUNK_SIZE) -> list[Chunk]:
    """Prose: as many paragraphs as fit max_chars; a longer one in overlapping windows. kind is "text"."""
    file = File(source, size)
    return list(_paragraphs(file, range(1, len(file) + 1), "text", ""))


def _paragraphs(file: File, numbers: Numbers, kind: str, symbol: str) -> Iterator[Chunk]:
    numbers = file.trim(numbers)
    starts = [i for i in range(1, len(numbers)) if not file.blank(numbers[i]) and file.blank(numbers[i - 1])]
    blocks = [numbers[a:b] for a, b in zip([0, *starts], [*starts, len(numbers)], strict=True)]
    for block in file.pack(blocks, file.max_chars):
        yield from file.chunks(block, kind, symbol)


_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NOT_A_TITLE = re.compile(r"\s*(?:$|[>|#*+-]|\d+[.)]\s)| {4}|\t")


def chunk_markdown(source: str, size: ChunkSize = CHUNK_SIZE) -> list[Chunk]:
    """Markdown: a section from each heading (`#` or underlined) to the next; symbol is the path of headings.

    A section of a heading alone joins the next one; a long one is cut at paragraphs. kind is "section".
    """
    file = File(source, size)
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


def _headings(file: File) -> Iterator[tuple[int, int, int, str]]:
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
