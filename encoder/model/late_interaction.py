"""LateInteractionModel: a backbone and its Dense head, giving one unit vector a token."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.checkpoints.hf import HfBackbone
from encoder.checkpoints.parts import check_widths
from encoder.model.config import DenseConfig
from encoder.model.modernbert import ModernBert
from encoder.model.packing import PackedBatch

__all__ = ["Dense", "LateInteractionModel"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
}


class Dense(nn.Module):
    """act(linear(x)) + residual(x); the residual is the identity where the widths agree."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        self.activation = _FUNCTIONS[config.activation]
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
        self.dim = check_widths(backbone.config.hidden_size, [dense.config for dense in head])

    def forward(self, batch: PackedBatch) -> Tensor:
        """Unit token vectors (total_tokens, dim), float32."""
        x = self.backbone(batch)
        for dense in self.head:
            x = dense(x)
        return F.normalize(x.float(), dim=-1)
