"""Encoding speed of a model beside its teacher's: the bundled model and all-MiniLM-L6-v2, on the same texts.

    pip install -e '.[hf,distill]' -r benchmarks/requirements-encoding.txt
    python benchmarks/teacher_speed.py BEIR_FOLDER [--model bundled] [--texts 200] [--turns 5] [--json FILE]

Passages of BEIR_FOLDER, cut at 256 tokens. The model in float32, by `Encoder`; the teacher as its users run it, by
sentence-transformers (batches of 32) and by transformers' BertModel (padded batches of texts sorted by length, the
best size of a sweep), and by `Encoder` too, which reads BERT folders. Each is a process with one thread; they take
turns, so that what else a shared machine does falls on all of them. Tokens are those of the teacher's tokenizer,
which is the model's, per second of CPU time; a ratio is the model's speed by a teacher's, the median over turns.
"""

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from encoding import Worker

from encoder import Encoder
from encoder.training.teacher import PACKAGED, teacher_folder

LENGTH = 256
TEACHERS = ("bert-sentence-transformers", "bert-transformers", "latewood")
PADDED = (1, 4, 16, 32)
GOAL = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("beir", type=Path, help="a folder with corpus.jsonl")
    parser.add_argument("--model", default="bundled", help="bundled, or a model folder")
    parser.add_argument("--teacher", default=PACKAGED, help="the package's name, or a folder")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the model's time goes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        result = measure(given, Path(place))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def measure(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    model, teacher = place / "model", teacher_folder(given.teacher)
    Encoder.load(given.model, device="cpu").save(model)
    with (given.beir / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = random.Random(0).sample(rows, min(given.texts, len(rows)))
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in chosen]
    file = place / "texts.json"
    file.write_text(json.dumps({"cut": {"texts": texts, "length": LENGTH}}), encoding="utf-8")
    workers = {"model": Worker("latewood fp32", model, file)}
    workers |= {
        name: Worker(f"{name} fp32" if name == "latewood" else name, teacher, file) for name in TEACHERS
    }
    batch = dict.fromkeys(workers, 32)
    tokens = {name: worker.ask(set="cut", batch=32)["tokens"] for name, worker in workers.items()}  # warm
    if len(set(tokens.values())) != 1:
        raise SystemExit(f"the contenders read different tokens: {tokens}")
    padded = workers["bert-transformers"]
    batch["bert-transformers"] = min(PADDED, key=lambda b: padded.ask(set="cut", batch=b)["cpu"])
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(given.turns):
        for name, worker in workers.items():
            times[name].append(worker.ask(set="cut", batch=batch[name])["cpu"])
    result: dict[str, Any] = {"texts": len(texts), "tokens": tokens["model"], "contenders": {}}
    print("| | tokens per CPU second | the model's speed / this | padded batch |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = [t / own for t, own in zip(seconds, times["model"], strict=True)]
        row = {
            "speed": tokens[name] / statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "batch": batch[name],
            "cpu_seconds": seconds,
        }
        result["contenders"][name] = row
        label = name if name == "model" else f"teacher by {name.removeprefix('bert-')}"
        goal = "" if name in ("model", "latewood") else f" (goal {GOAL:g})"
        padded_by = "" if "latewood" in name or name == "model" else row["batch"]
        print(f"| {label} | {row['speed']:,.0f} | {row['ratio']:.2f}{goal} | {padded_by} |", flush=True)
    if given.profile:
        table = workers["model"].ask(set="cut", profile=True)["table"]
        print(
            f"\nthe model's own time by operation\n\n| | calls | time | share |\n|---|---|---|---|\n{table}"
        )
        result["profile"] = table
    for worker in workers.values():
        worker.stop()
    return result


if __name__ == "__main__":
    main()
