"""`latewood search` imports what it needs and no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoder import Encoder
from indexing import Index

ROOT = Path(__file__).parent.parent.parent
UNWANTED = {
    "encoder.training",
    "ir_measures",
    "matplotlib",
    "pandas",
    "retriever.cli.evaluate",
    "retriever.cli.train",
    "retriever.ranking.device",
    "retriever.evaluation",
    "retriever.ranking.tuning",
    "scipy._lib",  # numba tries scipy itself, in vain, and importtime tells of tries too
    "sentence_transformers",
    "sklearn",
    "transformers",
}


def imported(*arguments):
    """Modules that a command imports, each by its full name; and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "retriever.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}, done.stdout


@pytest.mark.parametrize("kind", ["flat", "compressed"])
def test_searching_imports_no_training_and_no_evaluation(tmp_path, kind):
    with Index.create(
        tmp_path / "x", Encoder.load(), flat_tokens=300 if kind == "compressed" else 10**6
    ) as index:
        index.add({"doc_id": f"d{i}", "text": f"passage {i} about hearts and banks"} for i in range(60))
    modules, output = imported("search", tmp_path / "x", "a heart", "-k", "1")
    assert "hearts" in output
    assert {"torch", "retriever.searcher"} <= modules
    assert ("numba" in modules) == (kind == "compressed")
    assert not {name for name in modules if any(name == u or name.startswith(u + ".") for u in UNWANTED)}
