"""Docs run: the README's blocks and the examples."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import examples.evaluate_beir
import examples.long_documents
import examples.own_vectors
import examples.search_code
import examples.search_texts
import examples.train_small
from retriever.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder such as the README speaks of: ./src with code, ./tiny in BEIR layout."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "encoder" / "model", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tiny" / "qrels").mkdir(parents=True)
    (folder / "tiny" / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": "a cat"}\n')
    (folder / "tiny" / "queries.jsonl").write_text('{"_id": "q", "text": "kitten"}\n')
    (folder / "tiny" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder


def test_python_blocks_run_in_order(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    found = blocks("python")
    assert found
    names = {"__name__": "readme"}
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    assert "heart" in capsys.readouterr().out


@pytest.mark.slow
def test_latewood_commands_run(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATEWOOD_CACHE", str(place / "cache"))
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("latewood ")]
    ran = 0
    for line in commands:
        arguments = shlex.split(line, comments=True)[1:]
        if arguments[0] == "train":
            continue  # hours of work; test_training.py and test_retrieval_training.py run them at toy size
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        ran += 1
    assert ran >= 4


def test_scripts_that_the_readme_names_exist_and_run():
    for script in re.findall(r"scripts/(\w+)", README):
        assert os.access(ROOT / "scripts" / script, os.X_OK), script
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_example_search_texts(tmp_path):
    answers = examples.search_texts.main(tmp_path / "x")
    assert answers[:2] == ["heart", "bank"]
    assert set(answers[2:]) == {"heart", "compiler"}


def test_example_own_vectors(tmp_path):
    assert examples.own_vectors.main(tmp_path / "x")[0] == "page 17"


@pytest.mark.slow
def test_example_evaluate_beir(tmp_path):
    folder = examples.evaluate_beir.collection(tmp_path / "functions")
    found = examples.evaluate_beir.main(folder, tmp_path / "report.json")
    assert found.keys() == {"latewood", "latewood-hybrid", "bm25", "dense"}
    assert found["latewood"] > 0.5  # 0.82 on 24 November 2026; bm25 had 0.49, dense 0.63
    assert examples.evaluate_beir.main(folder, tmp_path / "report.json") == found


@pytest.mark.slow
def test_example_search_code(tmp_path):
    places = examples.search_code.main(tmp_path)
    before, after = places[: len(places) // 2], places[len(places) // 2 :]
    assert before
    assert after == [place.replace("metrics.py", "scores.py") for place in before]


@pytest.mark.slow
def test_example_train_small(tmp_path):
    before, after = examples.train_small.main(tmp_path)
    assert after > before + 0.06  # measured: 0.14 to 0.15 more


@pytest.mark.slow
def test_example_long_documents(tmp_path):
    found = examples.long_documents.main(tmp_path / "x")
    assert len(found) == len(set(found)) == 3
