"""Retrieval training: late interaction (`train colbert`) and single vectors (`train dense`), one loop."""

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from encoder.arguments import as_list
from encoder.checkpoints.folder import output_folder
from encoder.checkpoints.loading import Checkpoint, load_checkpoint, save_checkpoint
from encoder.checkpoints.places import resolve_folder
from encoder.errors import ArgumentError, CorpusError
from encoder.model.modernbert import ModernBert
from encoder.training.configs import RetrievalConfig
from encoder.training.data import Given, checked_sources
from encoder.training.distributed import first_says, rank, say, world_size
from encoder.training.loop import Pace, TrainingRun, adamw, claim_run, warmup_linear
from encoder.training.objective import RetrievalLoss
from encoder.training.pairs import Batch, Example, Source, batches, read_examples
from encoder.training.topics import Topics

__all__ = ["Evaluate", "train_retrieval"]

IDF_SAMPLE = 5000  # documents of each source
REPORT_EVERY = 20

Evaluate = Callable[[Checkpoint], dict[str, float]]


def train_retrieval(
    sources: Sequence[Given],
    out: Path,
    run_folder: Path,
    config: RetrievalConfig,
    *,
    evaluate: Evaluate | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train `config.model` on examples and save it to `out`: the best by nDCG@10 where `evaluate` is given.

    sources: what `read_examples` reads, each with the share of its examples that an epoch takes.
    config.unlabelled: sources whose queries the teacher alone judges (`teacher_kl_weight`, which then holds for these
    and not for the others): their positives are documents to be ordered, half of their queries are spans of text.
    evaluate: the model → metrics, "nDCG@10" among them; called every `eval_every` steps, by the first process.
    Started again with the same settings and run folder, it goes on from the last saved step. Under torchrun
    every process encodes its part of each batch; the number of processes changes nothing but rounding.
    Returns the mean loss on held-out batches, before and after, and the best nDCG@10.
    """
    if config.patience and not (config.eval_every and evaluate):
        raise ArgumentError(f"patience={config.patience} needs evaluations: pass eval_every and a data set")
    files = checked_sources(
        [*as_list(sources, "sources"), *config.unlabelled], ".jsonl, .jsonl.gz or PyLate folder"
    )
    n_labelled = len(files) - len(config.unlabelled)
    out, run_folder = output_folder(out), output_folder(run_folder)
    training, held_out = [], []
    for i, (path, share) in enumerate(files):
        kept, held = _split(path, config.batch_size)
        training.append(_source(kept, share, i < n_labelled, config))
        held_out.append(_source(held, 1.0, i < n_labelled, config))
    checkpoint = load_checkpoint(resolve_folder(config.model))
    model = checkpoint.model.to(device).train()
    if config.recompute:
        if not isinstance(model.backbone, ModernBert):
            raise ArgumentError(f"recompute=True is for ModernBERT, and {config.model} is none; leave it out")
        model.backbone.recompute = True
    names = tuple(path.name for path, _ in files[n_labelled:])  # wherever they lie
    claim_run(run_folder, replace(config, unlabelled=names), files)
    optimiser = adamw(model, lr=config.lr, embedding_lr=config.embedding_lr)
    run = TrainingRun(run_folder, model, optimiser, save_every=config.save_every, clip=1.0)
    objective = RetrievalLoss(checkpoint, config, run_folder)
    objective.fit_idf([e.documents[0] for source in training for e in source.examples[:IDF_SAMPLE]])

    def plan(start: int) -> Iterator[Batch]:
        return batches(
            training,
            size=config.batch_size,
            n_negatives=config.n_negatives,
            seed=config.seed,
            start=start,
        )

    @torch.no_grad()
    def held_out_loss() -> float:
        losses = [
            float(objective.loss(batch, i)) for i, batch in enumerate(_held_out_batches(held_out, config))
        ]
        return sum(losses) / len(losses)

    def save(folder: Path) -> None:
        if rank() == 0:
            dtype = torch.float16 if config.half else torch.float32
            save_checkpoint(folder, checkpoint, dtype=dtype)

    objective.fit_projection(plan(0))
    before = run.at_start("held_out_loss", held_out_loss)
    n_examples = sum(len(source.examples) for source in training)
    say(
        f"step {run.step}: held-out loss {before:.4f} at the start; {n_examples:,} examples, "
        f"{world_size()} process(es)"
    )
    losses: list[float] = []
    pace = Pace()
    without_better = 0

    def gradients(batch: Batch) -> torch.Tensor:
        loss, tokens = objective.gradients(batch, run.step)
        pace.tokens += tokens
        return loss

    def report(step: int, loss: float) -> bool:
        """True ends the run."""
        nonlocal without_better
        losses.append(loss)
        if step % REPORT_EVERY == 0:
            mean, speed = sum(losses) / len(losses), pace.taken()
            run.log(loss=round(mean, 5), tokens_per_second=round(speed))
            say(f"step {step}/{config.steps}: loss {mean:.4f}, {speed:,.0f} tokens/s")
            losses.clear()
        if step % config.save_every == 0:
            with pace.paused():
                save(run_folder / "model")
        if evaluate is None or not config.eval_every or step % config.eval_every:
            return False
        found = {"nDCG@10": math.nan}
        if rank() == 0:
            with pace.paused():
                model.eval()
                found = evaluate(checkpoint)
                model.train()
        run.log(**found)
        say(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        without_better += 1
        value = first_says(found["nDCG@10"], device)
        if value > run.best:
            run.best, without_better = value, 0
            save(run_folder / "best")
        return bool(config.patience) and without_better >= config.patience

    run.train(
        config.steps,
        plan(run.step),
        gradients,
        rate=lambda step: warmup_linear(step, config.steps, config.warmup),
        report=report,
    )
    after = run.at_end("held_out_loss", held_out_loss)
    if rank() == 0 and (run_folder / "best").is_dir():
        shutil.copytree(run_folder / "best", out, dirs_exist_ok=True)
    else:
        save(out)
    result = {"held_out_loss_before": before, "held_out_loss": after}
    return result | ({} if run.best == -math.inf else {"nDCG@10": run.best})


def _split(path: Path, batch_size: int) -> tuple[list[Example], list[Example]]:
    """(training, held-out) examples. One in 50, and at least a batch where there are ten, is held out: every n-th of
    the file, but two at least: a query needs another's document beside its own."""
    examples = read_examples(path)
    every = min(50, max(10, len(examples) // batch_size), max(2, len(examples) - 1))
    kept = [e for i, e in enumerate(examples) if i % every]
    if len(kept) < batch_size:
        remedy = f"batch_size <= {len(kept)}, or " if len(kept) > 1 else ""
        raise CorpusError(
            f"{path} holds {len(examples)} examples, {len(kept)} without those held out, and a batch has "
            f"{batch_size}; pass {remedy}more examples"
        )
    return kept, examples[::every]


def _source(examples: list[Example], share: float, labelled: bool, config: RetrievalConfig) -> Source:
    if not config.topics:
        return Source(examples, share, labelled)
    seeds = max(1, config.batch_size // config.topics)
    return Source(examples, share, labelled, Topics(examples).grown, seeds)


def _held_out_batches(held_out: list[Source], config: RetrievalConfig) -> Iterator[Batch]:
    """Two of every source, whatever its share."""
    for held in held_out:
        size = min(config.batch_size, len(held.examples))
        found = batches([held], size=size, n_negatives=config.n_negatives, seed=1)
        yield from itertools.islice(found, 2)
