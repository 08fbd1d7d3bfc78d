"""Model folders and hub names in, folders out. safetensors, or a .bin read with weights_only=True."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from encoder.checkpoints.folder import (
    Module,
    optional_json,
    output_folder,
    read_json,
    read_modules,
    read_tensors,
    read_weights,
    write_json,
    write_tensors,
)
from encoder.checkpoints.formats import PYLATE, SAVED, FolderSettings, read_settings
from encoder.checkpoints.hf import HfBackbone, HfConfig, convert_slow_tokenizer, load_hf_backbone
from encoder.errors import ArgumentError, CheckpointError
from encoder.model.config import EncoderConfig
from encoder.model.late_interaction import Dense, DenseConfig, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer, TokenizerSettings

__all__ = [
    "BUNDLED",
    "Checkpoint",
    "assign",
    "load_backbone",
    "load_checkpoint",
    "mask_token_name",
    "open_tokenizer",
    "resolve_folder",
    "save_checkpoint",
    "tokenizer_config",
]

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent.parent / "models" / "latewood-mini"

# Masked-language and classification heads of published ModernBERTs; retrieval has no use for them.
IGNORED_HEADS = ("head.", "decoder.", "classifier.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """kind: which layout the folder had, one of the names in `encoder.checkpoints.formats`. own_expansion: whether the
    folder itself asks for query expansion, which `tokenizer` may have been told to do otherwise; None if as there.
    """

    model: LateInteractionModel
    tokenizer: LateTokenizer
    kind: str = PYLATE
    own_expansion: bool | None = None


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """ "bundled", a folder, or a hub name ("organisation/model") → a folder on this disk."""
    folder = BUNDLED_FOLDER if str(name) == BUNDLED else Path(name).expanduser()
    if folder.is_dir() or str(name) == BUNDLED:
        if revision is not None:
            raise ArgumentError(
                f"revision={revision!r} is of a hub name, and {str(name)!r} is none; leave it out"
            )
        return folder
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{text!r} is no folder and no hub name; pass a folder, 'organisation/model' or 'bundled'"
        )
    from huggingface_hub import snapshot_download  # slow to import, rarely needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    def download(patterns: list[str]) -> Path:
        # Exports for other runtimes are as large as the model and of no use here.
        others = ["onnx/*", "openvino/*"]
        return Path(
            snapshot_download(text, revision=revision, allow_patterns=patterns, ignore_patterns=others)
        )

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.metadata"]
        folder = download(patterns)
        parts = [folder, *(path for path in folder.glob("*_Dense") if path.is_dir())]
        if not all(any(part.glob("*.safetensors")) for part in parts):
            folder = download([*patterns, "*.bin"])
        return folder
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise CheckpointError(
            f"{text!r} is no folder here and the hub did not give it ({type(error).__name__}); check the "
            f"name and the network, or run `hf download {text} --local-dir FOLDER` elsewhere and pass FOLDER"
        ) from error


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
    modules = read_modules(folder)
    base = modules[0].folder if modules else folder
    weights = read_weights(base)
    linear = weights.pop("linear.weight", None)
    head = read_head(modules, projection)
    if not head and linear is not None:  # a projection beside the backbone, as Stanford ColBERT saves it
        head = [_dense_of({"linear.weight": linear}, None, folder)]
    backbone = _backbone(base, weights)
    own = read_settings(folder, base, modules, backbone.config.max_positions)
    settings = dict(settings or {})
    if settings.get("document_length") == "max":
        settings["document_length"] = backbone.config.max_positions
    tokenizer = read_tokenizer(base, own, settings)
    if isinstance(backbone, HfBackbone):
        backbone.grow(tokenizer.vocab_size)
    else:
        _grow_embeddings(backbone, tokenizer.vocab_size)
    model = LateInteractionModel(backbone, head).eval()
    own_expansion = own.values.get("do_query_expansion", TokenizerSettings.do_query_expansion)
    return Checkpoint(model, tokenizer, own.kind, own_expansion)


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
    # A model with a head saves its backbone under `model.`, Stanford ColBERT under `bert.`.
    names = {key: key.removeprefix("bert.").removeprefix("model.") for key in weights}
    state = {name: weights[key].float() for key, name in names.items() if not name.startswith(IGNORED_HEADS)}
    assign(model, state, folder)
    return model  # type: ignore[no-any-return]


def read_head(modules: Sequence[Module], projection: Path | None) -> list[Dense]:
    """The Dense layers of modules.json, in order; [] where there are none."""
    if projection is not None:
        return [_dense_of(read_tensors(projection), None, projection)]
    parts = [module.folder for module in modules if module.kind == "Dense"]
    return [_dense_of(read_weights(part), read_json(part / "config.json"), part) for part in parts]


def _dense_of(weights: dict[str, Tensor], raw: Mapping[str, Any] | None, where: Path) -> Dense:
    weight = weights.get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"{where} lacks a matrix 'linear.weight'; it is not a Dense layer")
    found = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": "linear.bias" in weights,
    }
    raw = found if raw is None else raw
    for key, value in found.items():
        if raw.get(key, value) != value:
            raise CheckpointError(f"{where}/config.json says {key}={raw[key]!r}, its weights have {value}")
    known = {field.name for field in fields(DenseConfig)}
    try:
        config = DenseConfig(**(found | {key: value for key, value in raw.items() if key in known}))
    except CheckpointError as error:
        raise CheckpointError(f"{where}/config.json: {error}") from error
    dense = _empty(lambda: Dense(config))
    assign(dense, {key: value.float() for key, value in weights.items()}, where)
    return dense  # type: ignore[no-any-return]


def read_tokenizer(folder: Path, own: FolderSettings, settings: Mapping[str, Any]) -> LateTokenizer:
    """tokenizer.json with the folder's own settings; `settings` goes first."""
    known = {field.name for field in fields(TokenizerSettings)}
    if unknown := set(settings) - known:
        raise ArgumentError(f"{sorted(unknown)} are no tokenizer settings; known: {', '.join(sorted(known))}")
    path = folder / "tokenizer.json"
    tokenizer = open_tokenizer(path) if path.is_file() else convert_slow_tokenizer(folder)
    values = dict(own.values)
    for side, prompt in zip(("query", "document"), own.prompts, strict=True):
        marker = values.get(f"{side}_prefix", getattr(TokenizerSettings, f"{side}_prefix"))
        if not marker:
            values[f"{side}_prefix"] = marker = _leading_marker(tokenizer, prompt)
        values[f"{side}_prompt"] = prompt.removeprefix(marker)
    values |= {k: v for k, v in settings.items() if v is not None}
    values["skiplist_words"] = tuple(values.get("skiplist_words", TokenizerSettings.skiplist_words))
    mask_token = own.expansion_token or mask_token_name(folder)
    return LateTokenizer(tokenizer, TokenizerSettings(**values), mask_token=mask_token)


