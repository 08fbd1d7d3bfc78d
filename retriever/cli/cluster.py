"""`latewood cluster`: an index of more than one machine, by Ray."""

import math
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from encoder.errors import ArgumentError
from retriever.cli.flags import flags
from retriever.cli.options import ModelOptions, SourceOptions, WindowOptions
from retriever.cli.progress import told
from retriever.cluster.options import BuildOptions
from retriever.cluster.settings import ClusterSettings
from retriever.options import Scoring
from retriever.serving.settings import Limits, ServeSettings, named_folders

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Build an index of shards, and serve it, on several machines.")


@app.callback()
def _cluster() -> None:
    """Build an index of shards, and serve it, on the machines of a Ray cluster."""


@app.command("build")
@flags("allow_empty", "memory", "workers", "device")
def build_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=".jsonl or .parquet files, also as URLs or patterns; folders of text or code.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The index folder, which all machines see.")],
    options: BuildOptions,
    model: ModelOptions,
    windows: WindowOptions,
    reading: SourceOptions,
) -> None:
    """Build an index of shards; it takes the place of what was there in one step. Run again after any failure, it goes
    on from what was stored.

    Example: latewood cluster build corpus.jsonl --out docs.index --shards 4 --address local
    """
    from retriever.cluster.joining import joined

    with joined(options.address, (options.actors or 1) * options.cpus):
        from retriever.cluster.build import build

        settings = model.windows(windows) | reading.size
        encoder = model.load(windows)
        report = build(sources, out, encoder, options, exclude=reading.exclude, progress=told(), **settings)
    typer.echo(
        f"{out}: version {report.version}, {report.documents:,} documents in {options.shards:,} shards; "
        f"{report.encoded:,} encoded, {report.tokens:,} tokens"
    )


@app.command("serve")
@flags("writable")
def serve_command(
    folder: Annotated[
        str, typer.Argument(metavar="[NAME=]DIR", help="An index, of shards or not, which all machines see.")
    ],
    settings: ServeSettings,
    cluster: ClusterSettings,
    scoring: Scoring,
    limits: Limits,
) -> None:
    """Serve an index over HTTP from the machines of a Ray cluster, with the routes of `latewood serve`, for reading.
    Ctrl-C or SIGTERM ends it.

    Example: latewood cluster serve docs.index --replicas 2
    """
    from retriever.cluster.joining import joined, ray_module

    ray_module(serving=True)
    from retriever.cluster.deployments import serving, shards_of

    indexes = named_folders([folder])
    [place] = indexes.values()
    shards, port = shards_of(place), settings.port
    if not port:
        raise ArgumentError("port=0; pass the port that the machines of the cluster are to listen on")
    settings = replace(settings, indexes=indexes, scoring=scoring, limits=limits)
    processes = shards * cluster.replicas + cluster.routers
    ended = threading.Event()
    with joined(cluster.address, math.ceil(processes * cluster.cpus)):
        # Ray's own handler ends the cluster first, and what is told to stop then waits for it for ever.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with serving(settings, cluster):
            signal.signal(signal.SIGTERM, lambda *_: ended.set())
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            typer.echo(f"{shards:,} shards, {processes:,} processes")
            typer.echo(f"serving on http://{host}:{port}; Ctrl-C ends it")
            ended.wait()
