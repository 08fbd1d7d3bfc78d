"""`latewood estimate`: tokens, time, disk and memory of a build, before it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from encoder.progress import Progress
from indexing.reading.corpus import read_source
from indexing.writing.estimate import estimate
from retriever.cli.flags import flags
from retriever.cli.options import AsJson, ModelOptions, SourceOptions, WindowOptions
from retriever.cli.progress import told
from retriever.cluster.sizes import ClusterOptions, ClusterSizes, cluster_sizes

__all__ = ["estimate_command"]


@flags("allow_empty")
def estimate_command(
    source: Annotated[
        Path, typer.Argument(help="A .jsonl file, a BEIR folder, or a folder of text or code.")
    ],
    model: ModelOptions,
    windows: WindowOptions,
    reading: SourceOptions,
    cluster: ClusterOptions,
    as_json: AsJson = False,
) -> None:
    """Say what `latewood index` with these options would take: it reads the source, encodes a sample, keeps nothing.
    With --shards or --machines also what a cluster would (docs/guides/cluster.md).

    Example: latewood estimate ./src --document-length 1024
    """
    documents = read_source(source, exclude=reading.exclude)
    encoder = model.load(windows)
    try:
        encoder.encode_documents(["a text"])  # loads what the first call loads
        with Progress(documents, phase="estimating", unit="document", told=told()) as bar:
            found = estimate(
                bar,
                encoder,
                reading.memory,
                resident=_resident,
                whole=cluster.whole,
                **model.windows(windows),
                **reading.size,
            )
    finally:
        encoder.close()
    sizes = cluster_sizes(found, cluster, encoder.dim)
    if as_json:
        told_too = {"seconds": found.seconds} | ({} if sizes is None else {"cluster": asdict(sizes)})
        typer.echo(json.dumps(asdict(found) | told_too, indent=2))
        return
    typer.echo(f"{found.documents:,} documents, about {found.tokens:,} token vectors")
    kind = "kept as float16" if found.nlist is None else f"coded with {found.nlist:,} centroids"
    typer.echo(
        f"time    {found.seconds:,.0f} s on this machine as busy as it is now "
        f"(encoding {found.encode_seconds:,.0f}, indexing {found.index_seconds:,.0f})"
    )
    typer.echo(
        f"disk    {found.disk_bytes / 1e6:,.1f} MB, {kind}; {found.disk_peak_bytes / 1e6:,.1f} MB meanwhile"
    )
    typer.echo(f"memory  {found.memory_bytes / 1e6:,.0f} MB")
    for size in found.sizes:
        kept = "" if size.recall is None else f", recall {size.recall:.3f} of exact scores in a sample"
        typer.echo(
            f"with --bytes-per-token {size.bytes_per_token}: disk {size.disk_bytes / 1e6:,.1f} MB{kept}"
        )
    if sizes is not None:
        _tell(sizes)


def _tell(sizes: ClusterSizes) -> None:
    typer.echo(
        f"as {sizes.shards:,} shards, each {sizes.replicas:,} times, on {sizes.machines:,} machines like this:"
    )
    typer.echo(f"time    {sizes.build_seconds:,.0f} s to build")
    typer.echo(
        f"shard   {sizes.shard_tokens:,} token vectors, {sizes.shard_bytes / 1e6:,.1f} MB; "
        f"a machine answers for {sizes.processes:,}"
    )
    typer.echo(
        f"memory  {sizes.memory_bytes / 1e6:,.0f} MB a machine, {sizes.disk_bytes / 1e6:,.0f} MB of it files"
    )
    typer.echo(
        f"query   {sizes.query_ms:,.0f} ms when nothing else is asked; {sizes.queries_per_second:,.0f} a second; "
        f"{sizes.query_bytes / 1e3:,.0f} kB between machines for each"
    )


def _resident() -> int:
    """Bytes of memory that this process has, where the system tells; else what memory.py sets aside."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
    except (OSError, StopIteration):
        from indexing.writing.memory import BASE, ENCODER

        return BASE + ENCODER
