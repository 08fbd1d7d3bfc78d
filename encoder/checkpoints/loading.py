"""Model folders and hub names in, folders out. safetensors, or a .bin read with weights_only=True."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from encoder.checkpoints.folder import output_folder, read_json, write_json
from encoder.checkpoints.formats import PYLATE, SAVED, read_settings
from encoder.checkpoints.hf import HfBackbone, load_hf_backbone
from encoder.checkpoints.parts import backbone_weights, check_shapes, new_rows, read_parts
from encoder.checkpoints.tensors import read_tensors, read_weights, write_tensors
from encoder.checkpoints.tokenizer_files import read_tokenizer, tokenizer_config
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer

__all__ = ["Checkpoint", "assign", "load_backbone", "load_checkpoint", "save_checkpoint"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """kind: which layout the folder had, one of the names in `encoder.checkpoints.formats`. own_expansion: whether the
    folder itself asks for query expansion, which `tokenizer` may have been told to do otherwise; None if as there.
    """

    model: LateInteractionModel
    tokenizer: LateTokenizer
    kind: str = PYLATE
    own_expansion: bool | None = None


def load_checkpoint(
    folder: Path, *, projection: Path | None = None, settings: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a folder of PyLate, sentence-transformers or Stanford ColBERT, or a plain backbone.

    projection: a safetensors file with `linear.weight` (dim, hidden), put behind the backbone in place
        of the folder's own head.
    settings: TokenizerSettings fields that go before the folder's own; document_length="max" is as long as
        the positions allow.
    Raises CheckpointError naming the file and the key of what cannot be read, MissingDependencyError
    where a backbone needs transformers.
    """
    parts = read_parts(folder, projection, read_tensors)
    head = [_dense(*part) for part in parts.head]
    backbone = _backbone(parts.base, parts.weights)
    own = read_settings(folder, parts.base, parts.modules, backbone.config.max_positions)
    tokenizer = read_tokenizer(parts.base, own, settings or {}, backbone.config.max_positions)
    if isinstance(backbone, HfBackbone):
        backbone.grow(tokenizer.vocab_size)
    else:
        _grow_embeddings(backbone, tokenizer.vocab_size)
    model = LateInteractionModel(backbone, head).eval()
    return Checkpoint(model, tokenizer, own.kind, own.expands)


def load_backbone(folder: Path) -> ModernBert:
    """The bare ModernBERT of a folder, without head or tokenizer."""
    weights = read_weights(folder)
    weights.pop("linear.weight", None)
    return _modernbert(folder, weights).eval()


def _backbone(folder: Path, weights: dict[str, Tensor]) -> ModernBert | HfBackbone:
    if read_json(folder / "config.json").get("model_type", "modernbert") == "modernbert":
        return _modernbert(folder, weights)
    return load_hf_backbone(folder, weights)


def _modernbert(folder: Path, weights: dict[str, Tensor]) -> ModernBert:
    config = EncoderConfig.from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    model = _empty(lambda: ModernBert(config))
    assign(model, {name: value.float() for name, value in backbone_weights(weights).items()}, folder)
    return model  # type: ignore[no-any-return]


def _dense(config: DenseConfig, weights: dict[str, Tensor], where: Path) -> Dense:
    dense = _empty(lambda: Dense(config))
    assign(dense, {key: value.float() for key, value in weights.items()}, where)
    return dense  # type: ignore[no-any-return]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the PyLate layout: what PyLate, sentence-transformers and `load_checkpoint` read.

    PyLate itself puts a random projection behind a folder that has no Dense; others read it as it is.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    folder = output_folder(folder)
    backbone: nn.Module = model.backbone
    about_weights: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    if isinstance(model.backbone, HfBackbone):
        backbone = model.backbone.model
        about_weights |= {"architectures": [type(backbone).__name__]}
    _save_tensors(folder, backbone, dtype)
    write_json(folder / "config.json", model.backbone.config.to_hf() | about_weights)
    modules = [_module(0, "", "sentence_transformers.models.Transformer")]
    for i, dense in enumerate(model.head, 1):
        assert isinstance(dense, Dense)
        part = folder / f"{i}_Dense"
        part.mkdir(exist_ok=True)
        _save_tensors(part, dense, dtype)
        write_json(part / "config.json", asdict(dense.config))
        modules.append(_module(i, part.name, "pylate.models.Dense.Dense"))
    write_json(folder / "modules.json", modules)
    settings = asdict(tokenizer.settings)
    written = {key: settings[key] for key in SAVED if settings[key] is not None}
    prompts = {"query": settings["query_prompt"], "document": settings["document_prompt"]}
    # model_type tells sentence-transformers 6 that its mask and normalisation are to be added.
    written |= {"model_type": "ColBERT", "similarity_fn_name": "MaxSim"}
    written |= {"prompts": prompts, "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", written)
    longest = max(tokenizer.settings.query_length, tokenizer.settings.document_length)
    sbert = {"max_seq_length": longest, "do_lower_case": tokenizer.settings.do_lower_case}
    write_json(folder / "sentence_bert_config.json", sbert)
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer.to_str(pretty=True), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(model.backbone.config, tokenizer))


def _module(index: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": kind}


def _save_tensors(folder: Path, module: nn.Module, dtype: torch.dtype) -> None:
    state = {key: value.detach().to("cpu", dtype) for key, value in module.state_dict().items()}
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})


def _empty(build: Any) -> Any:
    """A module without storage: its parameters are assigned, never initialised first."""
    with torch.device("meta"), _NoInit():
        return build()


class _NoInit(TorchFunctionMode):
    """Leaves out torch.nn.init: on "meta" it does nothing, and to find that out loads a second's worth of torch."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def assign(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    """Make `state` a module's parameters; names and shapes must be the module's, or CheckpointError says which."""
    check_shapes({key: tuple(value.shape) for key, value in module.state_dict().items()}, state, where)
    module.load_state_dict(state, assign=True)


def _grow_embeddings(backbone: ModernBert, size: int) -> None:
    """Rows for marker tokens that the checkpoint does not have yet, at the mean of those it has."""
    old = backbone.embeddings.tok_embeddings.weight
    if size > len(old):
        rows = torch.tensor(new_rows(old.detach().numpy(), size))
        backbone.embeddings.tok_embeddings.weight = nn.Parameter(torch.cat([old.detach(), rows]))
        backbone.embeddings.tok_embeddings.num_embeddings = size
        backbone.config = replace(backbone.config, vocab_size=size)
