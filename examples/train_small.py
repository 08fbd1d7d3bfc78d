"""The training recipe at toy size, from nothing to an evaluated model: tokenizer, masked words, the mean of
checkpoints, hard negatives, late interaction, nDCG@10 before and after.

Run: python examples/train_small.py [FOLDER]

The text is this project's own: code and docs to pre-train on; docstring → function pairs to learn to search, of which
every fourth is held out as a BEIR folder. Nothing is downloaded and no teacher is needed; with one (pip install
'latewood[distill]'), `latewood train distill` takes the place of the first two steps. docs/guides/train.md has the
commands.
"""

import argparse
import ast
import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from encoder import Encoder
from encoder.training.configs import MlmConfig, RetrievalConfig
from encoder.training.mlm import train_mlm
from encoder.training.retrieval import train_retrieval
from encoder.training.tiling import average_checkpoints
from retriever.evaluation import EvaluationSet, evaluate_exact
from retriever.mining import mine_file

ROOT = Path(__file__).parent.parent
CODE = ("encoder", "indexing", "retriever", "tests", "benchmarks")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def docstring_pairs() -> list[dict[str, str]]:
    """The first paragraph of every docstring, and the function or class without it."""
    pairs = []
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            long_enough = isinstance(node, ast.FunctionDef | ast.ClassDef) and len(node.body) > 1
            if long_enough and (docstring := ast.get_docstring(node)):
                node.body = node.body[1:]
                pairs.append({"query": docstring.split("\n\n")[0], "pos": ast.unparse(node)})
    return pairs


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_beir(folder: Path, pairs: list[dict[str, str]]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": p["pos"]} for i, p in enumerate(pairs)])
    write_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": p["query"]} for i, p in enumerate(pairs)])
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(pairs)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    return folder


def train_tokenizer(texts: list[str], path: Path) -> Path:
    """Byte pairs over words in lower case; 4,096 of them."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(path))
    return path


def main(place: Path) -> tuple[float, float]:
    """nDCG@10 on the held-out pairs, of the pre-trained model and of the trained one."""
    torch.set_num_threads(1)
    pairs = docstring_pairs()
    held_out = EvaluationSet.load(write_beir(place / "beir", pairs[::4]))
    train = [pair for i, pair in enumerate(pairs) if i % 4]
    documents = [path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    texts = [text for pair in train for text in pair.values()] + documents
    tokenizer = train_tokenizer(texts, place / "tokenizer.json")

    # 1. Pre-training by masked words, and the mean of the last checkpoints.
    text_file = write_lines(place / "texts.jsonl", [{"text": text} for text in texts])
    mlm = MlmConfig(
        tokenizer=str(tokenizer), hidden_size=64, intermediate_size=96, layers=3, heads=2, length=256, batch_size=8,
        steps=60, warmup=10, decay=40, lr=3e-3, checkpoint_every=10,
    )  # fmt: skip
    run = place / "runs" / "mlm"
    train_mlm([(text_file, 1.0)], place / "models" / "mlm", run, mlm)
    pretrained = place / "models" / "averaged"
    average_checkpoints(sorted((run / "checkpoints").iterdir())[-3:], pretrained)
    before = evaluate_exact(held_out, Encoder.load(pretrained))["nDCG@10"]

    # 2. Hard negatives: what the pre-trained model's own search finds beside the function that is meant.
    mined = place / "mined.jsonl"
    mine_file(Encoder.load(pretrained), write_lines(place / "pairs.jsonl", train), mined)

    # 3. Late interaction: InfoNCE over the batch and a hard negative.
    late = RetrievalConfig(
        model=str(pretrained), steps=60, batch_size=24, query_length=32, document_lengths=(48, 64), lr=3e-3,
        embedding_lr=3e-3, warmup=10,
    )  # fmt: skip
    trained = place / "models" / "late"
    train_retrieval([(mined, 1.0)], trained, place / "runs" / "late", late)

    # 4. The figure.
    after = evaluate_exact(held_out, Encoder.load(trained))["nDCG@10"]
    print(f"nDCG@10 on {len(held_out.queries)} held-out docstrings: {before:.3f} before, {after:.3f} after")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the models are kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(asked.folder or Path(temporary))
