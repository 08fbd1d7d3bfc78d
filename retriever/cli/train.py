"""`latewood train distill` and `latewood train mine`, and options that all training commands share."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from encoder import Encoder
from encoder.checkpoints.loading import BUNDLED
from encoder.errors import ArgumentError
from encoder.training.distill import DistillConfig, distill
from encoder.training.distributed import process_group, say
from retriever.cli.options import DocumentLength, Model, parse_document_length
from retriever.mining import mine_file

__all__ = ["app", "source_and_share", "stable"]

app = typer.Typer(no_args_is_help=True, help="Train encoders.")
DEFAULTS = DistillConfig()

Out = Annotated[Path, typer.Option(help="Folder for the trained model, in the PyLate layout.")]
Steps = Annotated[int, typer.Option(min=1)]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
EmbeddingRate = Annotated[float, typer.Option(help="The same, for token embeddings.")]
Warmup = Annotated[int, typer.Option(min=1, help="Steps until the peak learning rate.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between saves of the run's state.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")]
Seed = Annotated[int, typer.Option()]


@app.command("distill")
def distill_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:SHARE]...", help=".jsonl(.gz) files of text; SHARE of it, 0 to 1."),
    ],
    out: Out,
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/distill"
    ),
    teacher: Annotated[
        str, typer.Option(help="A model folder or hub name with [CLS] and [SEP], or the PyPI package's name.")
    ] = DEFAULTS.teacher,
    steps: Steps = DEFAULTS.steps,
    batch_tokens: Annotated[
        int, typer.Option(min=64, help="Tokens a step, over all processes.")
    ] = DEFAULTS.batch_tokens,
    hidden_size: Annotated[int, typer.Option(min=2)] = DEFAULTS.hidden_size,
    intermediate_size: Annotated[int, typer.Option(min=1)] = DEFAULTS.intermediate_size,
    layers: Annotated[int, typer.Option(min=1)] = DEFAULTS.num_layers,
    heads: Annotated[int, typer.Option(min=1)] = DEFAULTS.num_heads,
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of a token vector.")] = DEFAULTS.dim,
    lr: Rate = DEFAULTS.lr,
    embedding_lr: EmbeddingRate = DEFAULTS.embedding_lr,
    start_from: Annotated[
        str, typer.Option(help="Folder of an earlier run: begin with its weights and its targets.")
    ] = "",
    warmup: Warmup = DEFAULTS.warmup,
    save_every: SaveEvery = 500,
    threads: Threads = 0,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Teach a small ModernBERT the contextual token vectors of a BERT-family teacher.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train distill, and the same arguments.

    Example: latewood train distill abstracts.jsonl.gz code.jsonl.gz:0.25 --out models/mine --run runs/mine
    """
    if threads:
        torch.set_num_threads(threads)
    config = DistillConfig(
        teacher=stable(teacher),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=layers,
        num_heads=heads,
        dim=dim,
        batch_tokens=batch_tokens,
        steps=steps,
        warmup=warmup,
        start_from=stable(start_from),
        lr=lr,
        embedding_lr=embedding_lr,
        seed=seed,
    )
    with process_group() as device:
        files = [source_and_share(s) for s in sources]
        result = distill(files, out, run, config, save_every=save_every, device=device)
        cosines = f"{result['held_out_cosine']:.4f} (was {result['held_out_cosine_before']:.4f})"
        say(f"{out}: held-out cosine {cosines}")


@app.command("mine")
def mine_command(
    source: Annotated[Path, typer.Argument(help="A .jsonl(.gz) file of query and pos, or a PyLate folder.")],
    out: Annotated[Path, typer.Option(help="The file to write: query, pos, negs; .jsonl or .jsonl.gz.")],
    model: Model = "bundled",
    negatives: Annotated[int, typer.Option(min=1, help="Negatives kept of each query.")] = 4,
    depth: Annotated[int, typer.Option(min=2, help="Hits looked at.")] = 50,
    max_ratio: Annotated[
        float, typer.Option(help="Hits above the positive's score times this may be answers: left out.")
    ] = 0.95,
    document_length: DocumentLength = None,
) -> None:
    """Find hard negatives: what search returns for a query beside the text that answers it.

    Example: latewood train mine pairs.jsonl.gz --out mined.jsonl.gz
    """
    _check_file(source)
    found, mined = mine_file(
        Encoder.load(model, document_length=parse_document_length(document_length)),
        source,
        out,
        n_negatives=negatives,
        depth=depth,
        max_ratio=max_ratio,
        show_progress=True,
    )
    typer.echo(f"{out}: {found:,} examples, {mined:,} with negatives")


def stable(name: str) -> str:
    """What is there by its whole path, so that a run can be resumed from anywhere; any other name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in ("", BUNDLED) and path.exists() else name


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ArgumentError(f"{path} is no file; pass .jsonl or .jsonl.gz files")


def source_and_share(text: str) -> tuple[Path, float]:
    """ "file.jsonl.gz:0.25" → (file.jsonl.gz, 0.25); without a share, all of it."""
    name, colon, share = text.rpartition(":")
    path, value = (Path(name), share) if colon and not Path(text).exists() else (Path(text), "1")
    _check_file(path)
    try:
        return path, float(value)
    except ValueError as error:
        raise ArgumentError(f"{text!r}: share {value!r} is no number; write FILE:0.25") from error
