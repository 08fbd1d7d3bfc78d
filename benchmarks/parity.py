"""Parity with PyLate and sentence-transformers: token vectors and MaxSim scores, both ways.

    python benchmarks/parity.py                                  # makes an environment for each peer (minutes)
    python benchmarks/parity.py --pylate-python P --st-python S  # uses environments that have the peers

Random late-interaction checkpoints (a small ModernBERT with a vocabulary learnt here) are saved by each peer and
loaded by Latewood, and saved by Latewood and loaded by each peer. Prints a Markdown table; exit code 1 where a
difference exceeds 1e-4 or a number of tokens differs. Texts have no outer whitespace: sentence-transformers keeps
it, PyLate and Latewood cut it.
"""

import argparse
import json
import string
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from encoder import Encoder
from encoder.checkpoints.loading import Checkpoint
from encoder.maxsim import maxsim
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer, TokenizerSettings

HERE = Path(__file__).parent
TOLERANCE = 1e-4
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
HIDDEN, LAYERS, HEADS, VOCABULARY = 64, 6, 2, 600

QUERIES = [
    "hello world",
    "",
    "what does the function return?",
    "naïve café — 東京",
    "a query of many words that goes on and on " * 4 + "and is cut",
]
DOCUMENTS = [
    "hello world",
    "",
    "A list of: prime numbers, below (one hundred).",
    "def f(x):\n    return x + 1  # a comment, [D] and a marker's text",
    "naïve café — 東京, 中文; control \x01 characters",
    "words of a long document, with marks: " * 60 + "the end",  # past the local window of 64
    ", . ; : !",
]

# What a case changes of these settings; prompts and head beside them.
SETTINGS: dict[str, Any] = {
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 24,
    "document_length": 300,
    "do_query_expansion": True,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(string.punctuation),
}


def dense(
    wide: int, out: int, residual: bool = False, bias: bool = False, activation: str = "identity"
) -> dict[str, Any]:
    return {
        "in_features": wide,
        "out_features": out,
        "bias": bias,
        "activation": activation,
        "use_residual": residual,
    }


THREE = [dense(HIDDEN, 96, residual=True), dense(96, 96, True, True, "gelu"), dense(96, 32)]


@dataclass(frozen=True)
class Case:
    name: str
    changes: dict[str, Any]
    head: list[dict[str, Any]]
    prompts: tuple[str, ...] = ()
    peers: tuple[str, ...] = ("pylate", "st")
    saved_by_latewood: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        return SETTINGS | self.changes

    @property
    def texts(self) -> dict[str, list[str]]:
        """Behind a prompt an empty text would end in the prompt's own space: outer whitespace."""
        return {
            "queries": [text for text in QUERIES if text or not self.prompts],
            "documents": [text for text in DOCUMENTS if text or not self.prompts],
        }


ONE = [dense(HIDDEN, 32)]
TANH = [dense(HIDDEN, 32, bias=True, activation="tanh")]
CUT = {"query_length": 8, "document_length": 16, "skiplist_words": ["a", "the", "."]}

