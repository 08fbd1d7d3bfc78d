"""A language of 40 words for training tests: every word is followed by the next one, so a hidden word can be told
from its neighbours, and a text's first word says nothing of its length."""

import gzip
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

N_WORDS = 40
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_tokenizer(path: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *(f"w{i}" for i in range(N_WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(path))
    return path


def text(start: int, n: int) -> str:
    return " ".join(f"w{(start + i) % N_WORDS}" for i in range(n))


def write_corpus(path: Path, n: int = 1000, seed: int = 0) -> Path:
    """Texts of 4 to 60 words, a few of 150."""
    random = np.random.default_rng(seed)
    with gzip.open(path, "wt") as file:
        for i in range(n):
            words = 150 if i % 50 == 7 else int(random.integers(4, 60))
            file.write(json.dumps({"text": text(int(random.integers(N_WORDS)), words)}) + "\n")
    return path
