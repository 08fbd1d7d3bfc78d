"""StableAdamW, and how learning rate and batch size run over a pre-training (Warner et al. 2024, section 2.2)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from encoder.errors import ArgumentError

__all__ = ["StableAdamW", "batch_size_at", "stable_adamw", "trapezoid"]

FLOOR = 0.001  # the part of the peak rate that a decay ends at


class StableAdamW(torch.optim.Optimizer):
    """AdamW with Adafactor's clipping of updates (Wortsman et al. 2023, arXiv 2304.13013, algorithm 2).

    A tensor's rate is divided by max(1, RMS(gradient / sqrt(second moment))): where gradients outgrow what
    the second moment remembers, steps get shorter. This takes the place of gradient clipping.
    Weight decay is the part of a weight lost a step at the peak rate; it follows the schedule, not the peak.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            decay = group["weight_decay"] / group.get("initial_lr", group["lr"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, decay)

    def _update(self, parameter: Tensor, group: dict[str, Any], decay: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = float(state["step"])
        # Betas that grow from 0 towards their value keep both averages unbiased, so none is corrected later.
        beta1, beta2 = (b * (1 - b ** (step - 1)) / (1 - b**step) for b in group["betas"])
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rms = (gradient.square() / square.clamp(min=group["eps"] ** 2)).mean().sqrt()
        rate = group["lr"] / rms.clamp(min=1.0)  # a tensor: no wait for the device
        parameter.mul_(1 - rate * decay)
        parameter.sub_(rate * mean / (square.sqrt() + group["eps"]))


def stable_adamw(model: nn.Module, *, lr: float, weight_decay: float) -> StableAdamW:
    """StableAdamW with no decay on norms and biases."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return StableAdamW(groups, lr=lr)


def trapezoid(step: int, total: int, warmup: int, decay: int) -> float:
    """Factor on the rate: up over `warmup` steps, level, down over the last `decay` by 1 - sqrt to FLOOR.

    The level part can be prolonged at will, and a decay started from any step of it (Hagele et al. 2024,
    arXiv 2405.18392).
    """
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    since = step + 1 - (total - decay)  # the last step gets the floor
    if since > 0:
        factor *= FLOOR + (1 - FLOOR) * (1 - min(1.0, since / decay) ** 0.5)
    return factor


def batch_size_at(step: int, first: int, last: int, warmup: int) -> int:
    """From `first` to `last` within `warmup` steps, every size between them for as many steps as any other."""
    if first > last:
        raise ArgumentError(f"batch_size_start={first} exceeds batch_size={last}; pass at most {last}")
    return last if step >= warmup else first + (last - first + 1) * step // warmup