CASES = [
    Case("expansion unseen, punctuation skipped, one Dense", {}, ONE),
    Case("expansion seen, three Dense (residual, bias, GELU)", {"attend_to_expansion_tokens": True}, THREE),
    Case("no expansion, no skiplist, tanh", {"do_query_expansion": False, "skiplist_words": []}, TANH),
    Case("no markers", {"query_prefix": "", "document_prefix": ""}, ONE),
    Case("prompts behind the markers, three Dense", {}, THREE, ("query: ", "document: ")),
    Case("cut at 8 and 16 tokens, skiplist of words", CUT, ONE),
    Case("expansion to 12, queries cut at 24", {"expansion_length": 12}, ONE, (), ("st",), False),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pylate-python", type=Path, help="an interpreter with PyLate 1.6")
    parser.add_argument("--st-python", type=Path, help="an interpreter with sentence-transformers >= 6")
    parser.add_argument("--envs", type=Path, default=Path("build/parity"), help="where environments are made")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for peer, python in (("pylate", given.pylate_python), ("st", given.st_python)):
        with tempfile.TemporaryDirectory() as place:
            rows += compare(peer, python or environment(given.envs / peer, peer), Path(place))
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if all(row["ok"] for row in rows) else 1


def environment(folder: Path, peer: str) -> Path:
    """A virtual environment with the peer's requirements, made once."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    requirements = HERE / f"requirements-parity-{peer}.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    return python


def compare(peer: str, python: Path, place: Path) -> list[dict[str, Any]]:
    cases = [case for case in CASES if peer in case.peers]
    tokenizer = learn_tokenizer(place / "tokenizer")
    ours: dict[int, Encoder] = {}
    for number, case in enumerate(cases):
        if case.saved_by_latewood:
            ours[number] = random_encoder(case, tokenizer, seed=number)
            ours[number].save(place / f"latewood{number}")
    job = {
        "tokenizer": str(place / "tokenizer"),
        "cases": [
            {
                "folder": str(place / f"peer{number}"),
                "settings": case.settings,
                "head": case.head,
                "prompts": dict(zip(("query", "document"), case.prompts or ("", ""), strict=True)),
                "config": shape().to_hf(),
                **case.texts,
            }
            for number, case in enumerate(cases)
        ],
        "load": [{"folder": str(place / f"latewood{number}"), **cases[number].texts} for number in ours],
    }
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [python, HERE / "parity_peer.py", peer, place / "job.json"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    versions = json.loads(out.splitlines()[-1])
    name = " ".join(next(iter(versions.items())))
    print(f"{peer}: {versions}", file=sys.stderr)
    rows = []
    for number, case in enumerate(cases):
        loaded = Encoder.load(place / f"peer{number}")
        rows.append(
            {"saved by": name, "loaded by": "Latewood"}
            | differences(case, loaded, place / f"peer{number}.npz")
        )
        if number in ours:
            found = differences(case, ours[number], place / f"latewood{number}.npz")
            rows.append({"saved by": "Latewood", "loaded by": name} | found)
    return rows


def differences(case: Case, encoder: Encoder, file: Path) -> dict[str, Any]:
    """The largest absolute differences of token vectors and of scores; inf where token counts differ."""
    theirs = np.load(file)
    texts = case.texts
    queries, documents = (
        encoder.encode_queries(texts["queries"]),
        encoder.encode_documents(texts["documents"]),
    )
    row: dict[str, Any] = {"case": case.name}
    tokens = 0
    for side, embeddings in (("query", queries), ("document", documents)):
        worst = 0.0
        for i, a in enumerate(embeddings):
            b = theirs[f"{side[0]}{i}"]
            worst = max(worst, float(np.abs(a - b).max(initial=0)) if a.shape == b.shape else np.inf)
            tokens += len(a)
        row[f"{side} vectors"] = worst
    vectors, offsets = torch.from_numpy(documents.vectors), torch.from_numpy(documents.offsets)
    scores = torch.stack([maxsim(torch.from_numpy(q), vectors, offsets) for q in queries])
    row["MaxSim"] = float(np.abs(scores.numpy() - theirs["scores"]).max())
    row["tokens"] = tokens
    row["ok"] = all(row[key] <= TOLERANCE for key in ("query vectors", "document vectors", "MaxSim"))
    return row


def shape() -> EncoderConfig:
    ids = {
        "cls_id": SPECIAL.index("[CLS]"),
        "sep_id": SPECIAL.index("[SEP]"),
        "pad_id": SPECIAL.index("[PAD]"),
    }
    return EncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_layers=LAYERS,
        num_heads=HEADS,
        **ids,
    )


def learn_tokenizer(folder: Path) -> Path:
    """A byte-level vocabulary such as ModernBERT's, of the texts below, with the files transformers reads."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*QUERIES, *DOCUMENTS, __doc__ or ""], trainer)
    ends = [(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{key}_token": f"[{key.upper()}]" for key in ("unk", "cls", "sep", "pad", "mask")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192} | names
    config |= {"model_input_names": ["input_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "tokenizer.json"


def random_encoder(case: Case, tokenizer: Path, seed: int) -> Encoder:
    torch.manual_seed(seed)
    values = case.settings | {"skiplist_words": tuple(case.settings["skiplist_words"])}
    if case.prompts:
        values |= {"query_prompt": case.prompts[0], "document_prompt": case.prompts[1]}
    late = LateTokenizer(Tokenizer.from_file(str(tokenizer)), TokenizerSettings(**values))
    kinds = {"identity": "linear.Identity", "gelu": "activation.GELU", "tanh": "activation.Tanh"}
    head = []
    for layer in case.head:
        given = {key: value for key, value in layer.items() if key != "activation"}
        kind = f"torch.nn.modules.{kinds[layer['activation']]}"
        head.append(Dense(DenseConfig(**given, activation_function=kind)))
    config = EncoderConfig(**{**vars(shape()), "vocab_size": late.vocab_size})
    backbone = ModernBert(config)
    backbone.initialise(0.2)
    model = LateInteractionModel(backbone, head)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return Encoder(Checkpoint(model, late), name="random", device="cpu")


def table(rows: list[dict[str, Any]]) -> str:
    columns = ["saved by", "loaded by", "case", "tokens", "query vectors", "document vectors", "MaxSim"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{row[c]:.1e}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
