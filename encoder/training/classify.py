"""Classification and regression of texts and pairs, as the paper fine-tunes for GLUE: `latewood train classify`."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.arguments import absolute
from encoder.checkpoints.folder import output_folder
from encoder.checkpoints.places import resolve_folder
from encoder.errors import ArgumentError, CorpusError
from encoder.model.config import EncoderConfig
from encoder.model.heads import Classifier, load_heads, read_config, save_heads
from encoder.model.packing import length_sorted_batches, pack
from encoder.training.configs import ClassifyConfig
from encoder.training.distributed import rank, say, world_size
from encoder.training.labels import LabelledText, encode_texts, label_names, metric, read_labelled
from encoder.training.loop import Pace, TrainingRun, claim_run, warmup_linear
from encoder.training.mlm import plain_tokenizer
from encoder.training.optimiser import stable_adamw
from encoder.training.teacher import fast_matmul

__all__ = ["classification_loss", "train_classifier"]

EVAL_TOKENS = 8192  # of a forward pass without gradients


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed over texts. (n, classes) and int64 (n,): cross entropy; (n, 1) and float32 (n,): squared error."""
    if targets.dtype == torch.int64:
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    return F.mse_loss(logits.float().squeeze(-1), targets, reduction="sum")


def train_classifier(
    train: Path,
    dev: Path,
    out: Path,
    run_folder: Path,
    config: ClassifyConfig,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Fine-tune `config.model` on the labels of `train`; the best on `dev`, by the metric, goes to `out`.

    Started again with the same settings and run folder, it goes on from the last saved step.
    Returns dev loss before and after training, and the best metric.
    """
    device = torch.device(device)
    train, dev = absolute(train), absolute(dev)
    out, run_folder = output_folder(out), output_folder(run_folder)
    examples, dev_examples = read_labelled(train), read_labelled(dev)
    names = label_names(examples)
    score = metric(config.metric, regression=names is None)
    targets, dev_targets = _targets(examples, names, train), _targets(dev_examples, names, dev)

    folder = resolve_folder(config.model)
    raw = read_config(folder)
    tokenizer = plain_tokenizer(folder)
    pooling = config.pooling or str(raw.get("classifier_pooling", "cls"))
    model = Classifier(EncoderConfig.from_hf(raw, str(folder)), len(names or [0]), pooling)
    if config.length > model.config.max_positions:
        raise ArgumentError(
            f"length={config.length} exceeds the model's {model.config.max_positions} positions"
        )
    model.initialise(torch.Generator().manual_seed(config.seed))
    load_heads(folder, model)
    model.to(device)
    texts = encode_texts(examples, tokenizer, config.length)
    dev_texts = encode_texts(dev_examples, tokenizer, config.length)

    steps_an_epoch = -(-len(texts) // config.batch_size)
    steps = max(1, round(config.epochs * steps_an_epoch))
    eval_every = config.eval_every or steps_an_epoch
    optimiser = stable_adamw(model, lr=config.lr, weight_decay=config.weight_decay)
    claim_run(run_folder, config, [(train, 1.0), (dev, 1.0)])
    run = TrainingRun(run_folder, model, optimiser, save_every=config.save_every)
    about = {"classifier_pooling": pooling} | _about_labels(names)

    pace = Pace()

    def gradients(rows: list[int]) -> Tensor:
        pace.tokens += sum(len(texts[i]) for i in rows)
        own = rows[rank() :: world_size()]
        if not own:
            return torch.zeros((), device=device)
        with fast_matmul(device):
            logits = model(pack([texts[i] for i in own]).to(device))
            # The mean over processes of this is the mean over the batch.
            loss = classification_loss(logits, targets[own].to(device)) * world_size() / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def evaluate() -> tuple[float, float]:
        """(loss, metric) on dev."""
        logits = torch.empty(len(dev_texts), len(names or [0]))
        model.eval()
        for rows in length_sorted_batches([len(t) for t in dev_texts], EVAL_TOKENS):
            with fast_matmul(device):
                logits[rows] = model(pack([dev_texts[i] for i in rows]).to(device)).float().cpu()
        model.train()
        found = logits.argmax(-1) if names else logits[:, 0]
        loss = float(classification_loss(logits, dev_targets)) / len(dev_texts)
        return loss, score(dev_targets.numpy(), found.numpy())

    before = run.at_start("dev_loss", lambda: evaluate()[0])
    say(f"step {run.step}: dev loss {before:.4f} at the start; {len(texts):,} texts, {steps} steps")

    def report(step: int, loss: float) -> bool:
        run.log(loss=loss)
        if step % eval_every and step != steps:
            return False
        speed = pace.taken()
        with pace.paused():
            dev_loss, value = evaluate()
            run.log(dev_loss=dev_loss, metric=value, tokens_per_second=round(speed))
            say(
                f"step {step}/{steps}: loss {loss:.4f}, dev loss {dev_loss:.4f}, metric {value:.4f}, "
                f"{speed:,.0f} tokens/s"
            )
            if value > run.best:
                run.best = value
                if rank() == 0:
                    save_heads(run_folder / "best", model, tokenizer, about)
        return False

    model.train()
    run.train(
        steps,
        _batches(len(texts), config, run.step),
        gradients,
        rate=lambda step: warmup_linear(step, steps, max(1, round(config.warmup * steps))),
        report=report,
    )
    after = run.at_end("dev_loss", lambda: evaluate()[0])
    if rank() == 0:
        shutil.copytree(run_folder / "best", out, dirs_exist_ok=True)
    return {"dev_loss_before": before, "dev_loss": after, "metric": run.best}


def _targets(examples: Sequence[LabelledText], names: list[int | str] | None, path: Path) -> Tensor:
    if names is None:
        try:
            return torch.tensor([float(e.label) for e in examples])
        except ValueError as error:
            raise CorpusError(f"{path}: {error}; the training labels are numbers") from error
    numbers = {name: i for i, name in enumerate(names)}
    for example in examples:
        if example.label not in numbers:
            raise CorpusError(f"{path}: label {example.label!r} is not in the training file; known: {names}")
    return torch.tensor([numbers[e.label] for e in examples])  # type: ignore[index]


def _about_labels(names: list[int | str] | None) -> dict[str, object]:
    if names is None:
        return {"problem_type": "regression", "id2label": {"0": "value"}, "label2id": {"value": 0}}
    return {
        "problem_type": "single_label_classification",
        "id2label": {str(i): str(name) for i, name in enumerate(names)},
        "label2id": {str(name): i for i, name in enumerate(names)},
    }


def _batches(n: int, config: ClassifyConfig, start: int) -> Iterator[list[int]]:
    """Rows for ever, each epoch in an order of its own, the same for the same seed."""
    epoch = 0
    while True:
        order = np.random.default_rng((config.seed, epoch)).permutation(n).tolist()
        for i in range(0, n, config.batch_size):
            if start > 0:
                start -= 1
            else:
                yield order[i : i + config.batch_size]
        epoch += 1
