"""`latewood index` makes or grows an index; `latewood info` says what one holds."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from encoder import Encoder
from indexing import Index
from indexing.corpus import FolderReport, read_source
from retriever.cli.options import AsJson, DocumentLength, Model

__all__ = ["index_command", "info_command"]


def index_command(
    source: Annotated[
        Path, typer.Argument(help="A .jsonl file, a BEIR folder, or a folder of text or code.")
    ],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: Model = "bundled",
    document_length: DocumentLength = None,
    memory: Annotated[
        str | None, typer.Option(help="About the most memory to take, as in 2GB, however large the corpus.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern to leave out, as in .gitignore.")] = None,
) -> None:
    """Index a corpus. Into an index that exists, passages are added or replaced by their ids, and those
    that have not changed cost nothing: an interrupted run is simply run again.

    Example: latewood index ./src --out src.index
    """
    report = FolderReport()
    passages = read_source(source, report=report, exclude=exclude or [])
    encoder = Encoder.load(model, document_length=document_length)
    exists = (out / "index.db").is_file()
    opened = (
        Index.open(out, encoder, writable=True, memory=memory)
        if exists
        else Index.create(out, encoder, memory=memory)
    )
    with opened as index:
        started = time.perf_counter()
        added = index.add(passages, show_progress=sys.stderr.isatty())
        seconds = time.perf_counter() - started
        if report.files:
            typer.echo(str(report))
        typer.echo(
            f"{added.added:,} passages added, {added.replaced:,} replaced, {added.unchanged:,} unchanged; "
            f"{added.tokens:,} tokens in {seconds:.1f} s"
        )
        if added.truncated:
            typer.echo(
                f"{added.truncated:,} passages were longer than {encoder.document_length} tokens and were cut; "
                "pass --document-length to keep more"
            )
        typer.echo(f"{out}: {len(index):,} passages, {index.n_tokens:,} tokens")


def info_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an index holds and what it takes on disk.

    Example: latewood info src.index --verify
    """
    with Index.open(folder) as index:
        if verify:
            index.verify()
        info = index.info()
    if as_json:
        typer.echo(json.dumps(info, indent=2))
        return
    for key, value in info.items():
        if key == "bytes":
            value = ", ".join(f"{part} {n:,}" for part, n in value.items() if n)
        elif isinstance(value, float):
            value = f"{value:.2f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        typer.echo(f"{key:20s} {value}")
    if verify:
        typer.echo(f"{'verified':20s} every file is as it was written")
