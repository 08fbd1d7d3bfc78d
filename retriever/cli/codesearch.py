"""`latewood search --code`: path:line, symbol and the lines that matter, or JSON for editors and agents."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import typer

from encoder.errors import ArgumentError
from retriever.cli.nothing import why_nothing
from retriever.cli.terminal import visible
from retriever.code.search import CodeHit, CodeOptions, MatchedLine, cell_of, search_code
from retriever.options import SearchOptions
from retriever.searcher import Searcher

__all__ = ["Printed", "print_code"]

WIDTH = 160


@dataclass(frozen=True)
class Printed:
    """How hits are printed. explain: with what their scores add up from; JSON always has it."""

    as_json: bool = False
    explain: bool = False


def print_code(
    searcher: Searcher, queries: Sequence[str], options: SearchOptions, code: CodeOptions, printed: Printed
) -> None:
    if printed.explain and code.plain:
        raise ArgumentError("--explain of code shows its rules, which --plain leaves out; leave one out")
    answers = {text: search_code(searcher, text, options, code) for text in queries}
    if printed.as_json:
        found = [{"query": text, "hits": [_json(hit) for hit in hits]} for text, hits in answers.items()]
        typer.echo(json.dumps(found[0]["hits"] if len(found) == 1 else found, indent=2, ensure_ascii=False))
        return
    for text, hits in answers.items():
        if len(answers) > 1:
            typer.echo(f"# {text}")
        for hit in hits:
            for line in _printed(hit, printed.explain):
                typer.echo(line)
        if not hits:
            if len(searcher.snapshot) and code != CodeOptions():
                typer.echo("no hits: no document is in that language, at that path, with that text")
            else:
                typer.echo(f"no hits: {why_nothing(searcher.snapshot, options)}")


def _json(hit: CodeHit) -> dict[str, object]:
    return asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}


def _printed(hit: CodeHit, explain: bool) -> list[str]:
    path = typer.style(visible(hit.path + cell_of(hit.metadata)), fg="magenta")
    where = path + ":" + typer.style(str(hit.line), fg="green")
    symbol = "  " + typer.style(visible(hit.symbol), bold=True) if hit.symbol else ""
    why = ", ".join(f"{name} {value:+.2f}" for name, value in hit.reasons.items())
    lines = [f"{where}{symbol}  ({hit.score:.2f})", *(_line(line) for line in hit.lines)]
    return [*lines, f"   why  {why}"] if explain else lines


def _line(line: MatchedLine) -> str:
    shown, at = "", 0
    for start, end in line.spans:
        if start >= WIDTH:
            break
        found = visible(line.text[start : min(end, WIDTH)])
        shown += visible(line.text[at:start]) + typer.style(found, fg="red", bold=True)
        at = min(end, WIDTH)
    shown += visible(line.text[at:WIDTH]) + ("…" if len(line.text) > WIDTH else "")
    return f"{typer.style(f'{line.line:6d}', fg='green')}  {shown}"
