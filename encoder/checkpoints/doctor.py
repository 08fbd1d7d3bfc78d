"""`latewood doctor MODEL`: what the loader understood of a checkpoint, and the known traps it may hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoder.checkpoints.folder import optional_json
from encoder.checkpoints.formats import PLAIN, SINGLE_VECTOR
from encoder.checkpoints.hf import HfBackbone
from encoder.checkpoints.loading import Checkpoint, load_checkpoint
from encoder.checkpoints.places import BUNDLED, resolve_folder
from encoder.encode import fingerprint_of
from encoder.tokenizer import LateTokenizer

__all__ = ["Report", "examine"]

SHORT_OF_POSITIONS = 4  # a document length this many times below the positions is worth a word


@dataclass(frozen=True)
class Report:
    """facts: (name, value) in the order to print. warnings: one line each, with what to do."""

    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        width = max(len(name) for name, _ in self.facts)
        found = [f"{name:<{width}}  {value}" for name, value in self.facts]
        return found + [f"warning: {text}" for text in self.warnings]

    def to_json(self) -> dict[str, Any]:
        return {"facts": dict(self.facts), "warnings": list(self.warnings)}


def examine(
    name: str | Path = BUNDLED,
    *,
    revision: str | None = None,
    document_length: int | Literal["max"] | None = None,
    code: bool = False,
) -> Report:
    """Load a checkpoint as `Encoder.load(name)` does and say what it is.

    document_length: what is meant to be passed to Encoder.load; None for the checkpoint's own.
    code: the corpus is code, where a skiplist of punctuation hurts.
    Raises what `Encoder.load` raises for a checkpoint that cannot be read.
    """
    folder = resolve_folder(name, revision)
    checkpoint = load_checkpoint(folder)
    if document_length == "max":
        document_length = checkpoint.model.backbone.config.max_positions
    warnings = [
        *_expansion_warnings(str(name), folder, checkpoint),
        *_skiplist_warnings(checkpoint, code),
        *_length_warnings(checkpoint, document_length),
        *_training_warnings(checkpoint),
    ]
    return Report(tuple(_facts(folder, checkpoint)), tuple(warnings))


def _facts(folder: Path, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    backbone, settings = model.backbone, tokenizer.settings
    config = backbone.config
    if isinstance(backbone, HfBackbone):
        architecture, layers = f"{backbone.config.model_type} through transformers", f"{config.num_layers}"
    else:
        n_global = sum(backbone.config.is_global(i) for i in range(config.num_layers))
        architecture, layers = "modernbert", f"{config.num_layers}, {n_global} of them global"
    query = _marker(settings.query_prefix, tokenizer.query_marker, settings.query_prompt)
    document = _marker(settings.document_prefix, tokenizer.document_marker, settings.document_prompt)
    skipped = f"{len(settings.skiplist_words)} words, {len(tokenizer.skiplist)} token ids"
    return [
        ("folder", str(folder)),
        ("layout", checkpoint.kind),
        ("architecture", architecture),
        ("dimensions", f"{model.dim}"),
        ("head", _head(model.head)),
        ("layers", layers),
        ("hidden size", f"{config.hidden_size}"),
        ("attention heads", f"{config.num_heads}"),
        ("positions", f"{config.max_positions}"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("vocabulary", f"{tokenizer.vocab_size:,} tokens, {config.vocab_size:,} embeddings"),
        ("query length", f"{settings.query_length} tokens"),
        ("document length", f"{settings.document_length} tokens"),
        ("query marker", query),
        ("document marker", document),
        ("query expansion", _expansion(tokenizer)),
        ("skiplist", skipped if settings.skiplist_words else "none"),
        ("fingerprint", fingerprint_of(checkpoint)),
    ]


def _expansion(tokenizer: LateTokenizer) -> str:
    settings = tokenizer.settings
    if not settings.do_query_expansion:
        return "none"
    token = tokenizer.tokenizer.id_to_token(tokenizer.expansion_id)
    seen = "attended to" if settings.attend_to_expansion_tokens else "not attended to"
    return f"to {tokenizer.expansion_width} tokens with {token!r}, {seen}"


def _head(head: Sequence[Any] | Any) -> str:
    parts = []
    for dense in head:
        config = dense.config
        extras = [config.activation] if config.activation != "Identity" else []
        extras += [word for word, has in (("bias", config.bias), ("residual", config.use_residual)) if has]
        parts.append(
            f"{config.in_features} to {config.out_features}" + (f" ({', '.join(extras)})" if extras else "")
        )
    return ", ".join(parts) or "none; vectors are the backbone's last hidden state"


def _marker(prefix: str, ids: Sequence[int], prompt: str) -> str:
    text = f"{prefix!r} (id {ids[0]})" if ids else "none"
    return f"{text}, prompt {prompt!r}" if prompt else text


def _expansion_warnings(name: str, folder: Path, checkpoint: Checkpoint) -> Iterator[str]:
    settings, backbone = checkpoint.tokenizer.settings, checkpoint.model.backbone
    if not settings.do_query_expansion:
        return
    if "gte-moderncolbert" in _names(name, folder):
        yield (
            "GTE-ModernColBERT was trained under flash attention, where expansion tokens had zero vectors; "
            "here they have not: measure both ways on your own queries; "
            "Encoder.load(do_query_expansion=False) switches expansion off"
        )
    width = checkpoint.tokenizer.expansion_width
    if settings.attend_to_expansion_tokens or isinstance(backbone, HfBackbone):
        return
    if width > backbone.config.local_window + 1:
        yield (
            f"queries are expanded to {width} tokens, past the local window of "
            f"{backbone.config.local_window}: the last ones of a short query see nothing in local layers; "
            "pass a smaller query_length"
        )


def _skiplist_warnings(checkpoint: Checkpoint, code: bool) -> Iterator[str]:
    tokenizer = checkpoint.tokenizer
    if tokenizer.skiplist and code:
        yield (
            f"{len(tokenizer.skiplist)} skiplist tokens get no vector in documents, which hurts code search: "
            "pass skiplist_words=()"
        )
    elif tokenizer.skiplist:
        yield (
            f"{len(tokenizer.skiplist)} skiplist tokens get no vector in documents; "
            "for a corpus of code pass skiplist_words=()"
        )
    lost = [w for w in tokenizer.settings.skiplist_words if tokenizer.tokenizer.token_to_id(w) is None]
    if lost:
        yield f"{len(lost)} skiplist words are not in the vocabulary and skip nothing: {' '.join(lost[:8])}"


def _length_warnings(checkpoint: Checkpoint, wanted: int | None) -> Iterator[str]:
    settings, positions = checkpoint.tokenizer.settings, checkpoint.model.backbone.config.max_positions
    own = settings.document_length
    for key, value in (("query_length", settings.query_length), ("document_length", wanted or own)):
        if value > positions:
            yield f"{key}={value} exceeds the model's {positions} positions; pass {key} <= {positions}"
    if wanted is not None and wanted > own:
        yield (
            f"document_length={wanted} is beyond the {own} tokens that the checkpoint names; "
            "measure the quality of long documents before relying on it"
        )
    elif wanted is None and own * SHORT_OF_POSITIONS <= positions:
        yield (
            f"documents are cut at {own} tokens, though the model has {positions} positions: pass "
            f"document_length, up to {positions}, for longer ones"
        )


def _training_warnings(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.kind == SINGLE_VECTOR:
        yield (
            "a single-vector checkpoint, used by its token vectors: it was never trained for late "
            "interaction and gets no markers, no expansion and no skiplist"
        )
    if checkpoint.kind == PLAIN:
        yield (
            "no settings of a late-interaction model lie beside the weights, so PyLate's defaults hold; "
            "check that it was trained with markers and expansion"
        )
        if not len(checkpoint.model.head):
            yield "there is no projection behind the backbone: train one, or pass projection=FILE"


def _names(name: str, folder: Path) -> str:
    """Every name this checkpoint goes by: what was asked for, its folder, the model card's own words."""
    card = folder / "README.md"
    title = card.read_text(encoding="utf-8", errors="replace")[:4000] if card.is_file() else ""
    raw = optional_json(folder / "config.json").get("_name_or_path") or ""
    return " ".join((name, str(folder), str(raw), title)).lower()
