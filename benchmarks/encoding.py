"""Encoding speed and memory: Latewood, transformers (sdpa, sorted padded batches) and sentence-transformers.

    pip install -r benchmarks/requirements-encoding.txt
    python benchmarks/encoding.py BEIR_FOLDER [--model base|bundled] [--precision fp32 int8] [--json FILE]
    python benchmarks/encoding.py BEIR_FOLDER --busy [--sets mixed queries] [--repetitions 5]

On random base-sized weights (22 layers x 768, 50,368 words) and on the bundled model: documents of 128, 512, 2,048
and 8,192 tokens, and documents of BEIR_FOLDER with the lengths they have. Each contender is a process with one
thread; all turn the same texts into float32 token vectors, which are compared (fp32: at most 1e-4 apart), and only
real tokens are counted, no padding. The peers' padded batch size is the best of a sweep. Contenders take turns, so
that what else a shared machine does falls on all of them; tokens are per second of CPU time, which other processes'
turns do not count in, and ratios are medians over turns.

With --busy, Latewood alone, on all cores, idle and beside a process that spins (encoding_busy.py).

(The name is not encoder.py because a script's folder comes first in Python's path: it would hide the package.)
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder import Encoder
from encoder.checkpoints.loading import Checkpoint
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.tokenizer import LateTokenizer

HERE = Path(__file__).parent
LENGTHS = (128, 512, 2048, 8192)
SETS = ("128", "512", "2048", "mixed", "8192")  # the longest last: peak memory is read after each
BUSY_SETS = ("mixed", "queries", "8192")
PADDED = (1, 4, 16)  # texts in a padded batch
PADDED_TOKENS = 8192  # a peer's padded batch is not tried beyond this: it gains nothing and takes gigabytes
GOALS = {"mixed": 1.3, "2048": 1.4, "8192": 2.0}
REFERENCE = "transformers"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("beir", type=Path, help="a folder with corpus.jsonl")
    parser.add_argument("--model", nargs="+", choices=["base", "bundled"], default=["bundled", "base"])
    parser.add_argument("--precision", nargs="+", default=["fp32"], help="of Latewood")
    parser.add_argument("--sets", nargs="+", choices=[*SETS, "queries"], help="default: all that apply")
    parser.add_argument(
        "--busy", action="store_true", help="on all cores, idle and beside a spinning process"
    )
    parser.add_argument(
        "--repetitions", type=int, default=3, help="turns; a third of them for 8,192 tokens on base"
    )
    parser.add_argument(
        "--tokens", type=int, default=4096, help="in a measurement of base; 4 times on bundled"
    )
    parser.add_argument("--profile", action="store_true", help="print where Latewood's time goes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.sets and "queries" in given.sets and not given.busy:
        parser.error("the set 'queries' is for --busy")
    given.sets = given.sets or list(BUSY_SETS if given.busy else SETS)
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as place:
        for model in given.model:
            folder = Path(place) / model
            save_bundled(folder) if model == "bundled" else save_base(folder)
            budget = given.tokens * (4 if model == "bundled" else 1)
            run = measure_busy if given.busy else measure
            results.append({"model": model} | run(model, folder, budget, given))
            if given.json:
                given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def save_bundled(folder: Path) -> None:
    Encoder.load(device="cpu").save(folder)


def save_base(folder: Path) -> None:
    """Random weights of ModernBERT-base's shape behind the bundled model's tokenizer, whose ids are in range."""
    bundled = Encoder.load(device="cpu")
    ids = bundled.model.backbone.config
    config = replace(EncoderConfig(), pad_id=ids.pad_id, cls_id=ids.cls_id, sep_id=ids.sep_id)
    torch.manual_seed(0)
    backbone = ModernBert(config)
    backbone.initialise()
    head = [Dense(DenseConfig(config.hidden_size, 128))]
    settings = replace(bundled.tokenizer.settings, skiplist_words=())
    tokenizer = LateTokenizer(bundled.tokenizer.tokenizer, settings)
    Encoder(Checkpoint(LateInteractionModel(backbone, head), tokenizer), name="base", device="cpu").save(
        folder
    )


def make_sets(beir: Path, tokenizer: LateTokenizer, budget: int) -> dict[str, dict[str, Any]]:
    """Texts of each set and the length they are cut at: {"128": {"texts": [...], "length": 128}, ...}."""
    with (beir / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    corpus = [f"{row.get('title', '')} {row['text']}".strip() for row in rows]
    random.Random(0).shuffle(corpus)
    sets = {}
    for length in LENGTHS:
        words = endless_words(corpus, start=length)
        texts = [text_of(words, length, tokenizer) for _ in range(max(1, budget // length))]
        sets[str(length)] = {"texts": texts, "length": length}
    mixed: list[str] = []
    tokens = 0
    for text in corpus:
        if tokens >= budget:
            break
        mixed.append(text)
        tokens += len(tokenizer.tokenizer.encode(text).ids)
    queries = [" ".join(text.split()[:12]) for text in corpus[: max(8, budget // 512)]]
    return sets | {
        "mixed": {"texts": mixed, "length": LENGTHS[-1]},
        "queries": {"texts": queries, "length": LENGTHS[-1], "alone": True},
    }


def endless_words(corpus: list[str], start: int) -> Iterator[str]:
    while True:
        for text in corpus[start % len(corpus) :] + corpus[: start % len(corpus)]:
            yield from text.split()


def text_of(words: Iterator[str], length: int, tokenizer: LateTokenizer) -> str:
    """A text of just over `length` tokens, which document_length then cuts to exactly that."""
    chosen: list[str] = []
    while len(tokenizer.tokenizer.encode(" ".join(chosen)).ids) < length:
        chosen += [next(words) for _ in range(max(8, length // 16))]
    return " ".join(chosen)


class Worker:
    def __init__(
        self,
        contender: str,
        folder: Path,
        texts: Path,
        threads: int = 1,
        variables: dict[str, str] | None = None,
    ) -> None:
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
        own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        command = [sys.executable, HERE / "encoding_worker.py", contender, folder, texts]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = own | numbers | {"TOKENIZERS_PARALLELISM": "false"} | (variables or {})
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
        self.rss = self._answer()["rss"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[2]} ended with code {self.process.wait()}")
        return dict(json.loads(line))

    def ask(self, **request: Any) -> dict[str, Any]:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(model: str, folder: Path, budget: int, given: argparse.Namespace) -> dict[str, Any]:
    ours = [f"latewood {precision}" for precision in given.precision]
    names = [*ours, REFERENCE, "sentence-transformers"]
    tokenizer = Encoder.load(folder, device="cpu").tokenizer
    sets = make_sets(given.beir, tokenizer, budget)
    texts = folder.with_suffix(".texts.json")
    texts.write_text(json.dumps(sets), encoding="utf-8")
    workers = {name: Worker(name, folder, texts) for name in names}
    found: dict[str, Any] = {"rss_loaded": {name: worker.rss for name, worker in workers.items()}, "sets": {}}
    print(f"\n{model}: tokens per CPU second, one thread\n", flush=True)
    print("| set | " + " | ".join(names) + " | ratios to transformers | peers' batch | peak RSS, MiB |")
    print("|---|" + "---|" * (len(names) + 3), flush=True)
    for name in [s for s in SETS if s in given.sets]:
        slow = model == "base" and name == "8192"
        turns = max(1, given.repetitions // 3) if slow else given.repetitions
        row = found["sets"][name] = measure_set(workers, name, sets[name], turns, folder)
        speeds = " | ".join(f"{row[c]['speed']:,.0f}" for c in names)
        ratios = ", ".join(f"{row[c]['ratio']:.2f}" for c in names if c != REFERENCE)
        batches = ", ".join(str(row[c]["batch"]) for c in names if c not in ours)
        memory = ", ".join(f"{row[c]['rss'] / 2**20:,.0f}" for c in names)
        goal = f" (goal {GOALS[name]})" if model == "base" and name in GOALS else ""
        print(f"| {name} | {speeds} | {ratios}{goal} | {batches} | {memory} |", flush=True)
    if given.profile:
        for name in [s for s in SETS if s in given.sets]:
            table = workers[ours[0]].ask(set=name, profile=True)["table"]
            print(
                f"\n{model}, {name}, Latewood's own time by operation\n\n| | calls | time | share |\n|---|---|---|---|"
            )
            print(table, flush=True)
            found["sets"][name]["profile"] = table
    for worker in workers.values():
        worker.stop()
    return found


def measure_busy(model: str, folder: Path, budget: int, given: argparse.Namespace) -> dict[str, Any]:
    from encoding_busy import compare, table

    texts = folder.with_suffix(".texts.json")
    texts.write_text(json.dumps(make_sets(given.beir, Encoder.load(folder, device="cpu").tokenizer, budget)))
    found = compare(folder, texts, given.sets, given.repetitions)
    print(
        f"\n{model}: tokens per second, {os.cpu_count()} cores; in brackets the ratio to one thread\n{table(found)}"
    )
    return {"busy": found}


def measure_set(
    workers: dict[str, Worker], name: str, texts: dict[str, Any], turns: int, folder: Path
) -> dict[str, Any]:
    """Sweep, compare the vectors, then let the contenders take turns."""
    count, length = len(texts["texts"]), texts["length"]
    sizes = [b for b in PADDED if b <= count and (b == 1 or name == "mixed" or b * length <= PADDED_TOKENS)]
    best, first, vectors = {}, {}, {}
    for contender, worker in workers.items():
        tried = [1] if contender.startswith("latewood") else sizes
        file = folder.with_suffix(f".{contender.replace(' ', '-')}.npy")
        answers = {b: worker.ask(set=name, batch=b, save=str(file)) for b in tried}
        best[contender] = min(tried, key=lambda b: answers[b]["cpu"])
        first[contender] = answers[best[contender]]
        vectors[contender] = np.load(file)
    apart = {c: float(np.abs(v - vectors[REFERENCE]).max()) for c, v in vectors.items()}
    for contender, difference in apart.items():
        if difference > 1e-4 and contender.split()[-1] not in ("bf16", "fp16", "int8"):
            raise SystemExit(f"{contender} on {name}: vectors are {difference:.1e} from {REFERENCE}'s")
    # A sweep of one size was a turn already; elsewhere the best of several would flatter whom it chose.
    swept = len(sizes) == 1
    times: dict[str, list[float]] = {c: [first[c]["cpu"]] if swept else [] for c in workers}
    for _ in range(turns - swept):
        for contender, worker in workers.items():
            answer = worker.ask(set=name, batch=best[contender])
            first[contender]["rss"] = answer["rss"]
            times[contender].append(answer["cpu"])
    tokens = first[REFERENCE]["tokens"]
    return {
        contender: {
            "tokens": tokens,
            "texts": count,
            "batch": best[contender],
            "speed": tokens / statistics.median(seconds),
            "ratio": statistics.median(r / s for r, s in zip(times[REFERENCE], seconds, strict=True)),
            "cpu_seconds": seconds,
            "rss": first[contender]["rss"],
            "difference": apart[contender],
        }
        for contender, seconds in times.items()
    }


if __name__ == "__main__":
    main()