def open_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; pass a tokenizer.json or a folder that has one")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} cannot be read ({error}); save it again") from error


def _leading_marker(tokenizer: Tokenizer, prompt: str) -> str:
    """The added token that a prompt begins with: sentence-transformers 6 keeps markers in its prompts."""
    first = tokenizer.encode(prompt, add_special_tokens=False).ids[:1]
    added = tokenizer.get_added_tokens_decoder().get(first[0]) if first else None
    return added.content if added is not None and prompt.startswith(added.content) else ""


def mask_token_name(folder: Path) -> str:
    """The mask token's text; the end of sequence where a tokenizer has no mask."""
    files = [optional_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    for key in ("mask_token", "eos_token"):
        for raw in files:
            token = raw.get(key)
            if token:
                return str(token["content"] if isinstance(token, dict) else token)
    return "[MASK]"


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


def tokenizer_config(config: EncoderConfig | HfConfig, tokenizer: LateTokenizer) -> dict[str, Any]:
    """tokenizer_config.json, by which transformers knows the special tokens."""
    text = tokenizer.tokenizer.id_to_token
    unknown = getattr(tokenizer.tokenizer.model, "unk_token", None)
    if unknown is None:  # a byte-level vocabulary, where transformers still wants a name for it
        unknown = next((name for name in ("[UNK]", "<unk>") if tokenizer.tokenizer.token_to_id(name)), None)
    names = {"pad_token": text(config.pad_id), "unk_token": unknown}
    if tokenizer.before:
        names["cls_token"] = text(tokenizer.before[0])
    if tokenizer.after:
        names["sep_token"] = text(tokenizer.after[-1])
    if tokenizer.expansion_id >= 0:
        names["mask_token"] = text(tokenizer.expansion_id)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
    } | {key: name for key, name in names.items() if name is not None}


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
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(
            f"{where}: weights lack {missing[0]!r} and {len(missing) - 1} more; not this architecture"
        )
    if extra := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{where}: weights hold an unknown {extra[0]!r} and {len(extra) - 1} more")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            found = tuple(state[key].shape)
            raise CheckpointError(f"{where}: {key!r} has shape {found}, config.json wants {shape}")
    module.load_state_dict(state, assign=True)


def _grow_embeddings(backbone: ModernBert, size: int) -> None:
    """Rows for marker tokens that the checkpoint does not have yet, at the mean of those it has."""
    old = backbone.embeddings.tok_embeddings.weight
    if size > len(old):
        rows = old.mean(0, keepdim=True).expand(size - len(old), -1)
        backbone.embeddings.tok_embeddings.weight = nn.Parameter(torch.cat([old.detach(), rows.detach()]))
        backbone.embeddings.tok_embeddings.num_embeddings = size
        backbone.config = replace(backbone.config, vocab_size=size)
