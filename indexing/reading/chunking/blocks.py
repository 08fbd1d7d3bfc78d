"""Code of any language, cut at blank lines by indentation."""

import re
from collections.abc import Iterator

from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize, File, Numbers

__all__ = ["chunk_blocks", "nested_blocks"]


def chunk_blocks(source: str, size: ChunkSize = CHUNK_SIZE) -> list[Chunk]:
    """Code of any language: blocks that begin, at the outermost indentation, after a blank or a closing line.

    A block longer than max_chars is split at the next indentation, and so on; one without such a place into
    overlapping windows. Indentation stands for nesting: it needs no grammar and is not misled by braces in
    strings, but a file without blank lines or indentation gets windows. kind is "block".
    """
    file = File(source, size)
    everything = file.trim(range(1, len(file) + 1))
    return [c for block in nested_blocks(file, everything) for c in file.chunks(block, "block")]


_CLOSING = re.compile(r"\s*(?:[}\])]|end\b)")
_CONTINUES = re.compile(r"\s*(?:[}\])]|(?:else|elif|elsif|catch|except|finally|end)\b)")


def nested_blocks(file: File, numbers: Numbers, depth: int = 10) -> Iterator[Numbers]:
    """Runs that begin at the outermost indentation; a long one is cut again, at most `depth` times."""
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
        if depth and len(block) < len(numbers) and file.chars(block) - 1 > file.max_chars:
            yield from nested_blocks(file, block, depth - 1)
        else:
            yield block
