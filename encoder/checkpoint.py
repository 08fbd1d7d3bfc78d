"""Model folders and hub names in, folders out. safetensors, or a .bin read with weights_only=True."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from encoder.config import EncoderConfig
from encoder.errors import ArgumentError, CheckpointError
from encoder.model import Dense, DenseConfig, LateInteractionModel
from encoder.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer, TokenizerSettings

__all__ = ["BUNDLED", "Checkpoint", "load_backbone", "load_checkpoint", "resolve_folder", "save_checkpoint"]

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent / "models" / "latewood-mini"

# Published ModernBERT checkpoints carry a masked-language or classification head that retrieval has no use for.
IGNORED_HEADS = ("head.", "decoder.", "classifier.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    model: LateInteractionModel
    tokenizer: LateTokenizer


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """"bundled", a folder, or a hub name ("organisation/model") → a folder on this disk."""
    if str(name) == BUNDLED:
        return BUNDLED_FOLDER
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"{text!r} is no folder and no hub name; pass a folder, 'organisation/model' or 'bundled'")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, rarely needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.metadata"]
    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise CheckpointError(
            f"{text!r} is no folder here and the hub did not give it ({type(error).__name__}); check the name and the "
            f"network, or run `hf download {text} --local-dir FOLDER` where there is one and pass FOLDER"
        ) from error


def load_checkpoint(
    folder: Path, *, projection: Path | None = None, settings: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a plain ModernBERT folder or a PyLate / sentence-transformers folder.

    projection: a safetensors file with `linear.weight` (dim, hidden), put behind a plain backbone.
    settings: TokenizerSettings fields that go before the folder's own.
    Raises CheckpointError naming the file and the key of what cannot be read.
    """
    weights = read_weights(folder)
    head = read_head(folder, projection)
    if not head and "linear.weight" in weights:  # a projection beside the backbone, as Stanford ColBERT saves it
        head = [_dense_of({"linear.weight": weights["linear.weight"]}, None, folder / "model.safetensors")]
    weights.pop("linear.weight", None)
    tokenizer = read_tokenizer(folder, settings or {})
    backbone = _backbone(folder, weights)
    _grow_embeddings(backbone, tokenizer.vocab_size)
    model = LateInteractionModel(backbone, head).eval()
    return Checkpoint(model, tokenizer)


def load_backbone(folder: Path) -> ModernBert:
    """The bare encoder of a folder, without head or tokenizer."""
    weights = read_weights(folder)
    weights.pop("linear.weight", None)
    return _backbone(folder, weights).eval()


def _backbone(folder: Path, weights: dict[str, Tensor]) -> ModernBert:
    config = EncoderConfig.from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    model = _empty(lambda: ModernBert(config))
    state = {key.removeprefix("model."): value.float() for key, value in weights.items()}
    state = {key: value for key, value in state.items() if not key.startswith(IGNORED_HEADS)}
    _assign(model, state, folder)
    return model


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one safetensors file, several with an index, or pytorch_model.bin."""
    single, index, pickled = (
        folder / name for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    )
    try:
        if single.is_file():
            return load_file(single)
        if index.is_file():
            shards = sorted(set(read_json(index)["weight_map"].values()))
            # A shard's name is a name in this folder, never a path out of it.
            return {key: value for s in shards for key, value in load_file(folder / Path(s).name).items()}
        if pickled.is_file():
            loaded: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
            return loaded
    except CheckpointError:
        raise
    except Exception as error:  # each reader has errors of its own; to the user they are one fact
        raise CheckpointError(f"{folder}: its weights cannot be read ({error}); download or save them again") from error
    raise CheckpointError(f"{folder} holds neither model.safetensors nor pytorch_model.bin; pass a model folder")


def read_head(folder: Path, projection: Path | None) -> list[Dense]:
    """The Dense layers of modules.json, in order; [] for a plain folder."""
    if projection is not None:
        try:
            weights = load_file(projection)
        except Exception as error:
            raise CheckpointError(f"projection {projection} cannot be read as safetensors ({error})") from error
        return [_dense_of(weights, None, projection)]
    modules = folder / "modules.json"
    if not modules.is_file():
        return []
    head = []
    for entry in read_json(modules):
        kind = str(entry.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Dense":
            part = folder / str(entry["path"])
            if folder.resolve() not in part.resolve().parents:
                raise CheckpointError(f"{modules}: path={entry['path']!r} leaves the folder")
            head.append(_dense_of(read_weights(part), read_json(part / "config.json"), part))
        elif kind not in ("Transformer", "Pooling", "Normalize", "MultiVectorMask"):
            raise CheckpointError(f"{modules}: type={entry.get('type')!r} is not known; cannot be read")
    return head


def _dense_of(weights: dict[str, Tensor], raw: Mapping[str, Any] | None, where: Path) -> Dense:
    if "linear.weight" not in weights:
        raise CheckpointError(f"{where} lacks 'linear.weight'; it is not a Dense layer")
    out_features, in_features = weights["linear.weight"].shape
    known = {field.name for field in fields(DenseConfig)}
    config = DenseConfig(in_features, out_features, **{
        key: value for key, value in (raw or {}).items() if key in known - {"in_features", "out_features"}
    })  # fmt: skip
    if raw is not None and (raw.get("in_features"), raw.get("out_features")) != (in_features, out_features):
        raise CheckpointError(
            f"{where}/config.json says {raw.get('in_features')} to {raw.get('out_features')}, "
            f"its weights are {in_features} to {out_features}"
        )
    config = replace(config, bias="linear.bias" in weights)
    dense = _empty(lambda: Dense(config))
    _assign(dense, {key: value.float() for key, value in weights.items()}, where)
    return dense


def read_tokenizer(folder: Path, settings: Mapping[str, Any]) -> LateTokenizer:
    """tokenizer.json with the settings of config_sentence_transformers.json; `settings` goes first."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no tokenizer.json; save the model with its fast tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    saved = folder / "config_sentence_transformers.json"
    known = {field.name for field in fields(TokenizerSettings)}
    if unknown := set(settings) - known:
        raise ArgumentError(f"{sorted(unknown)} are no tokenizer settings; known: {', '.join(sorted(known))}")
    values = {k: v for k, v in (read_json(saved) if saved.is_file() else {}).items() if k in known and v is not None}
    values |= {k: v for k, v in settings.items() if v is not None}
    if "skiplist_words" in values:
        values["skiplist_words"] = tuple(values["skiplist_words"])
    return LateTokenizer(tokenizer, TokenizerSettings(**values), mask_token=_mask_token(folder))


