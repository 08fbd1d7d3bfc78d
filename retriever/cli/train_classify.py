"""`latewood train classify`: fine-tune a model to tell labels of texts, or numbers."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from encoder.training.classify import ClassifyConfig, train_classifier
from encoder.training.distributed import process_group, rank
from retriever.cli.train import SaveEvery, Seed, Threads, stable

__all__ = ["classify_command"]

DEFAULTS = ClassifyConfig(model="")


def classify_command(
    train: Annotated[
        Path, typer.Argument(help='.jsonl(.gz): {"text", optional "text_pair", "label"} a line.')
    ],
    dev: Annotated[Path, typer.Option("--eval", help="The same; the model that is best on it is kept.")],
    model: Annotated[
        str, typer.Option(help="A ModernBERT folder, pre-trained or a classifier, or a hub name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the classifier; transformers reads it too.")],
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/classify"
    ),
    epochs: Annotated[float, typer.Option(min=0.01)] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = DEFAULTS.batch_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULTS.lr,
    weight_decay: Annotated[float, typer.Option(min=0)] = DEFAULTS.weight_decay,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Part of all steps.")] = DEFAULTS.warmup,
    length: Annotated[int, typer.Option(min=8, help="Tokens kept of a text or pair.")] = DEFAULTS.length,
    pooling: Annotated[str, typer.Option(help="cls or mean; the model's own by default.")] = "",
    metric: Annotated[
        str,
        typer.Option(
            help="accuracy, f1, mcc; spearman, pearson. By default accuracy, or spearman for floats."
        ),
    ] = "",
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0: each epoch.")] = 0,
    save_every: SaveEvery = 500,
    threads: Threads = 0,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Train a classifier; labels that are floats make it a regression. For GLUE and its like.

    Example: latewood train classify mnli.jsonl --eval dev.jsonl --model models/p --out models/mnli --run runs/mnli
    """
    if threads:
        torch.set_num_threads(threads)
    config = ClassifyConfig(
        model=stable(model),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        length=length,
        pooling=pooling,
        metric=metric,
        eval_every=eval_every,
        seed=seed,
    )
    with process_group() as device:
        result = train_classifier(train, dev, out, run, config, save_every=save_every, device=device)
        if rank() == 0:
            typer.echo(
                f"{out}: best {metric or 'metric'} {result['metric']:.4f}, "
                f"dev loss {result['dev_loss']:.4f} (was {result['dev_loss_before']:.4f})"
            )
