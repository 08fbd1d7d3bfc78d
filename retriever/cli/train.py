"""`latewood train`: its commands, whose flags are the fields of each kind of training's config."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder.errors import ArgumentError
from encoder.progress import progress_shown
from encoder.training.configs import ClassifyConfig, DistillConfig, MlmConfig, RetrievalConfig
from retriever.cli.flags import flags
from retriever.cli.options import ModelOptions
from retriever.mining import MiningConfig, mine_file

if TYPE_CHECKING:
    from encoder.checkpoints.loading import Checkpoint

# Each command imports what trains by itself, for that imports torch, which help does without.
__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train encoders.")

Texts = Annotated[
    list[str],
    typer.Argument(metavar="FILE[:SHARE]...", help=".jsonl(.gz) files of text; SHARE of it, 0 to 1."),
]
Examples = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE[:SHARE]...",
        help=".jsonl(.gz) files of query, pos, negs, scores, or PyLate folders; SHARE of it an epoch, 0 to 1.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the trained model, in the PyLate layout.")]
Run = Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")]
EvaluateOn = Annotated[
    Path | None,
    typer.Option("--eval", help="A BEIR folder to evaluate on; the best model by nDCG@10 is kept."),
]
# What is of late interaction alone.
LATE = (
    "query_length", "contrastive_weight", "kl_weight", "margin_weight", "teacher", "token_weight", "teacher_kl_weight",
    "teacher_pooled", "teacher_sharpness", "unlabelled", "idf", "topics",
)  # fmt: skip


@app.command("distill")
@flags()
def distill_command(
    sources: Texts,
    out: Out,
    config: DistillConfig,
    run: Run = Path("runs/distill"),
    threads: Threads = 0,
) -> None:
    """Teach a small ModernBERT the contextual token vectors of a BERT-family teacher.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train distill, and the same arguments.

    Example: latewood train distill abstracts.jsonl.gz code.jsonl.gz:0.25 --out models/mine --run runs/mine
    """
    from encoder.training.distill import distill
    from encoder.training.distributed import process_group, say

    with process_group(threads) as device:
        found = distill(sources, out, run, config, device=device)
        say(
            f"{out}: held-out cosine {found['held_out_cosine']:.4f} (was {found['held_out_cosine_before']:.4f})"
        )


@app.command("mine")
@flags("pool_factor")
def mine_command(
    source: Annotated[Path, typer.Argument(help="A .jsonl(.gz) file of query and pos, or a PyLate folder.")],
    out: Annotated[Path, typer.Option(help="The file to write: query, pos, negs; .jsonl or .jsonl.gz.")],
    model: ModelOptions,
    config: MiningConfig,
) -> None:
    """Find hard negatives: what search returns for a query beside the text that answers it.

    Example: latewood train mine pairs.jsonl.gz --out mined.jsonl.gz
    """
    if not source.exists():
        raise ArgumentError(f"{source} is not there; pass a .jsonl or .jsonl.gz file, or a PyLate folder")
    found, mined = mine_file(model.load(), source, out, config, progress=progress_shown())
    typer.echo(f"{out}: {found:,} examples, {mined:,} with negatives")


@app.command("colbert")
@flags()
def colbert_command(
    sources: Examples,
    out: Out,
    config: RetrievalConfig,
    run: Run = Path("runs/colbert"),
    evaluate_on: EvaluateOn = None,
    threads: Threads = 0,
) -> None:
    """Train a late-interaction model on queries and the texts that answer them.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train colbert, and the same arguments.

    Example: latewood train colbert mined.jsonl.gz glosses.jsonl.gz:0.2 --out models/mine --run runs/mine
    """
    _train(sources, out, run, config, evaluate_on, threads)


@app.command("dense")
@flags(*LATE)
def dense_command(
    sources: Examples,
    out: Out,
    config: RetrievalConfig = RetrievalConfig(similarity="pooled", temperature=0.05),  # noqa: B008  (frozen)
    run: Run = Path("runs/dense"),
    evaluate_on: EvaluateOn = None,
    threads: Threads = 0,
) -> None:
    """Train for single vectors: the mean of a text's token vectors, InfoNCE on its cosine.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train dense, and the same arguments.

    Example: latewood train dense pairs.jsonl.gz --out models/dense --run runs/dense
    """
    _train(sources, out, run, config, evaluate_on, threads)


def _train(
    sources: list[str],
    out: Path,
    run: Path,
    config: RetrievalConfig,
    evaluate_on: Path | None,
    threads: int,
) -> None:
    from encoder.training.distributed import process_group, say
    from encoder.training.retrieval import train_retrieval

    with process_group(threads) as device:
        evaluate: Callable[[Checkpoint], dict[str, float]] | None = None
        if evaluate_on is not None:
            from encoder import Encoder
            from retriever.evaluation import EvaluationSet, evaluate_exact

            data = EvaluationSet.load(evaluate_on, "test")

            def evaluate(checkpoint: "Checkpoint") -> dict[str, float]:
                # float32: another precision would round the weights that are being trained.
                encoder = Encoder(checkpoint, name=config.model, device=device, precision="fp32")
                return evaluate_exact(data, encoder, pooled=config.similarity == "pooled")

        found = train_retrieval(sources, out, run, config, evaluate=evaluate, device=device)
        best = f", best nDCG@10 {found['nDCG@10']:.4f}" if "nDCG@10" in found else ""
        say(
            f"{out}: held-out loss {found['held_out_loss']:.4f} (was {found['held_out_loss_before']:.4f}){best}"
        )


@app.command("mlm")
@flags()
def mlm_command(
    sources: Texts,
    out: Annotated[Path, typer.Option(help="Folder for the model; transformers reads it too.")],
    config: MlmConfig,
    run: Run = Path("runs/mlm"),
    threads: Threads = 0,
) -> None:
    """Pre-train a ModernBERT on text by masked tokens.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train mlm, and the same arguments.

    Example: latewood train mlm texts.jsonl.gz --tokenizer tokenizer.json --size tiny --out models/p --run runs/p
    """
    from encoder.training.distributed import process_group, say
    from encoder.training.mlm import train_mlm

    with process_group(threads) as device:
        found = train_mlm(sources, out, run, config, device=device)
        losses = "no text held out"
        if not math.isnan(found["held_out_loss"]):
            losses = f"held-out loss {found['held_out_loss']:.4f} (was {found['held_out_loss_before']:.4f})"
        speed = found["tokens_per_second"]
        pace = "" if math.isnan(speed) else f", {speed:,.0f} tokens/s"
        say(f"{out}: {losses}, bins {100 * found['filled']:.2f} % full{pace}")


@app.command("average")
def average_command(
    folders: Annotated[list[Path], typer.Argument(help="Models of one shape, such as RUN/checkpoints/*.")],
    out: Annotated[Path, typer.Option(help="Folder for their mean.")],
) -> None:
    """Average the weights of several checkpoints.

    Example: latewood train average runs/p/checkpoints/* --out models/averaged
    """
    from encoder.training.tiling import average_checkpoints

    average_checkpoints(folders, out)
    typer.echo(f"{out}: the mean of {len(folders)} checkpoints")


@app.command("classify")
@flags()
def classify_command(
    train: Annotated[
        Path, typer.Argument(help='.jsonl(.gz): {"text", optional "text_pair", "label"} a line.')
    ],
    dev: Annotated[Path, typer.Option("--eval", help="The same; the model that is best on it is kept.")],
    out: Annotated[Path, typer.Option(help="Folder for the classifier; transformers reads it too.")],
    config: ClassifyConfig,
    run: Run = Path("runs/classify"),
    threads: Threads = 0,
) -> None:
    """Train a classifier; labels that are floats make it a regression. For GLUE and its like.

    Example: latewood train classify mnli.jsonl --eval dev.jsonl --model models/p --out models/mnli --run runs/mnli
    """
    from encoder.training.classify import train_classifier
    from encoder.training.distributed import process_group, say

    with process_group(threads) as device:
        found = train_classifier(train, dev, out, run, config, device=device)
        say(
            f"{out}: best {config.metric or 'metric'} {found['metric']:.4f}, "
            f"dev loss {found['dev_loss']:.4f} (was {found['dev_loss_before']:.4f})"
        )
