"""Model folders made at random: small tokenizers, ModernBERT and BERT backbones, the layouts around them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
WORDS = [
    *"#.,!?",
    *("a", "an", "the", "old", "new", "red", "oak", "ash", "elm", "pine"),
    *("wood", "leaf", "late", "early", "grow", "s", "tree", "water", "light"),
]
TEXTS = ["the old oak", "", "late wood, early wood.", "a red, red leaf! " * 9, "unknownword grows #"]


def wordpiece() -> Tokenizer:
    """BERT's kind: lowercase, unknown words to [UNK]."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, "##s", "##y"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(SPECIALS[:5])
    return tokenizer


def byte_level() -> Tokenizer:
    """ModernBERT's kind: bytes, merges, no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20 + TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **config: object) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    names |= {"unk_token": "[UNK]", "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    names |= {"model_input_names": ["input_ids", "attention_mask"]}
    write(folder / "tokenizer_config.json", {**names, **config})


def modernbert(
    folder: Path, *, tokenizer: Tokenizer | None = None, vocab_size: int | None = None, **changes: object
) -> ModernBertModel:
    """A plain ModernBERT folder, saved by transformers. changes: of its ModernBertConfig."""
    tokenizer = tokenizer or byte_level()
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": vocab_size or tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
    }
    model = ModernBertModel(ModernBertConfig(**(shape | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)  # attention far from uniform
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, tokenizer)
    return model


def bert(folder: Path, *, tokenizer: Tokenizer | None = None) -> BertModel:
    """A plain BERT folder, saved by transformers."""
    tokenizer = tokenizer or wordpiece()
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, tokenizer)
    return model


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5


def dense(folder: Path, weights: dict[str, torch.Tensor], *, pickled: bool = False, **config: object) -> None:
    """One N_Dense folder, with the keys that PyLate writes."""
    folder.mkdir()
    rows, columns = weights["linear.weight"].shape
    write(
        folder / "config.json",
        {
            "in_features": columns,
            "out_features": rows,
            "bias": "linear.bias" in weights,
            "activation_function": "torch.nn.modules.linear.Identity",
            "use_residual": False,
            **config,
        },
    )
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def modules(folder: Path, *parts: tuple[str, str]) -> None:
    """modules.json of a Transformer at "" and then (path, type) entries."""
    entries = [("", "sentence_transformers.models.Transformer"), *parts]
    write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(entries)],
    )


PYLATE_DENSE = "pylate.models.Dense.Dense"


def pylate(folder: Path, backbone=modernbert, **settings: object) -> torch.Tensor:
    """A PyLate folder with one Dense to 16 dimensions; returns its matrix."""
    backbone(folder)
    weight = matrix(16, 32)
    dense(folder / "1_Dense", {"linear.weight": weight})
    modules(folder, ("1_Dense", PYLATE_DENSE))
    write(folder / "config_sentence_transformers.json", settings)
    return weight
