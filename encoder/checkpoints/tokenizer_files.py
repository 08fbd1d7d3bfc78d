"""The tokenizer of a model folder, with the settings that its files give it. Imports no torch."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from encoder.checkpoints.folder import optional_json
from encoder.checkpoints.formats import FolderSettings
from encoder.errors import ArgumentError, CheckpointError
from encoder.model.config import EncoderConfig
from encoder.tokenizer import LateTokenizer, TokenizerSettings

if TYPE_CHECKING:
    from encoder.checkpoints.hf import HfConfig

__all__ = ["mask_token_name", "open_tokenizer", "read_tokenizer", "tokenizer_config"]


def read_tokenizer(
    folder: Path, own: FolderSettings, settings: Mapping[str, Any], positions: int
) -> LateTokenizer:
    """tokenizer.json with the folder's own settings; `settings` goes first; document_length="max" is positions."""
    known = {field.name for field in fields(TokenizerSettings)}
    if unknown := set(settings) - known:
        raise ArgumentError(f"{sorted(unknown)} are no tokenizer settings; known: {', '.join(sorted(known))}")
    path = folder / "tokenizer.json"
    if path.is_file():
        tokenizer = open_tokenizer(path)
    else:
        from encoder.checkpoints.hf import convert_slow_tokenizer  # imports torch

        tokenizer = convert_slow_tokenizer(folder)
    values = dict(own.values)
    for side, prompt in zip(("query", "document"), own.prompts, strict=True):
        marker = values.get(f"{side}_prefix", getattr(TokenizerSettings, f"{side}_prefix"))
        if not marker:
            values[f"{side}_prefix"] = marker = _leading_marker(tokenizer, prompt)
        values[f"{side}_prompt"] = prompt.removeprefix(marker)
    values |= {k: v for k, v in settings.items() if v is not None}
    if values.get("document_length") == "max":
        values["document_length"] = positions
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


def tokenizer_config(config: "EncoderConfig | HfConfig", tokenizer: LateTokenizer) -> dict[str, Any]:
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
