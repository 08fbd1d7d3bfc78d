"""EncoderConfig: a ModernBERT's shape, read from either Hugging Face form of `config.json`; DenseConfig: a layer's of
its head. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encoder.errors import CheckpointError

__all__ = ["ACTIVATIONS", "DenseConfig", "EncoderConfig"]

# sentence-transformers writes a dotted class name; only these are known, nothing is imported by name.
ACTIVATIONS = (
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.activation.Tanh",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.GELU",
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.activation.Sigmoid",
)
GLOBAL, LOCAL = "full_attention", "sliding_attention"  # transformers' names for the two kinds of layer


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a ModernBERT (arXiv 2412.13663, table 4). Defaults are the base model's."""

    vocab_size: int = 50_368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_layers: int = 22
    num_heads: int = 12
    max_positions: int = 8192
    global_every: int = 3  # layer i is global when i % global_every == 0, unless layer_types says otherwise
    layer_types: tuple[str, ...] = ()
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_window: int = 64  # a local layer sees |i - j| <= local_window, both ends included
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    pad_id: int = 50_283
    cls_id: int = 50_281
    sep_id: int = 50_282

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 2:
            raise CheckpointError(
                f"hidden_size={self.hidden_size} over num_attention_heads={self.num_heads} gives no even head "
                "dimension; rotary embeddings need one"
            )
        if not self.layer_types:
            kinds = tuple(LOCAL if i % self.global_every else GLOBAL for i in range(self.num_layers))
            object.__setattr__(self, "layer_types", kinds)
        if len(self.layer_types) != self.num_layers or set(self.layer_types) - {GLOBAL, LOCAL}:
            raise CheckpointError(
                f"layer_types has {len(self.layer_types)} entries of {sorted(set(self.layer_types))} for "
                f"{self.num_layers} layers; each must be {GLOBAL!r} or {LOCAL!r}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def is_global(self, layer: int) -> bool:
        return self.layer_types[layer] == GLOBAL

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Hugging Face's names of the parameters, with their shapes."""
        d, wide = self.hidden_size, self.intermediate_size
        linears = {
            "attn.Wqkv": (3 * d, d, self.attention_bias),
            "attn.Wo": (d, d, self.attention_bias),
            "mlp.Wi": (2 * wide, d, self.mlp_bias),
            "mlp.Wo": (d, wide, self.mlp_bias),
        }
        norms = ["embeddings.norm", "final_norm"]
        found: dict[str, tuple[int, ...]] = {"embeddings.tok_embeddings.weight": (self.vocab_size, d)}
        for i in range(self.num_layers):
            # The first layer has no norm before its attention: the embeddings were just normed.
            norms += [f"layers.{i}.{name}" for name in ("attn_norm", "mlp_norm")[not i :]]
            for name, (rows, columns, bias) in linears.items():
                found[f"layers.{i}.{name}.weight"] = rows, columns
                found |= {f"layers.{i}.{name}.bias": (rows,)} if bias else {}
        for name in norms:
            found[f"{name}.weight"] = (d,)
            found |= {f"{name}.bias": (d,)} if self.norm_bias else {}
        return found

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> "EncoderConfig":
        """Read a parsed `config.json` of model_type "modernbert".

        Two forms exist: the older has `global_rope_theta`, `local_rope_theta` and
        `global_attn_every_n_layers`; transformers 5 writes `rope_parameters` and `layer_types`.
        Raises CheckpointError, naming `where` and the key, for anything else.
        """

        def need(key: str) -> Any:
            if key not in raw:
                raise CheckpointError(f"{where} lacks {key!r}; it is not a ModernBERT configuration")
            return raw[key]

        if need("model_type") != "modernbert":
            raise CheckpointError(f"{where}: model_type={raw['model_type']!r}, expected 'modernbert'")
        if raw.get("hidden_activation", "gelu") != "gelu":
            raise CheckpointError(f"{where}: hidden_activation={raw['hidden_activation']!r}, expected 'gelu'")

        layer_types: tuple[str, ...] = ()
        if raw.get("rope_parameters") is not None:
            layer_types = tuple(need("layer_types"))
            thetas = {}
            for kind in (GLOBAL, LOCAL):
                rope = raw["rope_parameters"].get(kind)
                # A model of global layers only has no entry for local ones; any theta will do there.
                if rope is None and kind not in layer_types:
                    rope = {"rope_theta": 10_000.0}
                if not isinstance(rope, Mapping) or "rope_theta" not in rope:
                    raise CheckpointError(f"{where}: rope_parameters lacks {kind!r} with a 'rope_theta'")
                if rope.get("rope_type", "default") != "default":
                    raise CheckpointError(
                        f"{where}: rope_parameters[{kind!r}] has rope_type={rope['rope_type']!r}; "
                        "only 'default' is known"
                    )
                thetas[kind] = float(rope["rope_theta"])
            global_theta, local_theta = thetas[GLOBAL], thetas[LOCAL]
        elif raw.get("global_rope_theta") is not None:
            global_theta = float(raw["global_rope_theta"])
            # The older form writes null where local layers use the global theta.
            local_theta = float(raw["local_rope_theta"] or global_theta) if "local_rope_theta" in raw else 0.0
            if not local_theta:
                need("local_rope_theta")
            need("global_attn_every_n_layers")
        else:
            raise CheckpointError(
                f"{where} has neither 'rope_parameters' (transformers 5) nor 'global_rope_theta' (older form)"
            )
        return cls(
            vocab_size=int(need("vocab_size")),
            hidden_size=int(need("hidden_size")),
            intermediate_size=int(need("intermediate_size")),
            num_layers=int(need("num_hidden_layers")),
            num_heads=int(need("num_attention_heads")),
            max_positions=int(raw.get("max_position_embeddings", 8192)),
            global_every=int(raw.get("global_attn_every_n_layers", 3)),
            layer_types=layer_types,
            global_rope_theta=global_theta,
            local_rope_theta=local_theta,
            local_window=int(raw.get("local_attention", 128)) // 2,
            norm_eps=float(raw.get("norm_eps", 1e-5)),
            norm_bias=bool(raw.get("norm_bias", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            pad_id=int(need("pad_token_id")),
            cls_id=int(raw.get("cls_token_id", raw.get("bos_token_id", 50_281))),
            sep_id=int(raw.get("sep_token_id", raw.get("eos_token_id", 50_282))),
        )

    def to_hf(self) -> dict[str, Any]:
        """A `config.json` that every transformers with ModernBERT reads: both forms in one."""
        return {
            "architectures": ["ModernBertModel"],
            "model_type": "modernbert",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "hidden_activation": "gelu",
            "max_position_embeddings": self.max_positions,
            "global_attn_every_n_layers": self.global_every,
            "global_rope_theta": self.global_rope_theta,
            "local_rope_theta": self.local_rope_theta,
            "layer_types": list(self.layer_types),
            "rope_parameters": {
                GLOBAL: {"rope_type": "default", "rope_theta": self.global_rope_theta},
                LOCAL: {"rope_type": "default", "rope_theta": self.local_rope_theta},
            },
            "local_attention": 2 * self.local_window,
            "norm_eps": self.norm_eps,
            "norm_bias": self.norm_bias,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "pad_token_id": self.pad_id,
            "bos_token_id": self.cls_id,
            "cls_token_id": self.cls_id,
            "eos_token_id": self.sep_id,
            "sep_token_id": self.sep_id,
        }


@dataclass(frozen=True)
class DenseConfig:
    """act(linear(x)) + residual(x); the residual is the identity where the widths agree."""

    in_features: int
    out_features: int
    bias: bool = False
    activation_function: str = ACTIVATIONS[0]
    use_residual: bool = False

    def __post_init__(self) -> None:
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(name.rsplit(".", 1)[1] for name in ACTIVATIONS)
            raise CheckpointError(
                f"activation_function={self.activation_function!r} is not known; known: {known}"
            )

    @property
    def activation(self) -> str:
        """Its short name."""
        return self.activation_function.rsplit(".", 1)[1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the parameters, with their shapes."""
        found: dict[str, tuple[int, ...]] = {"linear.weight": (self.out_features, self.in_features)}
        if self.bias:
            found["linear.bias"] = (self.out_features,)
        if self.use_residual and self.in_features != self.out_features:
            found["residual.weight"] = self.out_features, self.in_features
        return found
