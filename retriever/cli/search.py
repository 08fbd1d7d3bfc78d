"""`latewood search`: queries in, ranked passages out, as lines or as JSON."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder.errors import ArgumentError
from encoder.hiding import hidden
from encoder.options import option
from indexing import Snapshot
from indexing.storage.tables import is_index
from retriever.cli.codesearch import Printed, print_code
from retriever.cli.flags import flags
from retriever.cli.interrupts import keeping
from retriever.cli.nothing import why_nothing
from retriever.cli.progress import told
from retriever.cli.terminal import visible
from retriever.code.search import CodeOptions, cell_of, code_filter, holds_code
from retriever.explaining import Explanation
from retriever.folders import Folder, anew
from retriever.hits import Hit
from retriever.options import Scoring, SearchOptions
from retriever.searcher import Searcher

__all__ = ["search_command"]

FEW = 2  # questions for which kernels are not worth loading


@dataclass(frozen=True)
class Shown:
    """How hits are printed."""

    code: bool = option(False, "Print hits as path:line, symbol and matching lines.")
    explain: bool = option(
        False, "Show what each query token matched, and where; of code, what its score adds up from."
    )
    wait: bool = option(False, "Of a folder: encode everything before the answer.")
    as_json: bool = option(False, "Print JSON.", "--json")


@flags()
def search_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index, or any folder of text or code.")],
    query: Annotated[list[str], typer.Argument(help="What to look for; several are answered in turn.")],
    options: SearchOptions,
    scoring: Scoring,
    code: CodeOptions,
    shown: Shown,
) -> None:
    """Search an index, or a folder: its index is kept in the cache, brought up to date first, and asked by words; the
    best of what these find is encoded and ranked by meaning. Code is shown as path:line; --lang, --path and --regex
    imply --code.

    Example: latewood search ./src "where are sessions expired?" --lang py --path '!tests/'
    """
    if not all(text.strip() for text in query):
        raise ArgumentError("a query is empty; write what to look for")
    as_code, once = shown.code or code != CodeOptions(), len(query) <= FEW
    if is_index(folder):
        if shown.wait:
            raise ArgumentError("--wait is of folders; latewood index encodes what an index still lacks")
        with hidden("scipy"), Searcher.open(folder, scoring=scoring, once=once) as searcher:
            _answer(searcher, query, options, code if as_code else None, shown)
            _say_how_far(searcher.snapshot, f"latewood index SOURCE --out {folder}")
        return
    anew(folder, _tell, lambda: _search_folder(folder, query, options, scoring, code, shown))


def _search_folder(
    folder: Path,
    query: list[str],
    options: SearchOptions,
    scoring: Scoring,
    code: CodeOptions,
    shown: Shown,
) -> None:
    as_code, once = shown.code or code != CodeOptions(), len(query) <= FEW
    with (
        keeping(lambda: f"what was read and encoded of {folder} is kept; run the same again to go on"),
        # numba loads scipy where it finds it, sqlite_utils pandas; nothing here needs them: 0.2 s, and a second
        hidden("scipy", "pandas"),
        Folder.open(folder, _tell, scoring=scoring, progress=told(), once=once) as found,
    ):
        if shown.wait:
            found.encode(progress=told())
        if found.searcher.snapshot.n_unencoded:
            where = code_filter(found.searcher.snapshot, code, options.filter)
            for text in query if where != "" else ():
                found.prepare(text, replace(options, filter=where), told())
        as_code = as_code or holds_code(found.searcher.snapshot)
        _answer(found.searcher, query, found.answerable(options), code if as_code else None, shown)
        _say_how_far(found.searcher.snapshot, f"latewood search {folder} --wait QUERY")


def _tell(line: str) -> None:
    typer.echo(f"note: {line}", err=True)


def _say_how_far(snapshot: Snapshot, remedy: str) -> None:
    if waiting := snapshot.n_unencoded:
        n = len(snapshot)
        typer.echo(f"{n - waiting:,} of {n:,} documents are encoded; {remedy} encodes the rest", err=True)


def _answer(
    searcher: Searcher, query: list[str], options: SearchOptions, code: CodeOptions | None, shown: Shown
) -> None:
    """code: None for documents of any kind."""
    if code is not None:
        print_code(searcher, query, options, code, Printed(shown.as_json, shown.explain))
        return
    if shown.explain and options.mode == "lexical":
        raise ArgumentError("--explain shows token vectors, which words alone have none of; leave it out")
    answers = searcher.search_many({text: text for text in query}, options)
    found = {
        text: [(hit, _explanation(hit) if shown.explain else None) for hit in hits]
        for text, hits in answers.items()
    }
    if shown.as_json:
        as_json = [{"query": text, "hits": [_hit_json(*hit) for hit in hits]} for text, hits in found.items()]
        typer.echo(
            json.dumps(as_json[0]["hits"] if len(found) == 1 else as_json, indent=2, ensure_ascii=False)
        )
        return
    nothing = "" if all(answers.values()) else why_nothing(searcher.snapshot, options)
    for text, some in found.items():
        if len(found) > 1:
            typer.echo(f"# {text}")
        _print(some, nothing)


def _print(found: list[tuple[Hit, Explanation | None]], nothing: str) -> None:
    for hit, explanation in found:
        typer.echo(f"{hit.rank:3d}  {hit.score:8.4f}  {visible(_where(hit))}")
        text = hit.passage.text if hit.passage else ""
        for line in _snippet(text) if explanation is None else _explained(explanation):
            typer.echo(f"       {line}")
    if not found:
        typer.echo(f"no hits: {nothing}")


def _explanation(hit: Hit) -> Explanation | None:
    """None for a document that words found and that has no vectors yet, and for a passage without tokens."""
    try:
        return hit.explain() if math.isfinite(hit.score) else None
    except ArgumentError:
        return None


def _hit_json(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    # JSON has no infinity; a passage without tokens has no score.
    found = asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}
    found["passage"] = None if hit.passage is None else asdict(hit.passage)
    if explanation is not None:
        window = asdict(explanation.best_window()) if explanation.spans else None
        found["explanation"] = {"window": window, "matches": [asdict(m) for m in explanation.matches]}
    return found


def _explained(explanation: Explanation) -> list[str]:
    """The best window's lines, with their numbers and what was matched in colour; then the matches."""
    lines = []
    if any(token.span for token in explanation.passage_tokens):
        window, text = explanation.best_window(), explanation.text
        at, stop = text.rfind("\n", 0, window.start) + 1, text.find("\n", window.stop)
        for number, line in enumerate(text[at : stop if stop >= 0 else None].split("\n"), window.first_line):
            lines.append(f"{number:6d}  {_coloured(line, at, explanation.spans)}")
            at += len(line) + 1
    for match in explanation.matches:
        place = "" if match.line is None else f"  line {match.line}"
        tokens = visible(f"{match.query_token} -> {match.passage_token}")
        lines.append(f"{match.score:6.3f}  {tokens}{place}")
    return lines


