"""`latewood train ...`: the commands that make models."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from encoder.errors import ArgumentError
from encoder.training.distill import DistillConfig, distill

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train encoders.")
DEFAULTS = DistillConfig()


@app.callback()
def _group() -> None:
    # A callback keeps `distill` a sub-command while it is the only one.
    pass


@app.command("distill")
def distill_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:SHARE]...", help=".jsonl(.gz) files of text; SHARE of it, 0 to 1."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the trained model, in the PyLate layout.")],
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/distill"
    ),
    teacher: Annotated[
        str, typer.Option(help="A BERT-family folder, or the PyPI package's name.")
    ] = DEFAULTS.teacher,
    steps: Annotated[int, typer.Option(min=1)] = DEFAULTS.steps,
    batch_tokens: Annotated[int, typer.Option(min=64, help="Tokens a step.")] = DEFAULTS.batch_tokens,
    hidden_size: Annotated[int, typer.Option(min=2)] = DEFAULTS.hidden_size,
    intermediate_size: Annotated[int, typer.Option(min=1)] = DEFAULTS.intermediate_size,
    layers: Annotated[int, typer.Option(min=1)] = DEFAULTS.num_layers,
    heads: Annotated[int, typer.Option(min=1)] = DEFAULTS.num_heads,
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of a token vector.")] = DEFAULTS.dim,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULTS.lr,
    embedding_lr: Annotated[
        float, typer.Option(help="The same, for token embeddings.")
    ] = DEFAULTS.embedding_lr,
    start_from: Annotated[
        str, typer.Option(help="Folder of an earlier run: begin with its weights and its targets.")
    ] = "",
    warmup: Annotated[int, typer.Option(min=1, help="Steps until the peak learning rate.")] = DEFAULTS.warmup,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves of the run's state.")] = 500,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
    seed: Annotated[int, typer.Option()] = DEFAULTS.seed,
) -> None:
    """Teach a small ModernBERT the contextual token vectors of a BERT-family teacher.

    Example: latewood train distill abstracts.jsonl.gz code.jsonl.gz:0.25 --out models/mine --run runs/mine
    """
    if threads:
        torch.set_num_threads(threads)
    config = DistillConfig(
        teacher=teacher,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=layers,
        num_heads=heads,
        dim=dim,
        batch_tokens=batch_tokens,
        steps=steps,
        warmup=warmup,
        start_from=start_from,
        lr=lr,
        embedding_lr=embedding_lr,
        seed=seed,
    )
    result = distill([source_and_share(s) for s in sources], out, run, config, save_every=save_every)
    typer.echo(
        f"{out}: held-out cosine {result['held_out_cosine']:.4f} (was {result['held_out_cosine_before']:.4f})"
    )


def source_and_share(text: str) -> tuple[Path, float]:
    """ "file.jsonl.gz:0.25" → (file.jsonl.gz, 0.25); without a share, all of it."""
    name, colon, share = text.rpartition(":")
    path, value = (Path(name), share) if colon and not Path(text).exists() else (Path(text), "1")
    if not path.is_file():
        raise ArgumentError(f"{path} is no file; pass .jsonl or .jsonl.gz files")
    try:
        return path, float(value)
    except ValueError as error:
        raise ArgumentError(f"{text!r}: share {value!r} is no number; write FILE:0.25") from error
