"""`latewood search --code`: path:line, symbol and the lines that matter, or JSON for editors and agents."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from retriever.cli.nothing import why_nothing
from retriever.code.search import CodeHit, MatchedLine, search_code
from retriever.searcher import Mode, Searcher

__all__ = ["CodeOption", "LanguageOption", "PathOption", "RegexOption", "cell_of", "print_code"]

WIDTH = 160

CodeOption = Annotated[
    bool, typer.Option("--code", help="Print hits as path:line, symbol and matching lines.")
]
LanguageOption = Annotated[
    list[str] | None, typer.Option("--lang", help="Only this language: a name or an extension. Repeatable.")
]
PathOption = Annotated[
    list[str] | None,
    typer.Option(
        "--path", help="Only these paths, as in .gitignore: 'src/**', '*.py', '!tests/'. Repeatable."
    ),
]
RegexOption = Annotated[
    str | None, typer.Option("--regex", help="Only passages whose text matches, ranked by meaning.")
]


def print_code(
    searcher: Searcher,
    queries: Sequence[str],
    k: int,
    languages: Sequence[str],
    paths: Sequence[str],
    regex: str | None,
    where: str | None,
    mode: Mode,
    as_json: bool,
) -> None:
    answers = {
        text: search_code(
            searcher, text, k=k, languages=languages, paths=paths, regex=regex, filter=where, mode=mode
        )
        for text in queries
    }
    if as_json:
        found = [{"query": text, "hits": [_json(hit) for hit in hits]} for text, hits in answers.items()]
        typer.echo(json.dumps(found[0]["hits"] if len(found) == 1 else found, indent=2, ensure_ascii=False))
        return
    for text, hits in answers.items():
        if len(answers) > 1:
            typer.echo(f"# {text}")
        for hit in hits:
            for line in _printed(hit):
                typer.echo(line)
        if not hits:
            if len(searcher.index) and (languages or paths or regex is not None):
                typer.echo("no hits: no passage is in that language, at that path, with that text")
            else:
                typer.echo(f"no hits: {why_nothing(searcher.index, where, mode)}")


def _json(hit: CodeHit) -> dict[str, object]:
    return asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}


def cell_of(metadata: Mapping[str, Any]) -> str:
    """Of a notebook, whose line numbers count from the beginning of a cell."""
    return f":cell {metadata['cell']}" if isinstance(metadata.get("cell"), int) else ""


def _printed(hit: CodeHit) -> list[str]:
    where = (
        typer.style(hit.path + cell_of(hit.metadata), fg="magenta")
        + ":"
        + typer.style(str(hit.line), fg="green")
    )
    symbol = "  " + typer.style(hit.symbol, bold=True) if hit.symbol else ""
    return [f"{where}{symbol}  ({hit.score:.2f})", *(_line(line) for line in hit.lines)]


def _line(line: MatchedLine) -> str:
    shown, at = "", 0
    for start, end in line.spans:
        if start >= WIDTH:
            break
        shown += line.text[at:start] + typer.style(line.text[start : min(end, WIDTH)], fg="red", bold=True)
        at = min(end, WIDTH)
    shown += line.text[at:WIDTH] + ("…" if len(line.text) > WIDTH else "")
    return f"{typer.style(f'{line.line:6d}', fg='green')}  {shown}"
