"""LateInteractionModel: a backbone and its Dense head, giving one unit vector a token."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.checkpoints.hf import HfBackbone
from encoder.errors import CheckpointError
from encoder.model.modernbert import ModernBert
from encoder.model.packing import PackedBatch

__all__ = ["ACTIVATIONS", "Dense", "DenseConfig", "LateInteractionModel"]

# sentence-transformers writes a dotted class name; only these are looked up, nothing is imported by name.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.activation.ReLU": F.relu,
    "torch.nn.modules.activation.GELU": F.gelu,
    "torch.nn.modules.activation.SiLU": F.silu,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class DenseConfig:
    in_features: int
    out_features: int
    bias: bool = False
    activation_function: str = "torch.nn.modules.linear.Identity"
    use_residual: bool = False

    def __post_init__(self) -> None:
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(name.rsplit(".", 1)[1] for name in ACTIVATIONS)
            raise CheckpointError(
                f"activation_function={self.activation_function!r} is not known; known: {known}"
            )


class Dense(nn.Module):
    """act(linear(x)) + residual(x); the residual is the identity where the widths agree."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation_function]
        self.linear = nn.Linear(config.in_features, config.out_features, bias=config.bias)
        if config.use_residual and config.in_features != config.out_features:
            self.residual = nn.Linear(config.in_features, config.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.linear(x))
        if not self.config.use_residual:
            return out
        return out + (self.residual(x) if hasattr(self, "residual") else x)


class LateInteractionModel(nn.Module):
    def __init__(self, backbone: ModernBert | HfBackbone, head: list[Dense]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleList(head)
        width = backbone.config.hidden_size
        for i, dense in enumerate(head, 1):
            if dense.config.in_features != width:
                raise CheckpointError(
                    f"Dense {i} takes in_features={dense.config.in_features}, what is before gives {width}"
                )
            width = dense.config.out_features
        self.dim = width

    def forward(self, batch: PackedBatch) -> Tensor:
        """Unit token vectors (total_tokens, dim), float32."""
        x = self.backbone(batch)
        for dense in self.head:
            x = dense(x)
        return F.normalize(x.float(), dim=-1)
