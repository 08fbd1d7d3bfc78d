"""`latewood index --update` and `latewood watch`: an index that follows a folder."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import ArgumentError, CorpusError, IndexLockedError, MissingDependencyError
from encoder.progress import Told
from indexing import Index
from indexing.storage.tables import is_index
from indexing.writing.sources import UpdateReport, update_folder
from retriever.cli.flags import flags
from retriever.cli.interrupts import index_kept, keeping
from retriever.cli.options import ModelOptions, SourceOptions, WindowOptions
from retriever.cli.progress import told

__all__ = ["Following", "open_index", "watch_command"]

WAIT_SECONDS = 1.0


def open_index(out: Path, model: ModelOptions, windows: WindowOptions, reading: SourceOptions) -> Index:
    """The index there, or a new one, for writing."""
    memory = reading.memory
    if not is_index(out):
        settings = model.windows(windows) | reading.size
        return Index.create(out, model.load(windows), memory=memory, device=model.building, **settings)
    index = Index.open(out, writable=True, memory=memory)
    there, asked = index.settings, model.windows(windows)
    if windows != WindowOptions() and (there.window, there.overlap) != tuple(asked.values()):
        index.close()
        raise ArgumentError(
            f"{out} was made with --window {there.window} --overlap {there.overlap}; leave them out, or index anew"
        )
    if reading.bytes_per_token not in (None, there.bytes_per_token):
        index.close()
        raise ArgumentError(
            f"{out} was made with --bytes-per-token {there.bytes_per_token}; leave it out, or index anew"
        )
    # The index's own encoder, which it loads when there is something to encode, unless another is meant.
    if model.model == index.encoder_name and not model.arguments(windows):
        return index
    index.close()
    return Index.open(out, model.load(windows), writable=True, memory=memory, device=model.building)


@dataclass(frozen=True)
class Following:
    """What was asked for."""

    source: Path
    out: Path
    model: ModelOptions
    windows: WindowOptions
    reading: SourceOptions

    def open(self) -> Index:
        if not self.source.is_dir():
            raise ArgumentError(f"{self.source} is no folder; pass one, for a file is not followed")
        return open_index(self.out, self.model, self.windows, self.reading)

    def open_when_free(self) -> Index:
        told = False
        while True:
            try:
                return self.open()
            except IndexLockedError as error:
                if not told:
                    typer.echo(f"waiting: {error}", err=True)
                told = True
                time.sleep(WAIT_SECONDS)

    def update(self, index: Index, *, progress: Told | None = None) -> UpdateReport:
        return update_folder(
            index,
            self.source,
            exclude=self.reading.exclude,
            allow_empty=self.reading.allow_empty,
            tell=lambda line: typer.echo(f"{self.out}: {line}", err=True),
            progress=progress,
        )

    def update_and_print(self, index: Index) -> None:
        started = time.perf_counter()
        report = self.update(index, progress=told())
        if report.changed or report.folder.skipped:
            typer.echo(str(report.folder))
        if report.folder.hint:
            typer.echo(report.folder.hint)
        typer.echo(f"{_summary(report)} in {time.perf_counter() - started:.1f} s")
        typer.echo(f"{self.out}: {len(index):,} documents, {index.n_tokens:,} tokens")


def _summary(report: UpdateReport) -> str:
    added = report.added
    return (
        f"{report.unchanged:,} files unchanged, {report.changed:,} read, {report.gone:,} gone; documents: "
        f"{added.added:,} added, {added.replaced:,} replaced, {report.renamed:,} renamed, "
        f"{report.deleted:,} deleted; {added.tokens:,} tokens"
    )


@flags()
def watch_command(
    source: Annotated[Path, typer.Argument(help="A folder of text or code.")],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: ModelOptions,
    windows: WindowOptions,
    reading: SourceOptions,
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

    asked = Following(source.absolute(), out.absolute(), model, windows, reading)
    with keeping(lambda: f"stopped watching; {index_kept(out)}"):
        with asked.open_when_free() as index:
            asked.update_and_print(index)
        typer.echo(f"watching {source}; Ctrl-C ends it")
        looked = False
        for changes in watchfiles.watch(
            source, watch_filter=wanted, debounce=debounce, step=50, rust_timeout=1000, yield_on_timeout=True
        ):
            # Once in any case: what changed while the folder was read was not watched.
            if changes or not looked:
                _update(asked)
                looked = True


def _update(asked: Following) -> None:
    try:
        # Closed again after each update, so that other writers get their turn.
        with asked.open_when_free() as index:
            report = asked.update(index)
    except (CorpusError, ArgumentError) as error:  # the folder is empty or not there at present
        typer.echo(f"{datetime.now():%H:%M:%S}  {error}", err=True)
        return
    unreadable = len(report.folder.unreadable)
    if report.changed or report.gone or unreadable:
        named = f"; {report.folder}" if unreadable else ""
        typer.echo(f"{datetime.now():%H:%M:%S}  {_summary(report)}{named}")
