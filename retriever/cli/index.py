"""`latewood index` makes or grows an index; `latewood info` says what one holds."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import ArgumentError
from indexing import Index
from indexing.reading.corpus import FolderReport, read_source
from indexing.storage.tables import is_index
from retriever.cli.flags import flags
from retriever.cli.interrupts import index_kept, keeping
from retriever.cli.options import AsJson, ModelOptions, SourceOptions, WindowOptions
from retriever.cli.progress import told
from retriever.cli.update import Following, open_index
from retriever.folders import cache_of

__all__ = ["compact_command", "index_command", "info_command"]


@flags()
def index_command(
    source: Annotated[
        Path, typer.Argument(help="A .jsonl file, a BEIR folder, or a folder of text or code.")
    ],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: ModelOptions,
    windows: WindowOptions,
    reading: SourceOptions,
    update: Annotated[
        bool, typer.Option("--update", help="Follow a folder: read what changed, drop what is gone.")
    ] = False,
) -> None:
    """Index a corpus. Into an index that exists, documents are added or replaced by their ids, and those
    that have not changed cost nothing: an interrupted run is simply run again.

    Example: latewood index ./src --out src.index
    """
    if reading.allow_empty and not update:
        raise ArgumentError("--allow-empty is of --update, which alone deletes; pass both, or leave it out")
    with keeping(lambda: index_kept(out)):
        if update:
            asked = Following(source, out, model, windows, reading)
            with asked.open() as index:
                asked.update_and_print(index)
            return
        report = FolderReport()
        documents = read_source(source, report=report, exclude=reading.exclude)
        with open_index(out, model, windows, reading) as index:
            started = time.perf_counter()
            added = index.add(documents, progress=told())
            seconds = time.perf_counter() - started
            if report.files:
                typer.echo(str(report))
            if report.hint:
                typer.echo(report.hint)
            typer.echo(
                f"{added.added:,} documents added, {added.replaced:,} replaced, {added.unchanged:,} unchanged; "
                f"{added.tokens:,} tokens in {seconds:.1f} s"
            )
            if added.truncated:
                typer.echo(
                    f"{added.truncated:,} documents were longer than the model reads and were cut; "
                    "leave --document-length out, or pass --window, to keep all"
                )
            elif added.windowed:
                typer.echo(f"{added.windowed:,} documents were long and are stored in several passages each")
            typer.echo(f"{out}: {len(index):,} documents, {index.n_tokens:,} tokens")


def info_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an index holds and what it takes on disk.

    Example: latewood info src.index --verify
    """
    place = folder if is_index(folder) or not folder.is_dir() else cache_of(folder)
    if place != folder and not is_index(place):
        raise ArgumentError(
            f"{folder} is no index, and the cache has none of it ({place}); latewood search {folder} QUERY makes one"
        )
    with Index.open(place) as index:
        if verify:
            index.verify(progress=told())
        info = {"folder": str(index.folder)} | index.info()
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
    """Rewrite an index without its deleted documents, in few segments. Takes as much free disk as the index.

    Where the corpus has outgrown its centroids they are trained anew on what is stored, which costs a little
    precision; indexing everything anew does not.

    Example: latewood compact src.index
    """
    with keeping(lambda: index_kept(folder)), Index.open(folder, writable=True) as index:
        before = index.info()
        index.compact(progress=told())
        after = index.info()
    sizes = [f"{sum(i['bytes'].values()):,} bytes, {i['segments']:,} segments" for i in (before, after)]
    typer.echo(f"{folder}: {sizes[0]} before, {sizes[1]} now; {after['documents']:,} documents")
