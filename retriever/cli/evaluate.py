"""`latewood evaluate`: index a test collection, run its queries, measure."""

import json
import math
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from encoder import Encoder
from encoder.errors import ArgumentError
from indexing import Index
from retriever.cli.options import (
    AsJson,
    DocumentLength,
    Model,
    ModeOption,
    PoolFactor,
    Precision,
    Workers,
    parse_document_length,
    search_mode,
)
from retriever.evaluation import METRICS, EvaluationSet, evaluate, write_run
from retriever.searcher import Searcher

__all__ = ["evaluate_command"]


def evaluate_command(
    folder: Annotated[
        Path, typer.Argument(metavar="BEIR_FOLDER", help="corpus.jsonl, queries.jsonl, qrels/.")
    ],
    model: Model = "bundled",
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    k: Annotated[int, typer.Option("-k", min=10, help="Depth of the run; R@100 needs 100.")] = 100,
    index_folder: Annotated[
        Path | None, typer.Option("--index", help="Keep the index here, or use the one that is here.")
    ] = None,
    run_file: Annotated[Path | None, typer.Option("--run", help="Write the run here, in TREC form.")] = None,
    document_length: DocumentLength = None,
    pool_factor: PoolFactor = 1,
    precision: Precision = None,
    workers: Workers = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="Keep vectors as float16 and score all, exactly.")
    ] = False,
    nprobe: Annotated[int | None, typer.Option(min=1, help="Centroids looked up a query token.")] = None,
    nrerank: Annotated[int | None, typer.Option(min=1, help="Passages scored on their residuals.")] = None,
    mode: ModeOption = "late",
    as_json: AsJson = False,
) -> None:
    """Index a BEIR folder, run its queries, print nDCG@10, R@100 and RR@10.

    Example: latewood evaluate ./nfcorpus --run nfcorpus.trec
    """
    chosen_mode = search_mode(mode)
    data = EvaluationSet.load(folder, split)
    arguments: dict[str, Any] = {
        "document_length": parse_document_length(document_length),
        "pool_factor": pool_factor,
        "precision": precision,
        "workers": workers,
    }
    encoder = Encoder.load(model, **arguments)
    settings = encoder.tokenizer.settings
    # BEIR's query lengths are for models that expand queries to that very length. Without expansion a
    # length only cuts, so the longer of the two is meant.
    if settings.do_query_expansion or data.query_length > settings.query_length:
        encoder = Encoder.load(model, **arguments, query_length=data.query_length)
    started = time.perf_counter()
    with (
        nullcontext(index_folder)
        if index_folder
        else tempfile.TemporaryDirectory(prefix="latewood-") as place
    ):
        path = Path(place) / "index" if index_folder is None else index_folder
        info = _index_for_evaluation(path, data, encoder, flat)
        indexed = time.perf_counter()
        with Searcher.open(path, encoder) as searcher:
            depth = k + data.drops_self_hits
            found = searcher.search_many(
                data.queries,
                k=depth,
                mode=chosen_mode,
                nprobe=nprobe,
                nrerank=nrerank,
                show_progress=sys.stderr.isatty(),
            )
    searched = time.perf_counter()
    run = data.drop_self_hits({qid: {h.doc_id: h.score for h in hits} for qid, hits in found.items()})
    run = {qid: {doc: s for doc, s in hits.items() if math.isfinite(s)} for qid, hits in run.items()}
    if run_file is not None:
        write_run(run_file, run)
    result: dict[str, Any] = evaluate(data.qrels, run)
    result |= {
        "dataset": data.name,
        "split": split,
        "queries": len(data.queries),
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
        "precision": encoder.precision,
        "pool_factor": pool_factor,
        "mode": mode,
        "kind": info["kind"],
        "passages": info["passages"],
        "tokens": info["tokens"],
        "bytes_per_token": round(info["bytes_per_token"], 3),
        "index_seconds": round(indexed - started, 2),
        "search_seconds": round(searched - indexed, 2),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for name in METRICS:
        typer.echo(f"{name:8s} {result[name]:.4f}")
    typer.echo(
        f"{data.name} ({split}): {len(data.queries):,} queries, {info['passages']:,} passages, {info['tokens']:,} "
        f"tokens, {info['kind']}, {info['bytes_per_token']:.1f} bytes/token; index {indexed - started:.1f} s, "
        f"search {searched - indexed:.1f} s"
    )


def _index_for_evaluation(path: Path, data: EvaluationSet, encoder: Encoder, flat: bool) -> dict[str, Any]:
    if (path / "index.db").is_file():
        opened = Index.open(path, encoder, writable=True)
    else:
        opened = Index.create(
            path, encoder, **({"flat_tokens": 1 << 40, "segment_tokens": 1 << 40} if flat else {})
        )
    with opened as index:
        index.add(tqdm(data.passages(), unit="passage", desc="index", disable=not sys.stderr.isatty()))
        info = index.info()
    if flat and info["kind"] != "flat":
        raise ArgumentError(f"{path} is {info['kind']}, --flat wants float16 vectors; pass another --index")
    return info
