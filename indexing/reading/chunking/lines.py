"""The lines of a file, and runs of them made into chunks of bounded size."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from encoder.errors import ArgumentError
from encoder.options import check, option

__all__ = ["CHUNK_SIZE", "Chunk", "ChunkSize", "File", "Numbers"]

# Smaller leftovers (an import, an alias) join their neighbour: alone they say too little to be worth a hit.
MIN_CHARS = 300

Numbers: TypeAlias = Sequence[int]
"""Line numbers, 1-based, increasing."""


@dataclass(frozen=True)
class ChunkSize:
    """The bounds on chunks, in characters.

    Code has 3.0-3.6 characters a token (by ModernBERT's and BERT's tokenizers alike), prose 4.5-4.8: at 1,500
    characters 19 in 20 pieces of the standard library fit a 512-token encoder. For 8,192 tokens pass 24_000.
    """

    max_chars: int = option(1_500, "The most that a chunk holds.", least=1)
    overlap_chars: int = option(200, "The most, in whole lines, that a piece of a long one repeats.", least=0)

    def __post_init__(self) -> None:
        check(self)
        if self.overlap_chars > (most := self.max_chars // 2):
            raise ArgumentError(f"overlap_chars={self.overlap_chars}; pass 0 to max_chars // 2 = {most}")


CHUNK_SIZE = ChunkSize()


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


class File:
    """The lines of one file and the bounds on its chunks."""

    def __init__(self, source: str, size: ChunkSize) -> None:
        # The line ends of Python's tokenizer; str.splitlines would also cut at form feeds and U+2028.
        self.lines = re.split(r"\r\n|\r|\n", source)
        self.max_chars = size.max_chars
        self.overlap_chars = size.overlap_chars
        self.min_chars = min(MIN_CHARS, size.max_chars // 4)

    def __len__(self) -> int:
        return len(self.lines)

    def line(self, n: int) -> str:
        return self.lines[n - 1]

    def blank(self, n: int) -> bool:
        return not self.line(n).strip()

    def indent(self, n: int) -> int:
        line = self.line(n).expandtabs(4)
        return len(line) - len(line.lstrip())

    def chars(self, numbers: Numbers) -> int:
        return sum(len(self.line(n)) + 1 for n in numbers)

    def trim(self, numbers: Numbers) -> Numbers:
        """Without the blank lines at both ends."""
        first, last = 0, len(numbers)
        while first < last and self.blank(numbers[first]):
            first += 1
        while last > first and self.blank(numbers[last - 1]):
            last -= 1
        return numbers[first:last]

    def chunks(self, numbers: Numbers, kind: str, symbol: str = "") -> Iterator[Chunk]:
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

    def windows(self, numbers: Numbers) -> Iterator[Numbers]:
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

    def pack(self, blocks: Iterable[Numbers], enough: int) -> list[Numbers]:
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


def _ranges(numbers: Numbers) -> tuple[tuple[int, int], ...]:
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
