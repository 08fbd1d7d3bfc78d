"""What every kind of training shares: optimiser groups, schedule, and a run folder to resume from."""

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from encoder.arguments import absolute
from encoder.checkpoints.folder import read_json, write_json
from encoder.checkpoints.places import BUNDLED
from encoder.checkpoints.tensors import not_finite, read_tensors, write_tensors
from encoder.devices import roomy
from encoder.errors import ArgumentError, CheckpointError
from encoder.training.data import DataFile
from encoder.training.distributed import any_says, average, rank, say, world_size
from encoder.training.interrupts import Interrupts

Batch = TypeVar("Batch")

__all__ = [
    "Pace",
    "TrainingRun",
    "adamw",
    "claim_run",
    "digests",
    "load_moments",
    "load_weights",
    "warmup_linear",
]

# What a run that goes on may have otherwise: how long it is, and what is saved and when.
FREE = {"steps", "save_every", "checkpoint_every", "half"}
PLACES = {"model", "teacher", "tokenizer", "tile_from", "start_from"}  # folders, or names that are not
FULL = "a step does not fit the memory of the GPU ({reason}); pass smaller batches, or recompute where it is offered"
REMEDY = "pass another run folder, or delete this one to begin again"


def adamw(
    model: nn.Module, *, lr: float, embedding_lr: float, weight_decay: float = 0.01
) -> torch.optim.AdamW:
    """AdamW with no decay on norms and a rate of its own for the token embeddings."""
    embeddings: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if "tok_embeddings" in name:
            embeddings.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": embeddings, "lr": embedding_lr, "weight_decay": 0.0},
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=True)


def warmup_linear(step: int, total: int, warmup: int) -> float:
    """Factor on the learning rate: up over `warmup` steps, then straight down to nothing at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def load_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Put a run's saved weights into a model of the same shape; all tensors of the saved state."""
    path = folder / "state.safetensors"
    if not path.is_file():
        raise ArgumentError(f"{path} is missing; pass the folder of a run that saved its state")
    tensors = read_tensors(path, REMEDY)
    for name, parameter in model.named_parameters():
        saved = tensors.get(f"model.{name}")
        if saved is None or saved.shape != parameter.shape:
            raise ArgumentError(f"{path} holds a model of another shape ({name}); pass the same sizes")
        parameter.data.copy_(saved)
    return tensors