def _mask_token(folder: Path) -> str:
    """The mask token's text; the end of sequence where a tokenizer has no mask."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        raw = read_json(path) if path.is_file() else {}
        for key in ("mask_token", "eos_token"):
            token = raw.get(key)
            if token:
                return str(token["content"] if isinstance(token, dict) else token)
    return "[MASK]"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the PyLate layout: what PyLate, sentence-transformers and `load_checkpoint` read."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    _save_tensors(folder, model.backbone, dtype)
    write_json(folder / "config.json", model.backbone.config.to_hf() | {"dtype": str(dtype).removeprefix("torch.")})
    modules = [_module(0, "", "sentence_transformers.models.Transformer")]
    for i, dense in enumerate(model.head, 1):
        part = folder / f"{i}_Dense"
        part.mkdir(exist_ok=True)
        _save_tensors(part, dense, dtype)
        write_json(part / "config.json", asdict(dense.config))  # type: ignore[arg-type]
        modules.append(_module(i, part.name, "pylate.models.Dense.Dense"))
    write_json(folder / "modules.json", modules)
    settings = asdict(tokenizer.settings) | {"skiplist_words": list(tokenizer.settings.skiplist_words)}
    write_json(folder / "config_sentence_transformers.json", settings | {"similarity_fn_name": "MaxSim"})
    longest = max(tokenizer.settings.query_length, tokenizer.settings.document_length)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(checkpoint))


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config, tokenizer = checkpoint.model.backbone.config, checkpoint.tokenizer
    token = tokenizer.tokenizer.id_to_token
    special = {"cls_token": config.cls_id, "sep_token": config.sep_id, "pad_token": config.pad_id}
    if tokenizer.expansion_id >= 0:
        special["mask_token"] = tokenizer.expansion_id
    names = {key: token(i) for key, i in special.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_positions} | names


def _module(index: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": kind}


def _save_tensors(folder: Path, module: nn.Module, dtype: torch.dtype) -> None:
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in module.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _empty(build: Any) -> Any:
    """A module without storage: its parameters are assigned, never initialised first."""
    with torch.device("meta"):
        return build()


def _assign(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"{where}: weights lack {missing[0]!r} and {len(missing) - 1} more; not this architecture")
    if extra := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{where}: weights hold an unknown {extra[0]!r} and {len(extra) - 1} more")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise CheckpointError(f"{where}: {key!r} has shape {tuple(state[key].shape)}, config.json wants {shape}")
    module.load_state_dict(state, assign=True)


def _grow_embeddings(backbone: ModernBert, size: int) -> None:
    """Rows for marker tokens that the checkpoint does not have yet, at the mean of those it has."""
    old = backbone.embeddings.tok_embeddings.weight
    if size > len(old):
        rows = old.mean(0, keepdim=True).expand(size - len(old), -1)
        grown = nn.Embedding.from_pretrained(torch.cat([old.detach(), rows]), freeze=False)
        backbone.embeddings.tok_embeddings = grown
        backbone.config = replace(backbone.config, vocab_size=size)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; pass a complete model folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