def _coloured(line: str, start: int, spans: list[tuple[int, int]]) -> str:
    """A line that begins at character `start` of its text, with what spans cover of it in colour."""
    pieces, done = [], 0
    for first, last in spans:
        a, b = max(first - start, done), min(last - start, len(line))
        if a < b:
            pieces += [
                visible(line[done:a]),
                typer.style(visible(line[a:b]), fg=typer.colors.GREEN, bold=True),
            ]
            done = b
    return "".join(pieces) + visible(line[done:])


def _where(hit: Hit) -> str:
    """path:line for code, as editors and terminals make links of; else the doc_id, with the place of a passage."""
    meta, passage = hit.metadata, hit.passage
    if "path" in meta and "start_line" in meta:
        symbol = f"  {meta['symbol']}" if meta.get("symbol") else ""
        return f"{meta['path']}{cell_of(meta)}:{meta['start_line']}{symbol}"
    if passage is not None and hit.text is not None and len(passage.text) < len(hit.text):
        return f"{hit.doc_id}  lines {passage.first_line}-{passage.last_line}"
    return hit.doc_id


def _snippet(text: str, lines: int = 3, width: int = 100) -> list[str]:
    shown = [line.rstrip() for line in text.splitlines() if line.strip()][:lines]
    return [visible(line if len(line) <= width else line[: width - 1] + "…") for line in shown]
