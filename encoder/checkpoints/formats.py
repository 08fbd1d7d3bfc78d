"""Which kind of checkpoint a folder is, and the tokenizer settings that its own files give it.

Sources of the rules: `pylate.models.ColBERT` 1.6, `sentence_transformers.MultiVectorEncoder` 6.2 and
Stanford's `colbert.infra.ColBERTConfig`.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from encoder.checkpoints.folder import Module, optional_json, read_json
from encoder.errors import CheckpointError
from encoder.tokenizer import TokenizerSettings

__all__ = [
    "MULTI_VECTOR",
    "PLAIN",
    "PYLATE",
    "SAVED",
    "SINGLE_VECTOR",
    "STANFORD",
    "FolderSettings",
    "read_settings",
]

PYLATE = "PyLate"
MULTI_VECTOR = "sentence-transformers multi-vector"
SINGLE_VECTOR = "sentence-transformers single-vector"
STANFORD = "Stanford ColBERT"
PLAIN = "plain backbone"

SETTINGS = {field.name: field.default for field in fields(TokenizerSettings)}
# Keys of config_sentence_transformers.json: PyLate's, and `expansion_length` where a model has one.
SAVED = [key for key in SETTINGS if not key.endswith("_prompt") and key != "do_lower_case"]
# What sentence-transformers calls the document side, in its own order.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class FolderSettings:
    """kind: one of the names above. values: TokenizerSettings fields that the folder's files give.
    prompts: whole texts before queries and documents, markers not yet told from words."""

    kind: str
    values: dict[str, Any]
    prompts: tuple[str, str]
    expansion_token: str | None = None

    @property
    def expands(self) -> bool:
        """Whether queries are expanded, unless told otherwise."""
        return bool(self.values.get("do_query_expansion", TokenizerSettings.do_query_expansion))


def read_settings(folder: Path, base: Path, modules: Sequence[Module], positions: int) -> FolderSettings:
    """folder: the checkpoint; base: where its backbone is; positions: the longest text the backbone takes."""
    saved_path = folder / "config_sentence_transformers.json"
    saved = optional_json(saved_path)
    sbert_path = next(iter(sorted(base.glob("sentence_*_config.json"))), base / "sentence_bert_config.json")
    sbert = optional_json(sbert_path)
    kinds = [m.kind for m in modules]
    token = None
    if not modules and "HF_ColBERT" in (read_json(base / "config.json").get("architectures") or []):
        kind, values = STANFORD, _stanford(folder / "artifact.metadata")
    elif saved.get("model_type") == "MultiVectorEncoder" or "MultiVectorMask" in kinds:
        kind = MULTI_VECTOR
        values, token = _multi_vector(sbert, sbert_path, _longest(base, sbert, positions))
        values["skiplist_words"] = _mask(modules)
    elif (
        saved.get("model_type") == "ColBERT"
        or saved.keys() & set(SAVED)
        or (modules and "Pooling" not in kinds)
    ):
        kind, values = PYLATE, {k: saved[k] for k in SAVED if saved.get(k) is not None}
        _check(values, saved_path)
    elif "Pooling" in kinds:
        # Trained without markers, expansion and skiplist: its tokens are to be seen as it always saw them.
        longest = _longest(base, sbert, positions)
        kind, values = SINGLE_VECTOR, {
            "query_prefix": "",
            "document_prefix": "",
            "query_length": longest,
            "document_length": longest,
            "do_query_expansion": False,
            "skiplist_words": (),
        }  # fmt: skip
    else:
        kind, values = PLAIN, {}
    if "do_lower_case" in sbert:
        values["do_lower_case"] = sbert["do_lower_case"]
        _check({"do_lower_case": sbert["do_lower_case"]}, sbert_path)
    if "skiplist_words" in values:
        values["skiplist_words"] = tuple(values["skiplist_words"])
    return FolderSettings(kind, values, _prompts(saved, saved_path), token)


def _stanford(path: Path) -> dict[str, Any]:
    raw = optional_json(path)
    given = {
        "query_prefix": raw.get("query_token_id") or "[unused0]",
        "document_prefix": raw.get("doc_token_id") or "[unused1]",
        "query_length": raw.get("query_maxlen"),
        "document_length": raw.get("doc_maxlen"),
        "attend_to_expansion_tokens": raw.get("attend_to_mask_tokens"),
        "skiplist_words": tuple(string.punctuation) if raw.get("mask_punctuation", True) else (),
    }
    values = {key: value for key, value in given.items() if value is not None}
    _check(values, path)
    return values


def _multi_vector(sbert: Mapping[str, Any], path: Path, longest: int) -> tuple[dict[str, Any], str | None]:
    """The settings that sentence-transformers 6 keeps on its Transformer module, and the expansion token."""
    values = {
        "query_prefix": "",
        "document_prefix": "",
        "query_length": sbert.get("query_length") or longest,
        "document_length": sbert.get("document_length") or longest,
        "do_query_expansion": False,
    }
    expansion = sbert.get("query_expansion")
    token = None
    if expansion is not None:
        if not isinstance(expansion, dict) or (
            unknown := expansion.keys() - {"strategy", "attend", "token", "length"}
        ):
            what = f"has unknown keys {sorted(unknown)}" if isinstance(expansion, dict) else "is no object"
            raise CheckpointError(f"{path}: query_expansion {what}; cannot be read")
        if expansion.get("strategy") not in ("fixed", "min"):
            raise CheckpointError(
                f"{path}: query_expansion strategy={expansion.get('strategy')!r}, expected 'fixed' or 'min'"
            )
        if "length" not in expansion:
            raise CheckpointError(f"{path}: query_expansion lacks 'length', to which queries are padded")
        values["do_query_expansion"] = True
        values["attend_to_expansion_tokens"] = expansion.get("attend", False)
        # "fixed": exactly so many tokens; "min": at least, and longer queries stay whole.
        values["query_length" if expansion["strategy"] == "fixed" else "expansion_length"] = expansion[
            "length"
        ]
        token = expansion.get("token")
    _check(values, path)
    return values, token


def _mask(modules: Sequence[Module]) -> tuple[str, ...]:
    path = next((m.folder / "config.json" for m in modules if m.kind == "MultiVectorMask"), None)
    raw = {} if path is None else read_json(path)
    words = raw.get("skiplist_words") or ()
    if words and raw.get("skiplist_tasks", ["document"]) != ["document"]:
        raise CheckpointError(
            f"{path}: skiplist_tasks={raw['skiplist_tasks']!r}; only ['document'] can be read"
        )
    if raw.get("keep_only_token_ids"):
        raise CheckpointError(f"{path}: keep_only_token_ids is set; only models of text can be read")
    if path is not None:
        _check({"skiplist_words": words}, path)
    return tuple(words)


def _longest(base: Path, sbert: Mapping[str, Any], positions: int) -> int:
    """max_seq_length, of which each file may have an opinion; the shortest holds."""
    opinions = (
        sbert.get("max_seq_length"),
        optional_json(base / "tokenizer_config.json").get("model_max_length"),
    )
    return min([positions, *(int(o) for o in opinions if isinstance(o, int | float) and o >= 1)])


def _prompts(saved: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """Texts before queries and before documents. PyLate applies them on request (`prompt_name="query"`),
    sentence-transformers' encode_query and encode_document always; so do we: they were trained with."""
    prompts = saved.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(v, str | None) for v in prompts.values()):
        raise CheckpointError(f"{path}: prompts={prompts!r}, expected an object of texts")
    default = prompts.get(saved.get("default_prompt_name")) or ""
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), None)
    query = prompts.get("query")
    return default if query is None else query, default if document is None else document


def _check(values: Mapping[str, Any], path: Path) -> None:
    """Values from a file have the types of TokenizerSettings."""
    for key, value in values.items():
        default = SETTINGS[key]
        if key == "skiplist_words":
            good, expected = (
                isinstance(value, list | tuple) and all(isinstance(w, str) for w in value),
                "a list of texts",
            )
        elif isinstance(default, bool):
            good, expected = isinstance(value, bool), "true or false"
        elif isinstance(default, str):
            good, expected = isinstance(value, str), "a text"
        else:
            good = isinstance(value, int) and not isinstance(value, bool) and value > 0
            expected = "a number of tokens"
        if not good:
            raise CheckpointError(f"{path}: {key}={value!r}, expected {expected}")
