"""A file cut at its definitions, whichever parser found them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from indexing.reading.chunking.blocks import nested_blocks
from indexing.reading.chunking.lines import Chunk, File, Numbers

__all__ = ["Definition", "cut"]


@dataclass(slots=True)
class Definition:
    """A function, class or type in a file.

    kind: "function", "class" or "type". symbol: qualified name. first, last: its lines, decorators included and
    comments above it not. inside: the definitions of a class; those in a function stay a part of it.
    """

    kind: str
    symbol: str
    first: int
    last: int
    inside: list["Definition"] = field(default_factory=list)


def cut(file: File, definitions: Iterable[Definition], leads: Mapping[int, int]) -> list[Chunk]:
    """One chunk a definition, one for what is a class's own, and the module's code between them.

    leads: last line → first line of each comment or attribute that has its lines to itself. Those right above a
    definition go with it. kind is "function", "method", "class", "type" or "module"; in order of first lines.
    """
    return _Cut(file, leads).all(definitions)


@dataclass(slots=True)
class _Cut:
    """A file being cut: its chunks so far."""

    file: File
    leads: Mapping[int, int]
    chunks: list[Chunk] = field(default_factory=list)

    def all(self, definitions: Iterable[Definition]) -> list[Chunk]:
        file = self.file
        gaps = self.scope(definitions, range(1, len(file) + 1), 1, "function")
        for numbers in file.pack((gap for gap in gaps if gap), file.min_chars):
            fits = file.chars(numbers) - 1 <= file.max_chars
            for run in [numbers] if fits else nested_blocks(file, numbers):
                self.chunks.extend(file.chunks(run, "module"))
        return sorted(self.chunks, key=lambda c: (c.start_line, -c.end_line))

    def scope(self, definitions: Iterable[Definition], span: range, low: int, function: str) -> list[Numbers]:
        """Append the chunks of the definitions in span; return the runs of lines that are the scope's own.

        low: the first line on which one may begin. function: what a function is called here.
        """
        file, own, at = self.file, list[Numbers](), span.start
        for d in _apart(definitions, low, span.stop - 1):
            first = _first(file, d, max(at, low), self.leads)
            own.append(file.trim(range(at, first)))
            if d.kind == "class":
                runs = self.scope(d.inside, range(first, d.last + 1), d.first + 1, "method")
                pieces = list(file.chunks([n for run in runs for n in run], "class", d.symbol))
                self.chunks.extend(pieces if len(pieces) != 1 else [replace(pieces[0], end_line=d.last)])
            else:
                kind = function if d.kind == "function" else d.kind
                self.chunks.extend(file.chunks(range(first, d.last + 1), kind, d.symbol))
            at = d.last + 1
        own.append(file.trim(range(at, span.stop)))
        return own


def _apart(definitions: Iterable[Definition], low: int, high: int) -> list[Definition]:
    """Without those that begin outside; one that begins on a line of the one before is a part of it."""
    apart: list[Definition] = []
    for d in sorted(definitions, key=lambda d: d.first):
        if not low <= d.first <= high:
            continue
        last = min(d.last, high)
        if apart and d.first <= apart[-1].last:
            apart[-1].last = max(apart[-1].last, last)
        else:
            apart.append(replace(d, last=last))
    return apart


def _first(file: File, d: Definition, low: int, leads: Mapping[int, int]) -> int:
    """First line with the comments and attributes above."""
    first = d.first
    while (start := leads.get(first - 1, 0)) >= low and file.indent(start) == file.indent(d.first):
        first = start
    # Nothing but a banner since the definition before?
    n = first
    while n > low and (file.blank(n - 1) or leads.get(n - 1, 0) >= low):
        n = n - 1 if file.blank(n - 1) else leads[n - 1]
        if first - n > file.min_chars:
            return first
    return low if n == low and file.chars(range(low, first)) < file.min_chars else first
