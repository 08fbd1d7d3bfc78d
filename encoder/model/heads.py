"""ModernBERT with the heads it is trained by: masked tokens, and labels of texts.

Names and arithmetic are those of transformers' ModernBertForMaskedLM and ModernBertForSequenceClassification,
so folders go both ways; retrieval reads them as plain backbones.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.checkpoints.folder import backbone_folder, output_folder, read_json, read_modules, write_json
from encoder.checkpoints.loading import assign
from encoder.checkpoints.tensors import read_weights, write_tensors
from encoder.checkpoints.tokenizer_files import tokenizer_config
from encoder.errors import CheckpointError
from encoder.model.config import EncoderConfig
from encoder.model.modernbert import ModernBert, layer_norm
from encoder.model.packing import PackedBatch
from encoder.tokenizer import LateTokenizer

__all__ = ["Classifier", "MaskedLanguageModel", "load_heads", "read_config", "save_heads"]

POOLINGS = ("cls", "mean")


class PredictionHead(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = layer_norm(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(x)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator | None) -> None:
        nn.init.trunc_normal_(self.dense.weight, 0.0, std, -2 * std, 2 * std, generator=generator)


class Decoder(nn.Module):
    """Hidden vectors → the vocabulary. The matrix is the embeddings'; only the bias is its own."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        return F.linear(x, embeddings, self.bias)


class MaskedLanguageModel(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ModernBert(config)
        self.head = PredictionHead(config)
        self.decoder = Decoder(config.vocab_size)

    def forward(self, batch: PackedBatch, where: Tensor | None = None) -> Tensor:
        """Logits (tokens, vocab_size); where: (total_tokens,) bool, the tokens to predict, None for all.

        The vocabulary costs more than a small model's layers, so it is kept to the tokens that count.
        """
        x = self.model(batch)
        x = self.head(x if where is None else x[where])
        return self.decoder(x, self.model.embeddings.tok_embeddings.weight)  # type: ignore[no-any-return]

    def initialise(self, std: float = 0.02, generator: torch.Generator | None = None) -> None:
        """Megatron-style, as `ModernBert.initialise`; the head's matrix counts as an output projection."""
        self.model.initialise(std, generator)
        self.head.initialise(std / (2 * self.config.num_layers) ** 0.5, generator)


class Classifier(nn.Module):
    """One row of logits a text, or one number for a regression."""

    def __init__(self, config: EncoderConfig, n_labels: int, pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise CheckpointError(f"classifier_pooling={pooling!r}; known: {', '.join(POOLINGS)}")
        self.config = config
        self.pooling = pooling
        self.model = ModernBert(config)
        self.head = PredictionHead(config)
        self.classifier = nn.Linear(config.hidden_size, n_labels)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits (n texts, n_labels)."""
        x = self.model(batch)
        starts = batch.cu_seqlens[:-1].long()
        if self.pooling == "cls":
            x = x[starts]
        else:
            lengths = torch.tensor(batch.lengths, device=x.device)
            text = torch.arange(len(lengths), device=x.device).repeat_interleave(lengths)  # (T,)
            x = x.new_zeros(len(lengths), x.shape[1]).index_add_(0, text, x) / lengths[:, None].to(x.dtype)
        return self.classifier(self.head(x))  # type: ignore[no-any-return]

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """The head and the classifier only: the backbone comes from a folder."""
        self.head.initialise(0.02 / (2 * self.config.num_layers) ** 0.5, generator)
        std = self.config.hidden_size**-0.5
        nn.init.trunc_normal_(self.classifier.weight, 0.0, std, -2 * std, 2 * std, generator=generator)
        nn.init.zeros_(self.classifier.bias)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder's backbone."""
    raw: dict[str, Any] = read_json(_base(folder) / "config.json")
    if raw.get("classifier_activation", "gelu") != "gelu":
        raise CheckpointError(
            f"{folder}: classifier_activation={raw['classifier_activation']!r}, expected 'gelu'"
        )
    return raw


def _base(folder: Path) -> Path:
    return backbone_folder(folder, read_modules(folder))


def load_heads(folder: Path, model: MaskedLanguageModel | Classifier) -> None:
    """A folder's weights into an initialised model. A head that the folder lacks, or has for other labels, stays
    as it is; the backbone must be there."""
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    for key, value in read_weights(_base(folder)).items():
        name = key.removeprefix("bert.")
        if not name.startswith(("model.", "head.", "decoder.", "classifier.", "linear.")):
            name = f"model.{name}"
        found[name] = value.float()
    own = {name: value for name, value in wanted.items() if not name.startswith("model.")}
    if unknown := [name for name in found if name.startswith("head.") and name not in own]:
        raise CheckpointError(f"{folder}: the head has {unknown[0]!r}, which ModernBERT's has not")
    kept = {name: found.pop(name) for name in own if name in found and found[name].shape == own[name].shape}
    backbone = {name: value for name, value in found.items() if name.startswith("model.")}
    assign(model, own | kept | backbone, folder)


def save_heads(
    folder: Path, model: MaskedLanguageModel | Classifier, tokenizer: LateTokenizer, about: dict[str, Any]
) -> None:
    """Write what transformers' from_pretrained and `load_heads` read. about: further keys of config.json."""
    folder = output_folder(folder)
    kind = "MaskedLM" if isinstance(model, MaskedLanguageModel) else "SequenceClassification"
    write_json(
        folder / "config.json",
        model.config.to_hf()
        | {"architectures": [f"ModernBertFor{kind}"], "dtype": "float32", "tie_word_embeddings": True}
        | {"decoder_bias": True, "classifier_bias": False, "classifier_activation": "gelu"}
        | about,
    )
    state = {name: value.detach().to("cpu", torch.float32) for name, value in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer.to_str(pretty=True), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(model.config, tokenizer))
