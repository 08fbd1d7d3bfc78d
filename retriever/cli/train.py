"""`latewood train ...`: the commands that make models."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from encoder import Encoder
from encoder.checkpoint import Checkpoint
from encoder.errors import ArgumentError
from encoder.training.distill import DistillConfig, distill
from encoder.training.objective import RetrievalConfig
from encoder.training.retrieval import train_retrieval
from retriever.cli.options import DocumentLength, Model, parse_document_length
from retriever.evaluation import EvaluationSet, evaluate_exact
from retriever.mining import mine_file

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train encoders.")
DEFAULTS = DistillConfig()
RETRIEVAL = RetrievalConfig()

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE[:SHARE]...",
        help=".jsonl(.gz) files of query, pos, negs, scores, or PyLate folders; SHARE of it an epoch, 0 to 1.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the trained model, in the PyLate layout.")]
Steps = Annotated[int, typer.Option(min=1)]
BatchSize = Annotated[int, typer.Option(min=2, help="Queries a step.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
EmbeddingRate = Annotated[float, typer.Option(help="The same, for token embeddings.")]
Warmup = Annotated[int, typer.Option(min=1, help="Steps until the peak learning rate.")]
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
    int, typer.Option(min=0, help="Hard negatives of each query in a batch, drawn from its own.")
]
Half = Annotated[bool, typer.Option("--half", help="Save the weights as float16.")]
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
        str, typer.Option(help="A BERT-family folder, or the PyPI package's name.")
    ] = DEFAULTS.teacher,
    steps: Steps = DEFAULTS.steps,
    batch_tokens: Annotated[int, typer.Option(min=64, help="Tokens a step.")] = DEFAULTS.batch_tokens,
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
        show_progress=sys.stderr.isatty(),
    )
    typer.echo(f"{out}: {found:,} examples, {mined:,} with negatives")


@app.command("colbert")
def colbert_command(
    sources: Sources,
    out: Out,
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/colbert"
    ),
    model: Model = "bundled",
    steps: Steps = RETRIEVAL.steps,
    batch_size: BatchSize = RETRIEVAL.batch_size,
    negatives: Negatives = RETRIEVAL.n_negatives,
    document_lengths: Lengths = "128,192,256",
    query_length: Annotated[int, typer.Option(min=8)] = RETRIEVAL.query_length,
    temperature: Annotated[
        float, typer.Option(help="Divides scores, which are means over a query's tokens.")
    ] = RETRIEVAL.temperature,
    contrastive_weight: Annotated[
        float, typer.Option(min=0, help="InfoNCE over the batch.")
    ] = RETRIEVAL.contrastive_weight,
    kl_weight: Annotated[
        float, typer.Option(min=0, help="KL divergence to the scores of the data.")
    ] = RETRIEVAL.kl_weight,
    margin_weight: Annotated[
        float, typer.Option(min=0, help="MarginMSE to the scores of the data.")
    ] = RETRIEVAL.margin_weight,
    teacher: Annotated[
        str, typer.Option(help="A BERT-family folder, or the PyPI package's name, of the model's vocabulary.")
    ] = RETRIEVAL.teacher,
    token_weight: Annotated[
        float, typer.Option(min=0, help="Token distillation from the teacher.")
    ] = RETRIEVAL.token_weight,
    teacher_kl_weight: Annotated[
        float, typer.Option(min=0, help="KL divergence to the teacher's MaxSim over the batch.")
    ] = RETRIEVAL.teacher_kl_weight,
    lr: Rate = RETRIEVAL.lr,
    embedding_lr: EmbeddingRate = RETRIEVAL.embedding_lr,
    warmup: Warmup = RETRIEVAL.warmup,
    chunk_tokens: ChunkTokens = RETRIEVAL.chunk_tokens,
    evaluate_on: EvaluateOn = None,
    eval_every: EvaluateEvery = RETRIEVAL.eval_every,
    patience: Patience = RETRIEVAL.patience,
    save_every: SaveEvery = 200,
    half: Half = False,
    threads: Threads = 0,
    seed: Seed = RETRIEVAL.seed,
) -> None:
    """Train a late-interaction model on queries and the texts that answer them.

    Example: latewood train colbert mined.jsonl.gz glosses.jsonl.gz:0.2 --out models/mine --run runs/mine
    """
    config = RetrievalConfig(
        model=_stable(model),
        steps=steps,
        batch_size=batch_size,
        n_negatives=negatives,
        query_length=query_length,
        document_lengths=_lengths(document_lengths),
        temperature=temperature,
        contrastive_weight=contrastive_weight,
        kl_weight=kl_weight,
        margin_weight=margin_weight,
        teacher=teacher,
        token_weight=token_weight,
        teacher_kl_weight=teacher_kl_weight,
        lr=lr,
        embedding_lr=embedding_lr,
        warmup=warmup,
        chunk_tokens=chunk_tokens,
        eval_every=eval_every,
        patience=patience,
        seed=seed,
    )
    _train(sources, out, run, config, evaluate_on, save_every, half, threads)


@app.command("dense")
def dense_command(
    sources: Sources,
    out: Out,
    run: Annotated[Path, typer.Option(help="Folder of the run: state, log. Resumed if it is there.")] = Path(
        "runs/dense"
    ),
    model: Model = "bundled",
    steps: Steps = RETRIEVAL.steps,
    batch_size: BatchSize = RETRIEVAL.batch_size,
    negatives: Negatives = RETRIEVAL.n_negatives,
    document_lengths: Lengths = "128,192,256",
    temperature: Annotated[float, typer.Option(help="Divides cosines.")] = 0.05,
    lr: Rate = RETRIEVAL.lr,
    embedding_lr: EmbeddingRate = RETRIEVAL.embedding_lr,
    warmup: Warmup = RETRIEVAL.warmup,
    chunk_tokens: ChunkTokens = RETRIEVAL.chunk_tokens,
    evaluate_on: EvaluateOn = None,
    eval_every: EvaluateEvery = RETRIEVAL.eval_every,
    patience: Patience = RETRIEVAL.patience,
    save_every: SaveEvery = 200,
    half: Half = False,
    threads: Threads = 0,
    seed: Seed = RETRIEVAL.seed,
) -> None:
    """Train for single vectors: the mean of a text's token vectors, InfoNCE on its cosine.

    Example: latewood train dense pairs.jsonl.gz --out models/dense --run runs/dense
    """
    config = RetrievalConfig(
        model=_stable(model),
        similarity="pooled",
        steps=steps,
        batch_size=batch_size,
        n_negatives=negatives,
        document_lengths=_lengths(document_lengths),
        temperature=temperature,
        lr=lr,
        embedding_lr=embedding_lr,
        warmup=warmup,
        chunk_tokens=chunk_tokens,
        eval_every=eval_every,
        patience=patience,
        seed=seed,
    )
    _train(sources, out, run, config, evaluate_on, save_every, half, threads)


def _train(
    sources: list[str],
    out: Path,
    run: Path,
    config: RetrievalConfig,
    evaluate_on: Path | None,
    save_every: int,
    half: bool,
    threads: int,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    evaluate: Callable[[Checkpoint], dict[str, float]] | None = None
    if evaluate_on is not None:
        data = EvaluationSet.load(evaluate_on, "test")

        def evaluate(checkpoint: Checkpoint) -> dict[str, float]:
            return evaluate_exact(
                data, Encoder(checkpoint, name=config.model), pooled=config.similarity == "pooled"
            )

    result = train_retrieval(
        [source_and_share(s) for s in sources],
        out,
        run,
        config,
        evaluate=evaluate,
        half_precision_weights=half,
        save_every=save_every,
    )
    best = f", best nDCG@10 {result['nDCG@10']:.4f}" if "nDCG@10" in result else ""
    typer.echo(
        f"{out}: held-out loss {result['held_out_loss']:.4f} (was {result['held_out_loss_before']:.4f}){best}"
    )


def _stable(model: str) -> str:
    """A folder by its whole path, so that a run can be resumed from anywhere."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(f"document lengths {text!r}; write numbers with commas: 128,256") from error


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
