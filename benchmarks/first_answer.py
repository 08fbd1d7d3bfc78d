"""Time to the first answer about a folder, to the next, and to one after a file has changed: beside semble, in turn.

    python benchmarks/first_answer.py FOLDER --semble PEER/bin/semble [--pairs 5]

Each pair runs both tools once, one after the other, with fresh caches: a question, another one, and, after one file has
changed, a third. Peak memory is of the first. semble's model lies on a hub; where that cannot be reached, pass
--stand-in to give it a static model of the same size with random vectors: its time is the same, its answers are not.
FOLDER is copied first. The model package must be in the peer's environment.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUESTIONS = ("where are sessions expired?", "parse command line arguments", "retry a failed request")
MODEL = """
import sys, numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
vectors = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 256), dtype=np.float32)
StaticModel(vectors, tokenizer).save_pretrained(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--semble", type=Path)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    rows: dict[str, list[list[float]]] = {"latewood": [], "semble": []}
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        if given.stand_in:
            tokenizer = Path(__file__).parent.parent / "encoder/models/latewood-mini/tokenizer.json"
            python = given.semble.with_name("python")
            subprocess.run([python, "-c", MODEL, tokenizer, model], check=True)
        for pair in range(given.pairs):
            for tool in rows:
                if tool == "latewood" or given.semble is not None:
                    work = Path(place) / f"{tool}{pair}"
                    rows[tool].append(once(tool, given, work, model if given.stand_in else None))
    names = ("first", "next", "after a change", "peak MB")
    medians = {
        tool: [sorted(column)[len(column) // 2] for column in zip(*own, strict=True)]
        for tool, own in rows.items()
        if own
    }
    for tool, own in medians.items():
        print(f"{tool:10s}", "  ".join(f"{name} {value:.2f}" for name, value in zip(names, own, strict=True)))
    if len(medians) == 2:
        ratios = [a / b for a, b in zip(medians["latewood"], medians["semble"], strict=True)]
        print(
            "ratio     ", "  ".join(f"{name} {value:.2f}" for name, value in zip(names, ratios, strict=True))
        )
    print(json.dumps(rows))


def once(tool: str, given: argparse.Namespace, work: Path, model: Path | None) -> list[float]:
    folder = work / "folder"
    shutil.copytree(given.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    # Both keep their bytecode, as they do where nothing forbids it.
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "LATEWOOD_CACHE": str(work / "cache"),
        "SEMBLE_CACHE_LOCATION": str(work / "cache"),
        **({} if model is None else {"SEMBLE_MODEL_NAME": str(model)}),
    }
    (work / "cache").mkdir()
    figures = []
    for number, question in enumerate(QUESTIONS):
        if number == 2:
            some = sorted(folder.rglob("*.py"))[0]
            some.write_text(some.read_text(encoding="utf-8") + "\n\ndef retry_request():\n    return None\n")
        command = [sys.executable, "-m", "retriever.cli", "search", str(folder), question, "-k", "5"]
        if tool == "semble":
            command = [str(given.semble), "search", question, str(folder), "-k", "5"]
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        figures.append(time.perf_counter() - started)
        if done.returncode or not done.stdout.strip():
            raise SystemExit(f"{tool} failed: {done.stderr[-500:]}")
    shutil.rmtree(work)
    # Of the largest child so far, so the first tool's peak can only be read where it is the larger.
    return [*figures, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000]


if __name__ == "__main__":
    main()
