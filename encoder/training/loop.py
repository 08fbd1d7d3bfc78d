"""What every kind of training shares: optimiser groups, schedule, and a run folder to resume from."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder.errors import ArgumentError
from encoder.training.distributed import average, rank, world_size

Batch = TypeVar("Batch")

__all__ = ["TrainingRun", "adamw", "load_moments", "load_weights", "warmup_linear"]


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
    tensors = load_file(path)
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
            optimiser.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}


class TrainingRun:
    """A folder with the state of a run and its log; a run started again goes on where it was saved.

    The state is safetensors and JSON, written aside and renamed, so that a run killed while it saves
    keeps the state before. Under torchrun every process trains, the first one writes.

    data_state: what the data need to go on, kept with the state and found in `kept_data` by a run that resumes.
    """

    def __init__(
        self, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict[str, object]
    ):
        self.folder = folder
        self.model = model
        self.optimiser = optimiser
        self.step = 0
        self.best = -math.inf  # the highest nDCG@10, or other metric, so far, where a run is evaluated
        self.before = math.nan  # what `at_start` measured
        self.data_state: Callable[[], dict[str, Tensor]] = dict
        self.kept_data: dict[str, Tensor] = {}
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        if kept.is_file():
            before = json.loads(kept.read_text())
            keys = (before.keys() | settings.keys()) - {"steps"}  # a run may be made longer or shorter
            changed = sorted(k for k in keys if before.get(k) != settings.get(k))
            if changed:
                raise ArgumentError(
                    f"{folder} holds a run with {changed[0]}={before.get(changed[0])!r}, now "
                    f"{settings.get(changed[0])!r}; pass the same settings or another folder"
                )
        if rank() == 0:
            aside = folder / "settings.tmp"  # another process may be reading
            aside.write_text(json.dumps(settings, indent=2, default=str) + "\n")
            aside.rename(kept)
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
        if rank() > 0:
            return
        aside = self.folder / "state.tmp"
        metadata = {"step": str(self.step), "best": repr(self.best), "before": repr(self.before)}
        save_file({k: v.contiguous() for k, v in self._tensors().items()}, aside, metadata=metadata)
        aside.rename(self.folder / "state.safetensors")

    def _resume(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            self.best = float(file.metadata().get("best", "-inf"))
            self.before = float(file.metadata().get("before", "nan"))
        tensors = load_weights(self.folder, self.model)
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
            self.before = measure()
            self.log(**{name: self.before})
        return self.before

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
        clip: float | None = 1.0,
        save_every: int = 500,
        report: Callable[[int, float], bool],
    ) -> None:
        """Steps until `steps`, or until `report`, called after each, says so.

        batches: from the batch of `self.step` on. gradients: adds a batch's gradients to the parameters and
        returns its loss; under torchrun each process brings its own batch, and both are averaged over all.
        clip: the greatest norm of the gradients, None for any.
        """
        for batch in batches:
            if self.step >= steps:
                break
            self.set_rate(rate(self.step))
            loss = gradients(batch)
            if world_size() > 1:
                self._average(loss)
            if not torch.isfinite(loss):
                raise ArgumentError(f"the loss is {loss.item()} at step {self.step}; lower the learning rate")
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.step += 1
            done = report(self.step, loss.item())
            if done or self.step % save_every == 0 or self.step == steps:
                self.save()
            if done:
                break

    def _average(self, loss: Tensor) -> None:
        """Loss and gradients become their means over all processes; one that has no gradient brings zeros."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        average([loss, *(p.grad for p in parameters if p.grad is not None)])
