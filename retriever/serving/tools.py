"""What coding agents may ask of folders: search, related places, lines of a file, how far the index is."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Annotated, TypeAlias

from pydantic import BaseModel, Field

from encoder.errors import ArgumentError
from encoder.progress import Told
from indexing.reading.files import TextFile
from indexing.storage.filters import written_strings
from indexing.storage.tables import is_index
from retriever.code.search import CodeHit, CodeOptions, cell_of, code_filter, search_code
from retriever.folders import Folder, cache_of
from retriever.hits import Hit, best_stretch
from retriever.options import Mode, SearchOptions
from retriever.serving.kept import Kept, KeptFolders

__all__ = [
    "About",
    "Answer",
    "FolderStatus",
    "Found",
    "Lines",
    "Place",
    "Read",
    "Related",
    "Search",
    "Status",
    "Tools",
]

CHARS = 3  # of a token, about: code has fewer to a token than prose
LEAST = 300  # characters of a result, with its path and symbol, below which fewer results are given

# What is asked ------------------------------------------------------------------------------------------------

AtMost = Annotated[int, Field(ge=1, le=50, description="Files to return at most.")]
Tokens = Annotated[int, Field(ge=100, le=50_000, description="About the most that the answer may take.")]
Line = Annotated[int, Field(ge=1)]


class Search(BaseModel):
    query: Annotated[str, Field(min_length=1, description="A question in plain words, or a symbol's name.")]
    path: Annotated[str | None, Field(description="Only within this folder or file.")] = None
    k: AtMost = 5
    language: Annotated[str | None, Field(description="Only this language, as python or py.")] = None
    paths: Annotated[
        list[str],
        Field(description="Only paths that match one of these, as in .gitignore: src/**, *.py, !tests/"),
    ] = []
    mode: Annotated[
        Mode | None,
        Field(description="lexical: by words alone; late: by meaning alone; left out, by both."),
    ] = None
    max_tokens: Tokens = 3000


class Related(BaseModel):
    path: Annotated[str, Field(description="A file, as search names it.")]
    line: Annotated[Line, Field(description="A line of the function, class or section that is meant.")]
    k: AtMost = 5
    max_tokens: Tokens = 3000


class Read(BaseModel):
    path: Annotated[str, Field(description="A file, as search names it.")]
    start: Annotated[Line, Field(description="The first line.")] = 1
    end: Annotated[Line | None, Field(description="The last line; left out, the file's last.")] = None
    max_tokens: Tokens = 6000


class About(BaseModel):
    """Nothing."""


# What is answered ---------------------------------------------------------------------------------------------


class Place(BaseModel):
    """Lines from 1, the last one included; of a notebook, those of its cell."""

    path: str
    start_line: int
    end_line: int
    symbol: str = ""


class Found(Place):
    """also: other good places of the same file."""

    language: str = ""
    score: float
    text: str
    also: list[Place] = []

    def __str__(self) -> str:
        head = f"{self.path}:{self.start_line}-{self.end_line}  {self.symbol}  ({self.score:.2f})"
        also = ", ".join(f"{place.start_line}-{place.end_line} {place.symbol}" for place in self.also)
        return f"{head}\n{self.text}" + (f"\nalso in this file: {also}" if also else "")


class Answer(BaseModel):
    """note: what to know of the results, or why there are none."""

    results: list[Found]
    note: str = ""

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.results), *([self.note] if self.note else [])])


class Lines(Place):
    """n_lines: of the whole file."""

    text: str
    n_lines: int
    note: str = ""

    def __str__(self) -> str:
        head = f"{self.path}:{self.start_line}-{self.end_line} of {self.n_lines}"
        return f"{head}\n{self.text}" + (f"\n{self.note}" if self.note else "")


class FolderStatus(BaseModel):
    """files, passages: that are searched. encoded: passages that meaning ranks, too. doing: what is under way."""

    folder: str
    index: str
    files: int = 0
    passages: int = 0
    encoded: int = 0
    doing: str = ""
    note: str = ""


class Status(BaseModel):
    version: str
    folders: list[FolderStatus]

    def __str__(self) -> str:
        return self.model_dump_json(indent=1)


# The tools ----------------------------------------------------------------------------------------------------

How: TypeAlias = tuple[SearchOptions, CodeOptions, str | None]


class Tools:
    """Each takes what is asked, and progress, which is told how far long work is, and ends what nobody waits for by
    raising. Raises ArgumentError and CorpusError for what the agent can mend."""

    def __init__(self, folders: KeptFolders) -> None:
        self.folders = folders

    def search(self, asked: Search, progress: Told) -> Answer:
        code = CodeOptions(languages=(asked.language,) if asked.language else (), paths=tuple(asked.paths))
        options = SearchOptions(k=asked.k, mode=asked.mode)
        chosen, where = list(self.folders), None
        if asked.path is not None:
            kept, path = self.folders.find(asked.path)
            chosen, where = [kept], _within(path)
        answers = []
        for kept in chosen:
            with kept.asked(progress) as folder:
                answers.append(_answer(kept, folder, asked.query, (options, code, where), progress))
        # Scores of two folders cannot be compared, so these take turns.
        turns = itertools.zip_longest(*(results for results, _ in answers))
        results = [result for turn in turns for result in turn if result is not None][: asked.k]
        notes = dict.fromkeys(note for _, some in answers for note in some)
        return _fitting(results, asked.query, asked.max_tokens, notes)

    def find_related(self, asked: Related, progress: Told) -> Answer:
        kept, path = self.folders.find(asked.path)
        with kept.asked(progress) as folder:
            _file(kept, path)
            now = folder.searcher.snapshot
            at = f"path = {written_strings(path)} and start_line <= {asked.line} and end_line >= {asked.line}"
            found = [document for document in now.get(now.ids(at)) if document is not None]
            if not found:
                raise ArgumentError(
                    f"{asked.path} has nothing at line={asked.line}; pass a line that search gave"
                )
            # Of a class and its method, the method.
            inner = min(
                found, key=lambda document: document.metadata["end_line"] - document.metadata["start_line"]
            )
            text = inner.text or ""
            how = SearchOptions(k=asked.k), CodeOptions(), f"path != {written_strings(path)}"
            results, notes = _answer(kept, folder, text, how, progress)
        return _fitting(results, text, asked.max_tokens, notes)

    def read(self, asked: Read, progress: Told) -> Lines:
        kept, path = self.folders.find(asked.path)
        with kept.asked(progress):
            reading = _file(kept, path).read()
        if reading.reason:
            raise ArgumentError(f"{asked.path} cannot be shown: {reading.reason}")
        lines = reading.text.splitlines()
        last = min(asked.end or len(lines), len(lines))
        if not asked.start <= last:
            raise ArgumentError(
                f"{asked.path} has {len(lines)} lines; pass start <= end within them, not {asked.start} to {asked.end}"
            )
        room, shown = asked.max_tokens * CHARS, []
        for line in lines[asked.start - 1 : last]:
            room -= len(line) + 1
            if room < 0:
                break
            shown.append(line)
        shown = shown or [lines[asked.start - 1][: asked.max_tokens * CHARS]]
        end = asked.start - 1 + len(shown)
        note = f"Cut at max_tokens={asked.max_tokens}; go on with start={end + 1}." if end < last else ""
        return Lines(
            path=kept.shown(path),
            start_line=asked.start,
            end_line=end,
            text="\n".join(shown),
            n_lines=len(lines),
            note=note,
        )

    def status(self, asked: About, progress: Told) -> Status:
        return Status(version=metadata.version("latewood"), folders=[_status(kept) for kept in self.folders])

    def warm(self, progress: Told) -> None:
        """Load what a first answer takes, of folders that have an index already."""
        for kept in self.folders:
            if is_index(cache_of(kept.source)):
                with kept.asked(progress) as folder:
                    _answer(kept, folder, "warm", (SearchOptions(k=1), CodeOptions(), None), progress)


def _answer(
    kept: Kept, folder: Folder, query: str, how: How, progress: Told
) -> tuple[list[Found], list[str]]:
    """The best of one folder, their texts whole; and notes."""
    options, code, where = how
    notes, now = list(kept.notes), folder.searcher.snapshot
    if kept.outside:
        inside = f"path not in ({written_strings(*kept.outside)})"
        where = inside if where is None else f"({where}) and {inside}"
    chosen = code_filter(now, code, where)
    if chosen == "":
        return [], [*notes, "No file is at such a path; look at `paths`."]
    options = replace(options, filter=chosen)
    folder.prepare(query, options, progress)
    options = folder.answerable(options)
    if kept.holds_code(folder):
        found = [_found(kept, hit.path, hit) for hit in search_code(folder.searcher, query, options)]
    else:
        hits = folder.searcher.search(query, options, k=3 * options.k)  # several may be of one file
        found = [_found(kept, str(hit.metadata["path"]), hit) for hit in hits]
    files: dict[str, Found] = {}
    for one in found:
        if (first := files.setdefault(one.path, one)) is not one:
            place = {name: getattr(one, name) for name in Place.model_fields}
            first.also.append(Place(**place))
    now = folder.searcher.snapshot
    if waiting := now.n_unencoded:
        notes.append(
            f"{len(now) - waiting:,} of {len(now):,} passages are encoded; words chose among the others."
        )
    if not files:
        notes.append("Nothing was found; ask in other words, or without path, paths and language.")
    return list(files.values())[: options.k], notes


def _found(kept: Kept, path: str, hit: CodeHit | Hit) -> Found:
    meta, passage = hit.metadata, None if isinstance(hit, CodeHit) else hit.passage
    lines = meta["start_line"], meta["end_line"]
    if passage is not None:
        lines = passage.first_line, passage.last_line
    return Found(
        path=kept.shown(path) + cell_of(meta),
        start_line=lines[0],
        end_line=lines[1],
        symbol=meta.get("symbol") or "",
        language=meta.get("language") or "",
        score=round(hit.score, 4),
        text=(hit.text if passage is None else passage.text) or "",
    )


def _fitting(results: Sequence[Found], query: str, max_tokens: int, notes: Iterable[str]) -> Answer:
    """The best results within a number of tokens, none so short that it says nothing."""
    room = max_tokens * CHARS
    results = results[: max(1, room // LEAST)]
    for i, one in enumerate(results):
        around = len(str(one)) - len(one.text)
        one.text = _cut(one.text, query, max(0, room // (len(results) - i) - around))
        room -= around + len(one.text)
    return Answer(results=list(results), note=" ".join(notes))


def _cut(text: str, query: str, chars: int) -> str:
    """The whole lines of a text that have most of the query's words; `…` is what was left out."""
    if len(text) <= chars:
        return text
    start, stop = best_stretch(text, query, max(1, chars - 4))
    if start:
        start = min(text.find("\n", start) + 1 or start, stop)
    stop = max(text.rfind("\n", start, stop + 1), start) if "\n" in text[start:stop] else stop
    return ("…\n" if start else "") + text[start:stop] + ("\n…" if stop < len(text) else "")


def _file(kept: Kept, path: str) -> TextFile:
    if (file := kept.files.get(path)) is None:
        raise ArgumentError(
            f"{kept.shown(path)!r} is no file that search looks at (a folder, hidden, ignored by git, binary, "
            "too large, ...); pass a path that search gave, or read it by your own means"
        )
    return file


def _within(path: str) -> str | None:
    """A filter for a file, or all below a folder: `0` is the character after `/`."""
    if not path:
        return None
    itself, first, end = (written_strings(one) for one in (path, f"{path}/", f"{path}0"))
    return f"path = {itself} or (path >= {first} and path < {end})"


def _status(kept: Kept) -> FolderStatus:
    told = FolderStatus(
        folder=str(kept.source),
        index=str(cache_of(kept.source)),
        doing="" if kept.step is None else str(kept.step),
        note=" ".join(kept.notes),
    )
    if (now := kept.now) is None:
        told.note = "The first search reads this folder, which takes seconds and is kept."
    else:
        told.files, told.passages, told.encoded = len(kept.files), len(now), len(now) - now.n_unencoded
    return told
