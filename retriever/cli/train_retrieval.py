"""`latewood train colbert`, late interaction, and `latewood train dense`, single vectors, from queries and answers."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from encoder import Encoder
from encoder.checkpoints.loading import Checkpoint
from encoder.errors import ArgumentError
from encoder.training.distributed import process_group, say
from encoder.training.objective import RetrievalConfig
from encoder.training.retrieval import train_retrieval
from retriever.cli.options import Model
from retriever.cli.train import (
    EmbeddingRate,
    Out,
    Rate,
    SaveEvery,
    Seed,
    Steps,
    Threads,
    Warmup,
    source_and_share,
    stable,
)
from retriever.evaluation import EvaluationSet, evaluate_exact

__all__ = ["colbert_command", "dense_command"]

DEFAULTS = RetrievalConfig()

# An option's parameter has the name of the field of RetrievalConfig that it sets.
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE[:SHARE]...",
        help=".jsonl(.gz) files of query, pos, negs, scores, or PyLate folders; SHARE of it an epoch, 0 to 1.",
    ),
]
Run = Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Queries a step, over all processes.")]
Lengths = Annotated[
    str, typer.Option(help="Tokens a document is cut at; each batch draws one of several, comma-separated.")
]
ChunkTokens = Annotated[
    int, typer.Option(min=0, help="GradCache: encode a batch in pieces of so many tokens; 0 does it at once.")
]
EvaluateOn = Annotated[
    Path | None,
    typer.Option("--eval", help="A BEIR folder to evaluate on; the best model by nDCG@10 is kept."),
]
EvaluateEvery = Annotated[int, typer.Option(min=0, help="Steps between evaluations.")]
Patience = Annotated[
    int, typer.Option(min=0, help="End after so many evaluations without a better nDCG@10; 0: never.")
]
Negatives = Annotated[
    int,
    typer.Option("--negatives", min=0, help="Hard negatives of each query in a batch, drawn from its own."),
]
Half = Annotated[bool, typer.Option("--half", help="Save the weights as float16.")]


def colbert_command(
    context: typer.Context,
    sources: Sources,
    out: Out,
    run: Run = Path("runs/colbert"),
    model: Model = "bundled",
    steps: Steps = DEFAULTS.steps,
    batch_size: BatchSize = DEFAULTS.batch_size,
    n_negatives: Negatives = DEFAULTS.n_negatives,
    document_lengths: Lengths = "128,192,256",
    query_length: Annotated[int, typer.Option(min=8)] = DEFAULTS.query_length,
    temperature: Annotated[
        float, typer.Option(help="Divides scores, which are means over a query's tokens.")
    ] = DEFAULTS.temperature,
    contrastive_weight: Annotated[
        float, typer.Option(min=0, help="InfoNCE over the batch.")
    ] = DEFAULTS.contrastive_weight,
    kl_weight: Annotated[
        float, typer.Option(min=0, help="KL divergence to the scores of the data.")
    ] = DEFAULTS.kl_weight,
    margin_weight: Annotated[
        float, typer.Option(min=0, help="MarginMSE to the scores of the data.")
    ] = DEFAULTS.margin_weight,
    teacher: Annotated[
        str, typer.Option(help="A BERT-family folder, or the PyPI package's name, of the model's vocabulary.")
    ] = DEFAULTS.teacher,
    token_weight: Annotated[
        float, typer.Option(min=0, help="Token distillation from the teacher.")
    ] = DEFAULTS.token_weight,
    teacher_kl_weight: Annotated[
        float, typer.Option(min=0, help="KL divergence to the teacher's order of the batch's documents.")
    ] = DEFAULTS.teacher_kl_weight,
    teacher_pooled: Annotated[
        float, typer.Option(min=0, help="In that order, its pooled vectors' weight beside its MaxSim.")
    ] = DEFAULTS.teacher_pooled,
    teacher_sharpness: Annotated[
        float, typer.Option(min=0.1, help="Multiplies standardised scores before the softmax of that KL.")
    ] = DEFAULTS.teacher_sharpness,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE[:SHARE]",
            help="More sources, judged by the teacher alone, which then judges only these. May be given again.",
        ),
    ] = None,
    idf: Annotated[
        bool,
        typer.Option("--idf", help="Weigh query tokens by their inverse document frequency, as search does."),
    ] = DEFAULTS.idf,
    topics: Annotated[
        int,
        typer.Option(min=0, help="Make a batch of groups of so many examples alike (BM25); 0: at random."),
    ] = DEFAULTS.topics,
    lr: Rate = DEFAULTS.lr,
    embedding_lr: EmbeddingRate = DEFAULTS.embedding_lr,
    warmup: Warmup = DEFAULTS.warmup,
    chunk_tokens: ChunkTokens = DEFAULTS.chunk_tokens,
    evaluate_on: EvaluateOn = None,
    eval_every: EvaluateEvery = DEFAULTS.eval_every,
    patience: Patience = DEFAULTS.patience,
    save_every: SaveEvery = 200,
    half: Half = False,
    threads: Threads = 0,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Train a late-interaction model on queries and the texts that answer them.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train colbert, and the same arguments.

    Example: latewood train colbert mined.jsonl.gz glosses.jsonl.gz:0.2 --out models/mine --run runs/mine
    """
    _train(context.params, "maxsim")


