"""The `latewood` command. A user's mistake is one line on standard error and exit code 2."""

import json
import math
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from tqdm import tqdm

from encoder import Encoder, LatewoodError
from encoder.doctor import examine
from encoder.errors import ArgumentError
from encoder.training.cli import app as train_app
from indexing import Index
from indexing.corpus import FolderReport, read_source
from retriever.evaluation import METRICS, EvaluationSet, evaluate, write_run
from retriever.searcher import Hit, Mode, Searcher

__all__ = ["app", "main"]

app = typer.Typer(
    name="latewood",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Late-interaction retrieval: index text or code, search it by meaning, measure it.",
)
app.add_typer(train_app, name="train")

Model = Annotated[str, typer.Option(help='"bundled", a model folder, or a hub name.')]
DocumentLength = Annotated[
    int | None, typer.Option(min=8, help="Tokens kept of a passage; the model's own by default.")
]
ModeOption = Annotated[
    str, typer.Option(help="late (token vectors), lexical (BM25), or hybrid (both, fused by rank).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("index")
def index_command(
    source: Annotated[
        Path, typer.Argument(help="A .jsonl file, a BEIR folder, or a folder of text or code.")
    ],
    out: Annotated[Path, typer.Option(help="The index folder.")],
    model: Model = "bundled",
    document_length: DocumentLength = None,
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
    with Index.open(out, encoder, writable=True) if exists else Index.create(out, encoder) as index:
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


@app.command("search")
def search_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An index folder.")],
    query: Annotated[list[str], typer.Argument(help="What to look for; several are answered in turn.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Annotated[
        str | None,
        typer.Option("--filter", help="Only passages whose metadata meet it: \"language = 'python'\"."),
    ] = None,
    mode: ModeOption = "late",
    as_json: AsJson = False,
) -> None:
    """Search an index.

    Example: latewood search src.index "parse an ISO date" -k 5
    """
    chosen_mode = search_mode(mode)
    with Searcher.open(folder) as searcher:
        answers = {text: searcher.search(text, k=k, filter=where, mode=chosen_mode) for text in query}
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


@app.command("info")
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


@app.command("doctor")
def doctor_command(
    model: Annotated[str, typer.Argument(help='"bundled", a model folder, or a hub name.')] = "bundled",
    document_length: DocumentLength = None,
    code: Annotated[bool, typer.Option("--code", help="The corpus will be code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the loader understood of a model, and warn of known traps.

    Example: latewood doctor lightonai/GTE-ModernColBERT-v1 --document-length 8192
    """
    report = examine(model, document_length=document_length, code=code)
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else "\n".join(report.lines()))


@app.command("evaluate")
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
    encoder = Encoder.load(model, document_length=document_length)
    settings = encoder.tokenizer.settings
    # BEIR's query lengths are for models that expand queries to that very length. Without expansion a
    # length only cuts, so the longer of the two is meant.
    if settings.do_query_expansion or data.query_length > settings.query_length:
        encoder = Encoder.load(model, document_length=document_length, query_length=data.query_length)
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


def search_mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise ArgumentError(f"mode={text!r}; pass one of {', '.join(get_args(Mode))}")


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


def _hit_json(hit: Hit) -> dict[str, Any]:
    # JSON has no infinity; a passage without tokens has no score.
    return asdict(hit) | {"score": hit.score if math.isfinite(hit.score) else None}


def _where(hit: Hit) -> str:
    """path:line for code, as editors and terminals make links of; else the doc_id."""
    meta = hit.metadata
    if "path" in meta and "start_line" in meta:
        symbol = f"  {meta['symbol']}" if meta.get("symbol") else ""
        return f"{meta['path']}:{meta['start_line']}{symbol}"
    return hit.doc_id


def _snippet(text: str, lines: int = 3, width: int = 100) -> list[str]:
    shown = [line.rstrip() for line in text.splitlines() if line.strip()][:lines]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in shown]


def main() -> None:
    try:
        app()
    except LatewoodError as error:
        typer.echo(f"latewood: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing permission: a fact about the machine, not a bug
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"latewood: {where}{error.strerror or error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("latewood: interrupted; what was committed is kept", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
