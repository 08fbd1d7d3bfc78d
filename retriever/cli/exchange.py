"""`latewood import` and `latewood export`: vectors from other programs, and to them."""

from pathlib import Path
from typing import Annotated

import typer

from indexing import Index
from indexing.exchange.opening import export_vectors
from retriever.cli.flags import flags
from retriever.cli.interrupts import index_kept, keeping
from retriever.cli.progress import told
from retriever.importing import ImportOptions, import_index

__all__ = ["export_command", "import_command"]


@flags()
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="An index of ColBERT, RAGatouille, fast-plaid, PyLate or xtr-warp-rs; a .safetensors, .parquet or "
            ".arrow file; a folder with vectors.npy and offsets.npy."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    asked: ImportOptions,
) -> None:
    """Make an index of vectors that exist. Nothing is encoded; an interrupted run is simply run again.

    Example: latewood import vectors.parquet --out docs.index --texts corpus.jsonl
    """
    with keeping(lambda: index_kept(out)):
        report = import_index(source, out, asked, progress=told())
    typer.echo(
        f"{out}: {report.documents:,} documents, {report.passages:,} passages, {report.tokens:,} tokens, "
        f"from {report.kind}"
    )
    if report.recall is not None:
        typer.echo(
            f"{report.recall:.3f} of the ten best by the source's own scores are found, by tokens of its own"
        )
    if report.textless:
        typer.echo(f"{report.textless:,} documents have no text; pass --texts with the corpus to keep them")
    for note in report.notes:
        typer.echo(f"note: {note}")


def export_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    out: Annotated[
        Path,
        typer.Option(
            help="A new .safetensors, .parquet, .arrow or .feather file, else a folder of .npy files."
        ),
    ],
    filter: Annotated[
        str | None, typer.Option(help="Only documents that meet a condition on their metadata.")
    ] = None,
) -> None:
    """Write an index's documents with their vectors, for other programs or for `latewood import`.

    Example: latewood export docs.index --out vectors.parquet
    """
    with Index.open(folder) as index:
        n = export_vectors(index, out, filter=filter)
    typer.echo(f"{out}: {n:,} documents")