def dense_command(
    context: typer.Context,
    sources: Sources,
    out: Out,
    run: Run = Path("runs/dense"),
    model: Model = "bundled",
    steps: Steps = DEFAULTS.steps,
    batch_size: BatchSize = DEFAULTS.batch_size,
    n_negatives: Negatives = DEFAULTS.n_negatives,
    document_lengths: Lengths = "128,192,256",
    temperature: Annotated[float, typer.Option(help="Divides cosines.")] = 0.05,
    lr: Rate = DEFAULTS.lr,
    embedding_lr: EmbeddingRate = DEFAULTS.embedding_lr,
    warmup: Warmup = DEFAULTS.warmup,
    chunk_tokens: ChunkTokens = DEFAULTS.chunk_tokens,
    evaluate_on: EvaluateOn = None,
    eval_every: EvaluateEvery = DEFAULTS.eval_every,
    patience: Patience = DEFAULTS.patience,
    save_every: SaveEvery = 200,
    half: Half = False,
    threads: Threads = 0,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Train for single vectors: the mean of a text's token vectors, InfoNCE on its cosine.

    On several GPUs: torchrun --nproc-per-node 8 -m -- retriever.cli train dense, and the same arguments.

    Example: latewood train dense pairs.jsonl.gz --out models/dense --run runs/dense
    """
    _train(context.params, "pooled")


def _train(given: dict[str, Any], similarity: str) -> None:
    """given: the command's parameters by name, as click has them: paths are strings."""
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    changes = {
        "model": stable(given["model"]),
        "teacher": stable(given.get("teacher", DEFAULTS.teacher)),
        "similarity": similarity,
        "document_lengths": _lengths(given["document_lengths"]),
    }
    named = {field.name: given[field.name] for field in fields(RetrievalConfig) if field.name in given}
    config = RetrievalConfig(**{**named, **changes})
    with process_group() as device:
        evaluate: Callable[[Checkpoint], dict[str, float]] | None = None
        if given["evaluate_on"] is not None:
            data = EvaluationSet.load(Path(given["evaluate_on"]), "test")

            def evaluate(checkpoint: Checkpoint) -> dict[str, float]:
                # float32: another precision would round the weights that are being trained.
                encoder = Encoder(checkpoint, name=config.model, device=device, precision="fp32")
                return evaluate_exact(data, encoder, pooled=similarity == "pooled")

        result = train_retrieval(
            [source_and_share(s) for s in given["sources"]],
            Path(given["out"]),
            Path(given["run"]),
            config,
            unlabelled=[source_and_share(s) for s in given.get("unlabelled") or ()],
            evaluate=evaluate,
            half_precision_weights=given["half"],
            save_every=given["save_every"],
            device=device,
        )
        best = f", best nDCG@10 {result['nDCG@10']:.4f}" if "nDCG@10" in result else ""
        losses = f"{result['held_out_loss']:.4f} (was {result['held_out_loss_before']:.4f})"
        say(f"{given['out']}: held-out loss {losses}{best}")


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(f"document lengths {text!r}; write numbers with commas: 128,256") from error
