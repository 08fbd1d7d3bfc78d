"""`latewood search`: queries in, ranked passages out, as lines or as JSON."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS
from retriever.cli.codesearch import CodeOption, LanguageOption, PathOption, RegexOption, cell_of, print_code
from retriever.cli.nothing import why_nothing
from retriever.cli.options import AsJson, Idf, ModeOption, Sharpness, search_mode
from retriever.explaining import Explanation
from retriever.hits import Hit
from retriever.ranking.folding import search_documents
from retriever.searcher import Searcher

__all__ = ["search_command"]


def search_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    query: Annotated[list[str], typer.Argument(help="What to look for; several are answered in turn.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Annotated[
        str | None,
        typer.Option("--filter", help="Only passages whose metadata meet it: \"language = 'python'\"."),
    ] = None,
    mode: ModeOption = "late",
    idf: Idf = True,
    sharpness: Sharpness = SHARPNESS,
    code: CodeOption = False,
    languages: LanguageOption = None,
    paths: PathOption = None,
    regex: RegexOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each query token matched, and where.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search an index. --lang, --path and --regex imply --code.

    Example: latewood search --code src.index "where are sessions expired?" --lang py --path 'src/**'
    """
    chosen_mode = search_mode(mode)
    if explain and chosen_mode == "lexical":
        raise ArgumentError('--explain shows token vectors, which mode "lexical" has none of; leave one out')
    if code or languages or paths or regex is not None:
        if explain:
            raise ArgumentError("--explain and --code show matches each in their own way; leave one out")
        with Searcher.open(folder, idf=idf, sharpness=sharpness) as searcher:
            print_code(searcher, query, k, languages or [], paths or [], regex, where, chosen_mode, as_json)
        return
    with _scipy_hidden(), Searcher.open(folder, idf=idf, sharpness=sharpness) as searcher:
        answers = search_documents(
            searcher, {text: text for text in query}, k=k, filter=where, mode=chosen_mode
        )
        nothing = "" if all(answers.values()) else why_nothing(searcher.index, where, chosen_mode)
        shown = {text: [_explanation(h) if explain else None for h in hits] for text, hits in answers.items()}
    if as_json:
        found = [
            {"query": text, "hits": [_hit_json(h, e) for h, e in zip(hits, shown[text], strict=True)]}
            for text, hits in answers.items()
        ]
        typer.echo(json.dumps(found[0]["hits"] if len(found) == 1 else found, indent=2, ensure_ascii=False))
        return
    for text, hits in answers.items():
        if len(answers) > 1:
            typer.echo(f"# {text}")
        for hit, explanation in zip(hits, shown[text], strict=True):
            typer.echo(f"{hit.rank:3d}  {hit.score:8.4f}  {_where(hit)}")
            snippet = _snippet(hit.text or "") if explanation is None else _explained(explanation)
            for line in snippet:
                typer.echo(f"       {line}")
        if not hits:
            typer.echo(f"no hits: {nothing}")


@contextmanager
def _scipy_hidden() -> Iterator[None]:
    """numba loads scipy's BLAS when it finds it, for matrix products that no kernel here has: 0.2 s or more."""
    hide = "scipy" not in sys.modules
    if hide:
        sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules["scipy"]


def _explanation(hit: Hit) -> Explanation | None:
    # A passage without tokens has nothing to explain.
    return hit.explain() if math.isfinite(hit.score) else None


def _hit_json(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    # JSON has no infinity; a passage without tokens has no score.
    found = asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}
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
        lines.append(f"{match.score:6.3f}  {match.query_token} -> {match.passage_token}{place}")
    return lines


def _coloured(line: str, start: int, spans: list[tuple[int, int]]) -> str:
    """A line that begins at character `start` of its text, with what spans cover of it in colour."""
    pieces, done = [], 0
    for first, last in spans:
        a, b = max(first - start, done), min(last - start, len(line))
        if a < b:
            pieces += [line[done:a], typer.style(line[a:b], fg=typer.colors.GREEN, bold=True)]
            done = b
    return "".join(pieces) + line[done:]


def _where(hit: Hit) -> str:
    """path:line for code, as editors and terminals make links of; else the doc_id, with the best window."""
    meta = hit.metadata
    if "path" in meta and "start_line" in meta:
        symbol = f"  {meta['symbol']}" if meta.get("symbol") else ""
        return f"{meta['path']}{cell_of(meta)}:{meta['start_line']}{symbol}"
    match meta:
        case {"window": int(window), "span": [int(start), int(stop)]}:  # else these keys are the user's own
            return f"{hit.doc_id}  window {window}, characters {start}-{stop}"
    return hit.doc_id


def _snippet(text: str, lines: int = 3, width: int = 100) -> list[str]:
    shown = [line.rstrip() for line in text.splitlines() if line.strip()][:lines]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in shown]
