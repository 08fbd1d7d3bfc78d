"""Docs run: the README's blocks and the examples."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import examples.evaluate_beir
import examples.long_documents
import examples.own_vectors
import examples.rag_haystack
import examples.rag_langchain
import examples.rag_llamaindex
import examples.search_code
import examples.search_texts
import examples.st_evaluator
import examples.st_model_in_index
import examples.train_small
from tests.helpers.pages import blocks, run_commands, run_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clone, as far as the README speaks of it, with a collection in BEIR's layout as the guide makes it."""
    folder = tmp_path_factory.mktemp("readme")
    code = ROOT / "encoder" / "model"
    shutil.copytree(code, folder / "encoder" / "model", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mine" / "qrels").mkdir(parents=True)
    (folder / "mine" / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": "a cat"}\n')
    (folder / "mine" / "queries.jsonl").write_text('{"_id": "q", "text": "kitten"}\n')
    (folder / "mine" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.slow
def test_the_readme_runs_and_prints_what_it_shows(place, monkeypatch):
    monkeypatch.chdir(place)
    assert run_page(README, place) == 1


@pytest.mark.slow
def test_the_commands_of_the_readme_run(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATEWOOD_CACHE", str(place / "cache"))
    lines = "".join(block.text for block in blocks(README) if block.language == "sh").splitlines()
    commands = [line for line in lines if line.startswith("latewood ")]
    assert len(commands) == 4
    for line in commands:
        assert run_commands(line, place)


@pytest.mark.slow
def test_the_picture_of_matches_is_what_the_command_prints(tmp_path):
    """But for numbers: another processor may round otherwise."""
    picture = tmp_path / "map.svg"
    done = subprocess.run(
        [sys.executable, "-m", "scripts.match_map", str(picture)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "physicians -> doctors" in done.stdout
    shown, made = (
        re.sub(r"\d\.\d+", "N", path.read_text(encoding="utf-8"))
        for path in (ROOT / "docs" / "match-map.svg", picture)
    )
    assert made == shown


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_a_page_names_of_the_repository_exists(page):
    """Files and folders in code or in links; scripts can be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((?!https?:)([^)#]+)", text)) | set(
        re.findall(r"\b(?:docs|scripts|encoder|indexing|retriever|tests)/[\w/.-]*\w", text)
    )
    assert len(named) > 2
    for name in named:
        assert (ROOT / name).exists(), f"{page} names {name}"
    for script in re.findall(r"\bscripts/([\w-]+)(?!\S*\.)", text):
        assert os.access(ROOT / "scripts" / script, os.X_OK), script


def test_ci_runs_the_command_for_all_checks():
    assert "scripts/test" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_search_texts(tmp_path):
    answers = examples.search_texts.main(tmp_path / "x")
    assert answers[:2] == ["heart", "bank"]
    assert set(answers[2:]) == {"heart", "compiler"}


@pytest.mark.slow
def test_example_st_model_in_index(tmp_path):
    assert examples.st_model_in_index.main(tmp_path)[::2] == ["bank", "heart"]


@pytest.mark.slow
def test_example_st_evaluator(tmp_path):
    """The same figures as by their brute force."""
    theirs, ours = examples.st_evaluator.main(tmp_path)
    assert len(theirs) > 10
    assert {name.partition("_")[2]: value for name, value in ours.items()} == {
        name.partition("_")[2]: pytest.approx(value, abs=1e-9) for name, value in theirs.items()
    }
    assert all(ours[name] > 0.9 for name in ours if "ndcg" in name)


def test_example_own_vectors(tmp_path):
    assert examples.own_vectors.main(tmp_path / "x")[0] == "page 17"


@pytest.mark.slow
def test_example_rag_langchain(tmp_path):
    from langchain_core.language_models import FakeListChatModel

    class Echo(FakeListChatModel):
        """Answers with what it was asked."""

        def _call(self, messages, *args, **kwargs):
            return messages[-1].content

    pages, answer = examples.rag_langchain.main(tmp_path / "x")
    assert pages[0] == "filters.md"
    assert len(pages) == 3
    assert "bound parameters" in answer
    asked, prompt = examples.rag_langchain.main(tmp_path / "x", Echo(responses=[""]))
    assert asked == pages
    assert prompt.endswith("Question: which characters of a filter become SQL?")
    assert "None of a filter's text becomes SQL" in " ".join(prompt.split())


@pytest.mark.slow
def test_example_rag_llamaindex(tmp_path):
    pages, answer = examples.rag_llamaindex.main(tmp_path / "x")
    assert pages == ["filters.md", "filters.md"]
    assert "Query: which characters of a filter become SQL?" in answer  # the mock repeats what it was asked
    assert "None of a filter's text becomes SQL" in " ".join(answer.split())


@pytest.mark.slow
def test_example_rag_haystack(tmp_path):
    pages, answer = examples.rag_haystack.main(tmp_path / "x")
    assert pages[0] == "filters.md"
    assert len(pages) == 2
    assert answer.endswith(
        "Question: which characters of a filter become SQL?"
    )  # the mock repeats what it was asked
    assert "None of a filter's text becomes SQL" in " ".join(answer.split())


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
