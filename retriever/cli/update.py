"""`latewood index --update` and `latewood watch`: an index that follows a folder."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder import Encoder
from encoder.errors import ArgumentError, MissingDependencyError
from indexing import Index
from indexing.writing.sources import UpdateReport, update_folder
from retriever.cli.interrupts import index_kept, keeping
from retriever.cli.options import DocumentLength, Memory, Model, encoder_arguments

__all__ = ["Exclude", "update_and_print", "watch_command"]

Exclude = Annotated[list[str] | None, typer.Option(help="Pattern to leave out, as in .gitignore.")]


def update_and_print(
    source: Path, out: Path, model: str, chosen: Mapping[str, Any], exclude: Sequence[str], memory: str | None
) -> None:
    """chosen: what the user asked of the encoder, as arguments of `Encoder.load`."""
    started = time.perf_counter()
    with _open(source, out, model, chosen, memory) as index:
        report = update_folder(index, source, exclude=exclude, show_progress=True)
        if report.changed or report.folder.skipped:
            typer.echo(str(report.folder))
        if report.folder.hint:
            typer.echo(report.folder.hint)
        typer.echo(f"{_summary(report)} in {time.perf_counter() - started:.1f} s")
        typer.echo(f"{out}: {len(index):,} passages, {index.n_tokens:,} tokens")


def _open(source: Path, out: Path, model: str, chosen: Mapping[str, Any], memory: str | None) -> Index:
    if not source.is_dir():
        raise ArgumentError(f"{source} is no folder; pass one, or index a file without --update")
    if not (out / "index.db").is_file():
        return Index.create(out, Encoder.load(model, **chosen), memory=memory)
    index = Index.open(out, writable=True, memory=memory)
    # The index's own encoder, which it loads when there is something to encode, unless another is meant.
    if model == index.encoder_name and not chosen:
        return index
    index.close()
    return Index.open(out, Encoder.load(model, **chosen), writable=True, memory=memory)


def _summary(report: UpdateReport) -> str:
    added = report.added
    return (
        f"{report.unchanged:,} files unchanged, {report.changed:,} read, {report.gone:,} gone; passages: "
        f"{added.added:,} added, {added.replaced:,} replaced, {report.renamed:,} renamed, "
        f"{report.deleted:,} deleted; {added.tokens:,} tokens"
    )


def watch_command(
    source: Annotated[Path, typer.Argument(help="A folder of text or code.")],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: Model = "bundled",
    document_length: DocumentLength = None,
    memory: Memory = None,
    exclude: Exclude = None,
    debounce: Annotated[
        int, typer.Option(min=50, help="Milliseconds to wait for more changes, at most.")
    ] = 1600,
) -> None:
    """Keep an index up to date with a folder, as `latewood index --update` does, whenever a file changes.
    Stops at Ctrl-C.

    Example: latewood watch ./src --out src.index
    """
    try:
        import watchfiles
    except ImportError as error:
        raise MissingDependencyError(
            "watch needs watchfiles, which is not installed; pip install 'latewood[watch]'"
        ) from error
    own = str(out.resolve())
    ordinary = watchfiles.DefaultFilter()

    def wanted(change: watchfiles.Change, path: str) -> bool:
        # Our own writing, where the index lies in the folder, is no change of the folder.
        return path != own and not path.startswith(own + "/") and ordinary(change, path)

    chosen = encoder_arguments(document_length)
    with keeping(lambda: f"stopped watching; {index_kept(out)}"):
        update_and_print(source, out, model, chosen, exclude or [], memory)
        typer.echo(f"watching {source}; Ctrl-C ends it")
        for _ in watchfiles.watch(source, watch_filter=wanted, debounce=debounce, step=50):
            # Closed again after each update, so that other writers get their turn.
            with _open(source, out, model, chosen, memory) as index:
                report = update_folder(index, source, exclude=exclude or [])
            if report.changed or report.gone:
                typer.echo(f"{datetime.now():%H:%M:%S}  {_summary(report)}")
