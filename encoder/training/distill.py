"""Token-level distillation: a small ModernBERT learns the contextual token vectors of a BERT-family teacher.

Student and teacher share the tokenizer, so every token of any text is supervised and no labels are
needed. The student starts close: its embeddings are the teacher's vectors of each token alone, its
residual branches are near zero, and its head maps the embeddings onto the teacher's principal
directions. Training then teaches it context.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.checkpoints.folder import output_folder
from encoder.checkpoints.loading import Checkpoint, save_checkpoint
from encoder.checkpoints.tensors import read_tensors, write_tensors
from encoder.errors import ArgumentError, CheckpointError, CorpusError
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.model.packing import PackedBatch, pack
from encoder.progress import progress_shown
from encoder.tokenizer import LateTokenizer, TokenizerSettings
from encoder.training.configs import DistillConfig
from encoder.training.data import Chunks, DataFile, Given, checked_sources, read_texts
from encoder.training.distributed import rank, say, wait_for_all, world_size
from encoder.training.loop import Pace, TrainingRun, adamw, claim_run, load_weights, warmup_linear
from encoder.training.losses import token_cosine_loss
from encoder.training.teacher import Teacher, fast_matmul, principal_directions, teacher_folder

__all__ = ["build_student", "distill"]

REPORT_EVERY = 50


def build_student(config: DistillConfig, teacher: Teacher, singles: Tensor, directions: Tensor) -> Checkpoint:
    """The student before its first step.

    singles: (vocab_size, teacher hidden), the teacher's unit vector of each token alone.
    directions: (teacher hidden, dim), what the student's output is to reproduce.
    """

    def token(text: str) -> int:
        found = teacher.tokenizer.token_to_id(text)
        if found is None:
            raise CheckpointError(f"the teacher's tokenizer has no {text}; it is not of the BERT family")
        return int(found)

    shape = EncoderConfig(
        vocab_size=len(singles),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.layers,
        num_heads=config.heads,
        pad_id=token("[PAD]"),
        cls_id=token("[CLS]"),
        sep_id=token("[SEP]"),
    )
    backbone = ModernBert(shape)
    backbone.initialise(generator=torch.Generator().manual_seed(config.seed))
    head = Dense(DenseConfig(config.hidden_size, config.dim))
    basis = principal_directions(singles, config.hidden_size)  # (teacher hidden, hidden)
    with torch.no_grad():
        backbone.embeddings.tok_embeddings.weight.copy_(singles @ basis * config.embedding_scale)
        for name, parameter in backbone.named_parameters():
            if name.endswith("Wo.weight"):
                parameter.mul_(config.residual_scale)
        head.linear.weight.copy_((basis.T @ directions).T)  # (dim, hidden)
    settings = TokenizerSettings(
        query_prefix="",
        document_prefix="",
        query_length=config.query_length,
        document_length=config.document_length,
        do_query_expansion=False,
        skiplist_words=(),
    )
    return Checkpoint(LateInteractionModel(backbone, [head]), LateTokenizer(teacher.tokenizer, settings))


def distill(
    sources: Sequence[Given],
    out: Path,
    run_folder: Path,
    config: DistillConfig,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train on the texts of `sources` and save the student to `out`.

    sources: .jsonl or .jsonl.gz files, each with the share of its texts to take, 0 < share <= 1.

    Started again with the same settings and run folder, it goes on from the last saved step. Under torchrun
    every process takes its part of each batch; the number of processes changes nothing but rounding.
    Returns the mean cosine on held-out chunks, before and after.
    """
    files = checked_sources(sources, ".jsonl or .jsonl.gz file")
    out, run_folder = output_folder(out), output_folder(run_folder)
    device = torch.device(device)
    teacher = Teacher(teacher_folder(config.teacher), device=str(device))
    if max(config.chunk_lengths) > teacher.max_length:
        raise ArgumentError(
            f"chunk_lengths={config.chunk_lengths} exceed the teacher's {teacher.max_length} positions"
        )
    claim_run(run_folder, config, files)  # before the files that are made once a run
    if rank() > 0:
        wait_for_all()  # the first process makes the files that all read
    if config.start_from:
        _take_teacher(Path(config.start_from), run_folder)
    singles, directions = _teacher_statistics(teacher, files, run_folder, config)
    checkpoint = build_student(config, teacher, singles, directions)
    held_out, chunks = _chunks(files, checkpoint.tokenizer, run_folder, config)
    if rank() == 0:
        wait_for_all()
    directions = directions.to(device)
    model = checkpoint.model.to(device).train()
    if config.start_from:
        load_weights(Path(config.start_from), model)

    def target(batch: PackedBatch) -> Tensor:
        return F.normalize(teacher(batch) @ directions, dim=-1)

    @torch.no_grad()
    def cosine() -> float:
        values, tokens = 0.0, 0
        for _, batch in zip(range(16), held_out.batches(config.batch_tokens, seed=1), strict=False):
            with fast_matmul(device):
                values += float((model(batch.to(device)) * target(batch)).sum())
            tokens += len(batch.input_ids)
        return values / tokens

    optimiser = adamw(model, lr=config.lr, embedding_lr=config.embedding_lr)
    run = TrainingRun(run_folder, model, optimiser, save_every=config.save_every, clip=1.0)
    run.log(tokens_in_sources=int(chunks.offsets[-1]))
    before = run.at_start("held_out_cosine", cosine)
    say(
        f"step {run.step}: held-out cosine {before:.4f} at the start; {len(chunks):,} chunks, "
        f"{chunks.offsets[-1]:,} tokens, {world_size()} process(es)"
    )
    pace = Pace()
    losses: list[float] = []

    def gradients(batch: PackedBatch) -> Tensor:
        tokens = len(batch.input_ids)
        pace.tokens += tokens
        sequences = torch.split(batch.input_ids, list(batch.lengths))[rank() :: world_size()]
        if not sequences:
            return torch.zeros((), device=device)
        own = pack([ids.tolist() for ids in sequences]).to(device)
        with fast_matmul(device):
            loss = token_cosine_loss(model(own), target(own))
        # The mean over processes of this is the mean over the batch's tokens.
        loss = loss * (len(own.input_ids) * world_size() / tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def report(step: int, loss: float) -> bool:
        losses.append(loss)
        if step % REPORT_EVERY == 0:
            mean, speed = sum(losses) / len(losses), pace.taken()
            run.log(loss=round(mean, 5), tokens_per_second=round(speed))
            say(f"step {step}/{config.steps}: loss {mean:.4f}, {speed:,.0f} tokens/s")
            losses.clear()
        if step % config.save_every == 0:
            with pace.paused():
                value = cosine()
            run.log(held_out_cosine=value)
            say(f"step {step}: held-out cosine {value:.4f}")
            if rank() == 0:
                save_checkpoint(run_folder / "model", checkpoint, dtype=dtype)
        return False

    dtype = torch.float16 if config.half else torch.float32
    run.train(
        config.steps,
        chunks.batches(config.batch_tokens, config.seed, start=run.step),
        gradients,
        rate=lambda step: warmup_linear(step, config.steps, config.warmup),
        report=report,
    )
    after = run.at_end("held_out_cosine", cosine)
    if rank() == 0:
        save_checkpoint(out, checkpoint, dtype=dtype)
    return {"held_out_cosine_before": before, "held_out_cosine": after}


def _take_teacher(earlier: Path, run_folder: Path) -> None:
    """The targets must stay what the weights were trained towards, whatever the texts are now."""
    if not (earlier / "teacher.safetensors").is_file():
        raise ArgumentError(f"{earlier} is no folder of a distillation run; pass one that a run was kept in")
    if not (run_folder / "teacher.safetensors").is_file():
        shutil.copyfile(earlier / "teacher.safetensors", run_folder / "teacher.safetensors")


def _teacher_statistics(
    teacher: Teacher, sources: Sequence[DataFile], folder: Path, config: DistillConfig
) -> tuple[Tensor, Tensor]:
    """(vocab_size, hidden) single-token vectors and (hidden, dim) principal directions; kept in the folder."""
    path = folder / "teacher.safetensors"
    if not path.is_file():
        print("teacher: vectors of every token alone, then principal directions of tokens in context")
        with fast_matmul("cpu"):
            singles = teacher.single_token_vectors(progress=progress_shown())
            tokenizer = LateTokenizer(teacher.tokenizer, TokenizerSettings("", "", do_query_expansion=False))
            share = -(-2000 // len(sources))
            texts = (
                t for source, _ in sources for t, _ in zip(read_texts(source), range(share), strict=False)
            )
            sample = Chunks.of_texts(texts, tokenizer, [128], config.seed, desc="sample")
            if not len(sample):
                raise CorpusError(f"no text in {', '.join(str(p) for p, _ in sources)}; pass more")
            rows = [teacher(b) for b, _ in zip(sample.batches(4096, config.seed), range(50), strict=False)]
        directions = principal_directions(torch.cat(rows), config.dim)
        write_tensors(path, {"singles": singles, "directions": directions})
    kept = read_tensors(path, "delete it, and it is made again")
    return kept["singles"], kept["directions"]


def _chunks(
    sources: Sequence[DataFile], tokenizer: LateTokenizer, folder: Path, config: DistillConfig
) -> tuple[Chunks, Chunks]:
    """(held-out, training) chunks, tokenised once a run folder. One chunk in 200 is held out."""
    whole = []
    for i, (source, share) in enumerate(sources):
        path = folder / f"chunks-{i:02d}-{source.name.split('.')[0]}.npz"
        if not path.is_file():
            random = np.random.default_rng((config.seed, i))
            texts = (text for text in read_texts(source) if random.random() < share)
            Chunks.of_texts(texts, tokenizer, config.chunk_lengths, config.seed + i, desc=source.name).save(
                path
            )
        whole.append(Chunks.load(path))
        if not len(whole[-1]):
            raise CorpusError(f"{source} gives no text at share={share:g}; pass more, or a larger share")
    chunks = Chunks.concatenate(whole)
    if len(chunks) < 2:
        raise CorpusError(f"{source} gives one chunk of text, and one is to be held out; pass more")
    drawn = torch.rand(len(chunks), generator=torch.Generator().manual_seed(config.seed))
    held = (drawn < 0.005) | (drawn == drawn.min())  # one at least
    return chunks.subset(held.numpy()), chunks.subset(~held.numpy())
