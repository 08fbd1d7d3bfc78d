"""`latewood search`: queries in, ranked passages out, as lines or as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from retriever.cli.codesearch import CodeOption, LanguageOption, PathOption, RegexOption, print_code
from retriever.cli.options import AsJson, ModeOption, search_mode
from retriever.folding import search_documents
from retriever.searcher import Hit, Searcher

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
    code: CodeOption = False,
    languages: LanguageOption = None,
    paths: PathOption = None,
    regex: RegexOption = None,
    as_json: AsJson = False,
) -> None:
    """Search an index. --lang, --path and --regex imply --code.

    Example: latewood search --code src.index "where are sessions expired?" --lang py --path 'src/**'
    """
    chosen_mode = search_mode(mode)
    if code or languages or paths or regex is not None:
        print_code(folder, query, k, languages or [], paths or [], regex, where, chosen_mode, as_json)
        return
    with Searcher.open(folder) as searcher:
        answers = search_documents(
            searcher, {text: text for text in query}, k=k, filter=where, mode=chosen_mode
        )
    if as_json:
        found = [{"query": text, "hits": [_hit_json(h) for h in hits]} for text, hits in answers.items()]
        typer.echo(json.dumps(found[0]["hits"] if len(found) == 1 else found, indent=2, ensure_ascii=False))
        return
    for text, hits in answers.items():
        if len(answers) > 1:
            typer.echo(f"# {text}")
        for hit in hits:
            typer.echo(f"{hit.rank:3d}  {hit.score:8.4f}  {_where(hit)}")
            for line in _snippet(hit.text or ""):
                typer.echo(f"       {line}")
        if not hits:
            typer.echo("no hits: " + ("nothing meets the filter" if where else "the index is empty"))


def _hit_json(hit: Hit) -> dict[str, Any]:
    # JSON has no infinity; a passage without tokens has no score.
    return asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}


def _where(hit: Hit) -> str:
    """path:line for code, as editors and terminals make links of; else the doc_id, with the best window."""
    meta = hit.metadata
    if "path" in meta and "start_line" in meta:
        symbol = f"  {meta['symbol']}" if meta.get("symbol") else ""
        return f"{meta['path']}:{meta['start_line']}{symbol}"
    if "window" in meta and "span" in meta:
        return "{}  window {}, characters {}-{}".format(hit.doc_id, meta["window"], *meta["span"])
    return hit.doc_id


def _snippet(text: str, lines: int = 3, width: int = 100) -> list[str]:
    shown = [line.rstrip() for line in text.splitlines() if line.strip()][:lines]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in shown]
