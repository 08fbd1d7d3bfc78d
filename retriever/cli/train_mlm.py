"""`latewood train mlm`: pre-training; `latewood train average`: the mean of checkpoints."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from encoder.errors import ArgumentError
from encoder.training.distributed import process_group, rank
from encoder.training.mlm import SIZES, MlmConfig, train_mlm
from encoder.training.tiling import average_checkpoints
from retriever.cli.train import SaveEvery, Seed, Threads, source_and_share, stable

__all__ = ["average_command", "mlm_command"]

DEFAULTS = MlmConfig()
Size = Annotated[int, typer.Option(min=0, help="In place of --size's.")]


def mlm_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:SHARE]...", help=".jsonl(.gz) files of text; SHARE of it, 0 to 1."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model; transformers reads it too.")],
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/mlm"
    ),
    tokenizer: Annotated[str, typer.Option(help="For a new model: tokenizer.json, or its folder.")] = "",
    model: Annotated[
        str,
        typer.Option(
            help="To go on: bundled, a folder, a hub name, or a run's folder (then with its optimiser)."
        ),
    ] = "",
    tile_from: Annotated[str, typer.Option(help="Tile the new model from this smaller one's folder.")] = "",
    size: Annotated[str, typer.Option(help=f"Of a new model: {', '.join(SIZES)}.")] = "base",
    hidden_size: Size = 0,
    intermediate_size: Size = 0,
    layers: Size = 0,
    heads: Size = 0,
    length: Annotated[
        int, typer.Option(min=8, help="Tokens of a bin, and of the longest text.")
    ] = DEFAULTS.length,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Bins a step, over all processes.")
    ] = DEFAULTS.batch_size,
    batch_size_start: Annotated[int, typer.Option(min=0, help="Bins a step at first; 0: --batch-size.")] = 0,
    batch_warmup: Annotated[int, typer.Option(min=0, help="Steps until --batch-size.")] = 0,
    micro_batch: Annotated[int, typer.Option(min=1, help="Bins a forward pass.")] = DEFAULTS.micro_batch,
    steps: Annotated[int, typer.Option(min=1)] = DEFAULTS.steps,
    warmup: Annotated[int, typer.Option(min=0, help="Steps until the peak learning rate.")] = DEFAULTS.warmup,
    decay: Annotated[int, typer.Option(min=0, help="Last steps, in which the rate falls by 1 - sqrt.")] = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULTS.lr,
    weight_decay: Annotated[float, typer.Option(min=0)] = DEFAULTS.weight_decay,
    mask_rate: Annotated[float, typer.Option(help="Part of the tokens to predict.")] = DEFAULTS.mask_rate,
    global_rope_theta: Annotated[
        float, typer.Option(min=0, help="Of global layers; 0: the model's own, 10,000 for a new one.")
    ] = 0.0,
    local_rope_theta: Annotated[float, typer.Option(min=0, help="The same of local layers.")] = 0.0,
    save_every: SaveEvery = 500,
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="Steps between models kept in RUN/checkpoints; 0: none.")
    ] = 0,
    threads: Threads = 0,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Pre-train a ModernBERT on text by masked tokens.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train mlm, and the same arguments.

    Example: latewood train mlm texts.jsonl.gz --tokenizer tokenizer.json --size tiny --out models/p --run runs/p
    """
    if threads:
        torch.set_num_threads(threads)
    if size not in SIZES:
        raise ArgumentError(f"size={size!r}; pass one of {', '.join(SIZES)}")
    numbers = (hidden_size, intermediate_size, layers, heads)
    shape = [own or given for own, given in zip(numbers, SIZES[size], strict=True)]
    config = replace(
        DEFAULTS,
        model=stable(model),
        tokenizer=stable(tokenizer),
        tile_from=stable(tile_from),
        shape=(shape[0], shape[1], shape[2], shape[3]),
        length=length,
        batch_size=batch_size,
        batch_size_start=batch_size_start,
        batch_warmup=batch_warmup,
        micro_batch=micro_batch,
        steps=steps,
        warmup=warmup,
        decay=decay,
        lr=lr,
        weight_decay=weight_decay,
        mask_rate=mask_rate,
        global_rope_theta=global_rope_theta,
        local_rope_theta=local_rope_theta,
        seed=seed,
    )
    with process_group() as device:
        result = train_mlm(
            [source_and_share(s) for s in sources],
            out,
            run,
            config,
            save_every=save_every,
            checkpoint_every=checkpoint_every,
            device=device,
        )
        if rank() == 0:
            losses = "no text held out"
            if not math.isnan(result["held_out_loss"]):
                losses = (
                    f"held-out loss {result['held_out_loss']:.4f} (was {result['held_out_loss_before']:.4f})"
                )
            speed = result["tokens_per_second"]
            pace = "" if math.isnan(speed) else f", {speed:,.0f} tokens/s"
            typer.echo(f"{out}: {losses}, bins {100 * result['filled']:.2f} % full{pace}")


def average_command(
    folders: Annotated[list[Path], typer.Argument(help="Models of one shape, such as RUN/checkpoints/*.")],
    out: Annotated[Path, typer.Option(help="Folder for their mean.")],
) -> None:
    """Average the weights of several checkpoints.

    Example: latewood train average runs/p/checkpoints/* --out models/averaged
    """
    average_checkpoints(folders, out)
    typer.echo(f"{out}: the mean of {len(folders)} checkpoints")