def load_moments(tensors: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Give an optimiser what `load_weights` found of its state."""
    for name, parameter in model.named_parameters():
        prefix = f"optimiser.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            # The number of a step is read by the processor, but for torch's fused ones.
            there = optimiser.defaults.get("fused")
            optimiser.state[parameter] = {
                k: v.to(parameter.device) if v.ndim or there else v for k, v in state.items()
            }


def digests(paths: Iterable[Path]) -> list[str]:
    """name:hash of each file, or of each folder's .jsonl files: what tells that data have changed."""
    found = []
    for path in paths:
        whole = hashlib.blake2b(digest_size=16)
        for part in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            with part.open("rb") as file:
                own = hashlib.blake2b()  # hashlib.file_digest came with Python 3.11
                while block := file.read(1 << 20):
                    own.update(block)
            whole.update(own.digest())
        found.append(f"{path.name}:{whole.hexdigest()}")
    return found


def claim_run(folder: Path, config: Any, sources: Sequence[DataFile]) -> None:
    """Make a run's folder for these settings, or find that what is in it is theirs. To be called before any work.

    config: the dataclass of a kind of training, kept there as JSON with what tells that the sources have changed.
    """
    settings = asdict(config) | {
        "sources": [f"{path.name}:{share:g}" for path, share in sources],
        "data": digests(path for path, _ in sources),
    }
    for name in PLACES & settings.keys():  # so that a run can be resumed from anywhere
        place = Path(settings[name]).expanduser()
        if settings[name] not in ("", BUNDLED) and place.exists():
            settings[name] = str(place.resolve())
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if not kept.is_file() and (folder / "state.safetensors").is_file():
        raise CheckpointError(f"{kept} is missing beside the state of a run; {REMEDY}")
    begun = any(folder.glob("*.safetensors")) or any(folder.glob("*.npz"))
    if begun and kept.is_file():
        try:
            before = read_json(kept)
        except CheckpointError as error:
            raise CheckpointError(f"{kept} cannot be read; {REMEDY}") from error
        now = json.loads(json.dumps(settings))  # tuples are lists there
        keys = (before.keys() | now.keys()) - FREE
        changed = sorted(k for k in keys if before.get(k) != now.get(k))
        if changed == ["data"]:
            old = set(before["data"])
            names = [name.rpartition(":")[0] for name in now["data"] if name not in old]
            raise ArgumentError(
                f"{folder} holds a run on other data ({', '.join(names) or 'some'} changed since); "
                "pass the data it began with, or another folder"
            )
        if changed:
            key = next(k for k in changed if k != "data")
            raise ArgumentError(
                f"{folder} holds a run with {key}={before.get(key)!r}, now {now.get(key)!r}; "
                "pass the same settings or another folder"
            )
    if rank() == 0:
        aside = folder / "settings.tmp"  # another process may be reading
        write_json(aside, settings)
        aside.rename(kept)


class Pace:
    """Tokens a second of training, over all processes. tokens: since the last time it was `taken`."""

    def __init__(self) -> None:
        self.tokens = 0
        self._since = time.perf_counter()

    def taken(self) -> float:
        """Of the time since the last call, or the start."""
        now = time.perf_counter()
        speed = self.tokens / max(now - self._since, 1e-9)
        self.tokens, self._since = 0, now
        return speed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What takes time and is no training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


class TrainingRun:
    """The state and the log of a run in the folder that `claim_run` gave it; started again, it goes on where it was.

    The state is safetensors, written aside and renamed, so that a run killed while it saves
    keeps the state before. Under torchrun every process trains, the first one writes.

    save_every: steps between saves. clip: the greatest norm of the gradients, None for any.
    data_state: what the data need to go on, kept with the state and found in `kept_data` by a run that resumes.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        save_every: int = 500,
        clip: float | None = None,
    ):
        self.folder = absolute(folder)
        self.model = model
        self.optimiser = optimiser
        self.save_every = save_every
        self.clip = clip
        self.step = 0
        self.best = -math.inf  # the highest nDCG@10, or other metric, so far, where a run is evaluated
        self.before = math.nan  # what `at_start` measured
        self.data_state: Callable[[], dict[str, Tensor]] = dict
        self.kept_data: dict[str, Tensor] = {}
        self._resume()

    def _tensors(self) -> dict[str, Tensor]:
        names = {id(p): n for n, p in self.model.named_parameters()}
        tensors = {f"model.{n}": p.detach() for n, p in self.model.named_parameters()}
        for group in self.optimiser.param_groups:
            for p in group["params"]:
                for key, value in self.optimiser.state.get(p, {}).items():
                    tensors[f"optimiser.{names[id(p)]}.{key}"] = value
        return tensors | {f"data.{key}": value for key, value in self.data_state().items()}

    def save(self) -> None:
        """Refuses weights that are not finite: the state before stays."""
        if bad := not_finite(dict(self.model.named_parameters())):
            raise ArgumentError(f"{bad} is not finite after step {self.step}; lower the learning rate")
        if rank() == 0:
            metadata = {"step": str(self.step), "best": repr(self.best), "before": repr(self.before)}
            write_tensors(self.folder / "state.safetensors", self._tensors(), metadata)

    def _resume(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return
        tensors = load_weights(self.folder, self.model)
        with safe_open(path, framework="pt") as file:
            kept = file.metadata() or {}
        try:
            self.step, self.best, self.before = int(kept["step"]), float(kept["best"]), float(kept["before"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is no state of a run ({error}); {REMEDY}") from error
        load_moments(tensors, self.model, self.optimiser)
        self.kept_data = {k.removeprefix("data."): v for k, v in tensors.items() if k.startswith("data.")}

    def log(self, **values: object) -> None:
        if rank() > 0:
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")

    def at_start(self, name: str, measure: Callable[[], float]) -> float:
        """What `measure` gave when the run began: kept with the state, so that going on costs no measurement."""
        if math.isnan(self.before):
            self.before = self._measured(name, measure)
        return self.before

    def at_end(self, name: str, measure: Callable[[], float]) -> float:
        """What `measure` gives when the steps are done."""
        return self._measured(name, measure)

    def _measured(self, name: str, measure: Callable[[], float]) -> float:
        value = measure()
        if not math.isfinite(value):
            raise ArgumentError(
                f"{name.replace('_', ' ')} is {value} at step {self.step}; lower the learning rate, look at the data"
            )
        self.log(**{name: value})
        return value

    def set_rate(self, factor: float) -> None:
        for group in self.optimiser.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor

    def train(
        self,
        steps: int,
        batches: Iterable[Batch],
        gradients: Callable[[Batch], Tensor],
        *,
        rate: Callable[[int], float],
        report: Callable[[int, float], bool],
    ) -> None:
        """Steps until `steps`, or until `report`, called after each, says so.

        batches: from the batch of `self.step` on. gradients: adds a batch's gradients to the parameters and
        returns its loss; under torchrun each process brings its own batch, and both are averaged over all.
        """
        if self.step >= steps:
            say(f"{self.folder} is at step {self.step} of {steps} asked: nothing was left to do")
            return
        done = stop = False
        with Interrupts() as interrupts:
            for batch in batches:
                self.set_rate(rate(self.step))
                with roomy(FULL):
                    loss = gradients(batch)
                    if world_size() > 1:
                        self._average(loss)
                if not torch.isfinite(loss):
                    raise ArgumentError(
                        f"the loss is {loss.item()} at step {self.step}; lower the learning rate"
                    )
                if self.clip is not None:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                with roomy(FULL):
                    self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
                self.step += 1
                try:
                    interrupts.at_once = True  # an evaluation may take minutes
                    done = report(self.step, loss.item())
                    interrupts.at_once = False
                except KeyboardInterrupt:
                    if interrupts.caught is None:
                        raise
                    stop = True
                else:  # all end after the same step: the others would wait for one that is gone
                    stop = any_says(interrupts.caught is not None, loss.device)
                done = done or self.step >= steps
                if stop or done or self.step % self.save_every == 0:
                    self.save()
                if stop or done:
                    break
        if stop:
            self._interrupted(interrupts.caught)

    def _interrupted(self, caught: int | None) -> None:
        kept = f"step {self.step} is kept in {self.folder}; the same command goes on from there"
        if caught == signal.SIGTERM:
            if rank() == 0:
                print(f"interrupted; {kept}", file=sys.stderr, flush=True)
            signal.raise_signal(signal.SIGTERM)  # ends the process, or does what the caller asked for
        raise KeyboardInterrupt(kept)

    def _average(self, loss: Tensor) -> None:
        """Loss and gradients become their means over all processes; one that has no gradient brings zeros."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        average([loss, *(p.grad for p in parameters if p.grad is not None)])
