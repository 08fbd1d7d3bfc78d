"""Backbones of other families (BERT, RoBERTa, DistilBERT, ...) through transformers, the extra `hf`.

Weights are read by `encoder.checkpoints.folder`, so the rules are the same as for our own ModernBERT: safetensors
or a .bin without code, every key accounted for, nothing downloaded, no code from the model folder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from encoder.checkpoints.folder import read_json
from encoder.devices import sent
from encoder.errors import CheckpointError, MissingDependencyError
from encoder.model.packing import PackedBatch

__all__ = ["HfBackbone", "HfConfig", "convert_slow_tokenizer", "load_hf_backbone"]

# What a config.json says about who wrote it, not about what the model computes.
VOLATILE = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "auto_map")


@dataclass(frozen=True)
class HfConfig:
    """What the rest of the encoder asks of a configuration; `settings` is the rest of config.json."""

    settings: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    pad_id: int

    def to_hf(self) -> dict[str, Any]:
        return {**json.loads(self.settings), "vocab_size": self.vocab_size}


class HfBackbone(nn.Module):
    """A transformers encoder behind the call of `ModernBert`: packed in, packed out, padded in between."""

    def __init__(self, model: Any, config: HfConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: PackedBatch) -> Tensor:
        """Hidden states (total_tokens, hidden_size). Expansion tokens get attention 0, as in PyLate."""
        device, shape = batch.input_ids.device, (len(batch.lengths), max(batch.lengths))
        places = torch.arange(shape[1], device=device)
        seen = places < sent(np.array(batch.n_keys), device)[:, None]  # (n, L)
        texts = torch.arange(shape[0], device=device)
        # By numbers and not by a mask: how many a mask has only the device knows.
        rows = texts.repeat_interleave(batch.cu_seqlens.diff(), output_size=sum(batch.lengths))
        ids = torch.full(shape, self.config.pad_id, dtype=torch.int64, device=device)
        ids[rows, batch.positions] = batch.input_ids
        hidden = self.model(input_ids=ids, attention_mask=seen.long()).last_hidden_state  # (n, L, hidden)
        return hidden[rows, batch.positions]  # type: ignore[no-any-return]

    def grow(self, size: int) -> None:
        """Token embeddings for ids below `size`; new rows are the mean of the old ones."""
        old = self.model.get_input_embeddings().weight
        known, mean = len(old), old.detach().mean(0)  # taken first: transformers resizes `old` in place
        if size > known:
            grown = self.model.resize_token_embeddings(size, mean_resizing=False)
            with torch.no_grad():
                grown.weight[known:] = mean
            self.config = replace(self.config, vocab_size=size)


def load_hf_backbone(folder: Path, weights: Mapping[str, Tensor]) -> HfBackbone:
    """The encoder that config.json describes, with `weights`. Heads of other tasks are left out."""
    transformers = _transformers(folder)
    where = folder / "config.json"
    raw = read_json(where)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = transformers.AutoModel.from_config(config, trust_remote_code=False).float()
    except Exception as error:  # transformers raises what its parts raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{where}: model_type={raw.get('model_type')!r} cannot be built ({reason})"
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{where}: model_type={raw['model_type']!r} is an encoder-decoder; pass an encoder"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # a sentence vector's; token vectors never pass it
    state = _backbone_state(weights, model.base_model_prefix)
    expected = model.state_dict()
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(
            f"{folder}: weights lack {missing[0]!r} and {len(missing) - 1} more; not this architecture"
        )
    if extra := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{folder}: weights hold an unknown {extra[0]!r} and {len(extra) - 1} more")
    for key, value in expected.items():
        if state[key].shape != value.shape:
            found, wanted = tuple(state[key].shape), tuple(value.shape)
            raise CheckpointError(f"{folder}: {key!r} has shape {found}, config.json wants {wanted}")
    model.load_state_dict(state)
    return HfBackbone(model.eval(), _config(raw, config, model, where))


def _backbone_state(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The backbone's own tensors under the names of today."""
    for start in (f"{prefix}.", "bert."):  # Stanford ColBERT keeps any backbone under `bert.`
        if any(key.startswith(start) for key in weights):
            weights = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            break
    state = {}
    for key, value in weights.items():
        if key.startswith("pooler.") or key.endswith((".position_ids", ".token_type_ids")):
            continue
        # TensorFlow's names, in checkpoints of 2019.
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        state[key] = value.float() if value.is_floating_point() else value
    return state


def _config(raw: Mapping[str, Any], config: Any, model: Any, where: Path) -> HfConfig:
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not positions:
        raise CheckpointError(f"{where} lacks 'max_position_embeddings'; how long a text may be is not known")
    # RoBERTa counts its positions from behind the padding id, and has that many fewer for text.
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    taken = getattr(table, "padding_idx", None)
    kept = {key: value for key, value in raw.items() if key not in (*VOLATILE, "vocab_size")}
    return HfConfig(
        settings=json.dumps(kept, sort_keys=True),
        model_type=str(config.model_type),
        vocab_size=len(model.get_input_embeddings().weight),
        hidden_size=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        num_heads=int(config.num_attention_heads),
        max_positions=int(positions) - (0 if taken is None else taken + 1),
        pad_id=int(getattr(config, "pad_token_id", None) or 0),
    )


def convert_slow_tokenizer(folder: Path) -> Tokenizer:
    """The fast form of a tokenizer that is saved as vocab.txt or the like, without tokenizer.json."""
    transformers = _transformers(folder)
    try:
        tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        ).backend_tokenizer
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{folder} holds no tokenizer.json, and its tokenizer cannot be converted ({reason}); "
            "save the model with its fast tokenizer"
        ) from error
    return tokenizer


def _transformers(folder: Path) -> Any:
    try:
        import transformers  # an extra, and slow to import
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} is no ModernBERT with a tokenizer.json and is read through transformers, which is not "
            "installed; run `pip install 'latewood[hf]'`"
        ) from error
    return transformers
