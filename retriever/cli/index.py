"""`latewood index` makes or grows an index; `latewood info` says what one holds."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from encoder import Encoder
from encoder.errors import ArgumentError
from indexing import Index
from indexing.reading.corpus import FolderReport, read_source
from indexing.reading.windows import Windows
from retriever.cli.interrupts import index_kept, keeping
from retriever.cli.options import (
    AsJson,
    DocumentLength,
    Memory,
    Model,
    Overlap,
    PoolFactor,
    Precision,
    Window,
    Workers,
    encoder_arguments,
    windows_argument,
)
from retriever.cli.update import AllowEmpty, Exclude, Following

__all__ = ["compact_command", "index_command", "info_command"]


def index_command(
    source: Annotated[
        Path, typer.Argument(help="A .jsonl file, a BEIR folder, or a folder of text or code.")
    ],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: Model = "bundled",
    document_length: DocumentLength = None,
    pool_factor: PoolFactor = 1,
    precision: Precision = None,
    workers: Workers = None,
    memory: Memory = None,
    exclude: Exclude = None,
    window: Window = None,
    overlap: Overlap = 0,
    update: Annotated[
        bool, typer.Option("--update", help="Follow a folder: read what changed, drop what is gone.")
    ] = False,
    allow_empty: AllowEmpty = False,
) -> None:
    """Index a corpus. Into an index that exists, passages are added or replaced by their ids, and those
    that have not changed cost nothing: an interrupted run is simply run again.

    Example: latewood index ./src --out src.index
    """
    chosen = encoder_arguments(document_length, pool_factor, precision, workers, window)
    wanted = windows_argument(window, document_length)
    if overlap and window is None:
        raise ArgumentError(f"--overlap {overlap} is of windows; pass --window too, or leave it out")
    if update and window is not None:
        raise ArgumentError("--window is for JSONL and BEIR, --update for folders; pass one of them")
    if allow_empty and not update:
        raise ArgumentError("--allow-empty is of --update, which alone deletes; pass both, or leave it out")
    with keeping(lambda: index_kept(out)):
        if update:
            asked = Following(source, out, model, chosen, memory, exclude or [], allow_empty)
            with asked.open() as index:
                asked.update_and_print(index)
            return
        report = FolderReport()
        passages = read_source(source, report=report, exclude=exclude or [])
        encoder = Encoder.load(model, **chosen)
        exists = (out / "index.db").is_file()
        opened = (
            Index.open(out, encoder, writable=True, memory=memory)
            if exists
            else Index.create(out, encoder, memory=memory)
        )
        with opened as index:
            started = time.perf_counter()
            if windows := Windows.chosen(encoder.tokenizer, wanted, overlap):
                passages = windows.cut(passages)
            added = index.add(passages, show_progress=True)
            if windows and exists:
                windows.drop_stale(index)
            seconds = time.perf_counter() - started
            if report.files:
                typer.echo(str(report))
            if report.hint:
                typer.echo(report.hint)
            typer.echo(
                f"{added.added:,} passages added, {added.replaced:,} replaced, {added.unchanged:,} unchanged; "
                f"{added.tokens:,} tokens in {seconds:.1f} s"
            )
            if added.truncated:
                typer.echo(
                    f"{added.truncated:,} passages were longer than {encoder.document_length} tokens and were cut; "
                    "leave --document-length out, or pass --window, to keep all"
                )
            elif windows and (n := windows.n_cut):
                longer = encoder.document_length if windows.whole else windows.window
                typer.echo(
                    f"{n:,} documents were longer than {longer:,} tokens and are stored in windows of "
                    f"{windows.window:,}"
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
            index.verify(show_progress=True)
        info = index.info()
    if as_json:
        typer.echo(json.dumps(info, indent=2))
        return
    for key, value in info.items():
        if isinstance(value, dict):
            value = ", ".join(f"{part} {n:,}" for part, n in value.items() if n)
        elif isinstance(value, float):
            value = f"{value:.2f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        typer.echo(f"{key:20s} {value}")
    if verify:
        typer.echo(f"{'verified':20s} every file is as it was written")


def compact_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
) -> None:
    """Rewrite an index without its deleted passages, in few segments. Takes as much free disk as the index.

    Where the corpus has outgrown its centroids they are trained anew on what is stored, which costs a little
    precision; indexing everything anew does not.

    Example: latewood compact src.index
    """
    with keeping(lambda: index_kept(folder)), Index.open(folder, writable=True) as index:
        before = index.info()
        index.compact(show_progress=True)
        after = index.info()
    sizes = [f"{sum(i['bytes'].values()):,} bytes, {i['segments']:,} segments" for i in (before, after)]
    typer.echo(f"{folder}: {sizes[0]} before, {sizes[1]} now; {after['passages']:,} passages")
