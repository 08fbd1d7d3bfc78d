"""ModernBERT (Warner et al. 2024, arXiv 2412.13663) on packed tokens, in one file.

Every activation is (total_tokens, ...): the sequences of a batch lie end to end and nothing is padded.
Parameter names are Hugging Face's, so a published state dict loads as it is.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from encoder.model.attention import AttentionPlan, varlen_attention
from encoder.model.config import EncoderConfig
from encoder.model.fused import add_norm, geglu, rotate_queries_and_keys
from encoder.model.packing import PackedBatch

__all__ = ["ModernBert"]


def layer_norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = layer_norm(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(input_ids))  # type: ignore[no-any-return]  # (T, d)


class Attention(nn.Module):
    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.window = None if config.is_global(layer) else config.local_window
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], plan: AttentionPlan) -> Tensor:
        qkv = self.Wqkv(x).unflatten(-1, (3, self.heads, -1))  # (T, 3, H, D)
        qkv = rotate_queries_and_keys(qkv, *rope)
        return self.Wo(varlen_attention(qkv, plan, self.window).flatten(1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """GeGLU: the first half of Wi is activated, the second gates it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.Wo(geglu(self.Wi(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Pre-norm. The first layer has no norm before its attention: the embeddings were just normed."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = layer_norm(config) if layer else nn.Identity()
        self.attn = Attention(config, layer)
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, delta: Tensor | None, rope: tuple[Tensor, Tensor], plan: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        """The sum so far and what the layer before adds to it, None at first → the same for the layer after: a sum
        is made where it is normed."""
        if delta is None:
            normed = self.attn_norm(x)
        else:
            x, normed = add_norm(x, delta, self.attn_norm)  # type: ignore[arg-type]
        x, normed = add_norm(x, self.attn(normed, rope, plan), self.mlp_norm)
        return x, self.mlp(normed)


class ModernBert(nn.Module):
    """The backbone: packed token ids in, one hidden vector a token out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # in training: layers are computed anew for their gradients (Chen et al. 2016)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.final_norm = layer_norm(config)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Hidden states (total_tokens, hidden_size), final norm applied."""
        config = self.config
        plan = AttentionPlan.of(batch)
        positions = batch.positions
        ropes = {
            True: rope_tables(positions, config.head_dim, config.global_rope_theta),
            False: rope_tables(positions, config.head_dim, config.local_rope_theta),
        }
        x, delta = self.embeddings(batch.input_ids), None
        for i, layer in enumerate(self.layers):
            given = x, delta, ropes[config.is_global(i)], plan
            again = self.recompute and torch.is_grad_enabled()
            x, delta = checkpoint(layer, *given, use_reentrant=False) if again else layer(*given)
        return self.final_norm(x) if delta is None else add_norm(x, delta, self.final_norm)[1]

    @torch.no_grad()
    def initialise(self, std: float = 0.02, generator: torch.Generator | None = None) -> None:
        """Megatron-style start: normal cut at two sigma, output projections by 1 / sqrt(2 L) smaller."""
        out = std / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                s = out if name.endswith("Wo.weight") else std
                nn.init.trunc_normal_(parameter, 0.0, s, -2 * s, 2 * s, generator=generator)


def rope_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every token's angles: (T, head_dim / 2) float32 each, whatever the model's dtype."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, None].float() * (1.0 / theta**exponent)
    return angles.cos(), angles.sin()
