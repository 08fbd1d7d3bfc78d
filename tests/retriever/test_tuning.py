"""Tuning: what is measured, what is chosen, that it is stored and used."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError, IndexLockedError
from indexing import Index
from indexing.settings import TunedSearch
from retriever import Searcher
from retriever.cli import app
from retriever.ranking.knobs import SearchSettings
from retriever.ranking.tuning import Trial, best, sample_queries, tune
from tests.helpers.fakes import FakeEncoder


@pytest.fixture
def index_folder(tmp_path):
    random = np.random.default_rng(0)
    with Index.create(tmp_path / "x", FakeEncoder(dim=16), flat_tokens=1000) as index:
        index.add(
            {"doc_id": str(i), "text": " ".join(f"w{j}" for j in random.integers(0, 300, 12))}
            for i in range(300)
        )
    return tmp_path / "x"


@pytest.mark.slow
def test_recall_and_the_choice(index_folder):
    with Searcher.open(index_folder, FakeEncoder(dim=16)) as searcher:
        queries = sample_queries(searcher.snapshot, 10)
        trials = tune(searcher, queries, k=10)
        assert {len(t.settings.__dict__) for t in trials} == {3}
        assert [t.seconds for t in trials] == sorted(t.seconds for t in trials)
        nlist = searcher.snapshot.codec.nlist
        everything = SearchSettings(nlist, 300, 300)
        assert [t.recall for t in trials if t.settings == everything] == [1.0]
        assert min(t.recall for t in trials) < 1
        pairs = dict(enumerate(queries))
        for trial in trials[::9]:
            expected = searcher.recall_vs_exact(pairs, k=10, **vars(trial.settings)).search
            assert trial.recall == pytest.approx(expected)


def trial(nprobe, recall, seconds):
    return Trial(SearchSettings(nprobe, 100, 50), recall, seconds)


def test_the_fastest_that_finds_enough_is_chosen():
    trials = [trial(1, 0.5, 0.1), trial(2, 0.99, 0.3), trial(3, 0.995, 0.2), trial(4, 1.0, 0.9)]
    assert best(trials, 0.99, 10) == TunedSearch(10, 0.995, 3, 100, 50)
    assert best(trials, 1.0, 10).nprobe == 4
    with pytest.raises(ArgumentError, match=r"0\.9900 was; pass recall <= 0\.9900"):
        best(trials[:2], 0.999, 10)
    with pytest.raises(ArgumentError, match="recall=0"):
        best(trials, 0, 10)


def test_stored_settings_take_the_place_of_the_defaults(index_folder):
    encoder = FakeEncoder(dim=16)
    with Searcher.open(index_folder, encoder) as before:
        assert before.snapshot.tuned_search is None
        default = before.settings(k=10)
        with Index.open(index_folder, encoder, writable=True) as index:
            index.set_tuned_search(TunedSearch(10, 0.99, 3, 40, 20))
            index.set_tuned_search(TunedSearch(10, 0.98, 2, 40, 20))
            with pytest.raises(IndexLockedError):
                Index.open(index_folder, writable=True)
        assert before.settings(k=10) == default  # its snapshot is older
        assert before.reload()
        assert before.settings(k=10) == SearchSettings(2, 40, 20)
    with Index.open(index_folder) as index:
        assert index.info()["tuned_search"]["recall"] == 0.98
    with Searcher.open(index_folder, encoder) as searcher:
        assert searcher.snapshot.tuned_search == TunedSearch(10, 0.98, 2, 40, 20)
        assert searcher.settings(k=10) == SearchSettings(2, 40, 20)
        assert searcher.settings(k=11) == default  # beyond what was measured
        assert searcher.settings(k=10, nprobe=5) == SearchSettings(5, 40, 20)
        assert searcher.settings(k=10, nrerank=50) == SearchSettings(2, 50, 50)
        assert searcher.settings(k=10, ncandidates=15) == SearchSettings(2, 15, 15)
        assert len(searcher.search("w1 w2", k=10)) == 10
    with Index.open(index_folder, encoder, writable=True) as index:
        index.compact()
        assert index.tuned_search == TunedSearch(10, 0.98, 2, 40, 20)
    with Index.open(index_folder) as index, pytest.raises(ArgumentError, match="not open for writing"):
        index.set_tuned_search(TunedSearch(10, 1, 2, 40, 20))
    with pytest.raises(ArgumentError, match="cannot work"):
        TunedSearch(10, 1, 2, 40, 5)


def test_sampled_queries_are_sentences_of_passages(tmp_path):
    texts = {"a": "One two three four. Five six.", "b": "first line of code\nx = 1\n", "c": ""}
    with Index.create(tmp_path / "x", FakeEncoder(dim=16)) as index:
        index.add({"doc_id": i, "text": t} for i, t in texts.items())
        assert sorted(sample_queries(index.snapshot(), 10)) == ["One two three four.", "first line of code"]
        assert sample_queries(index.snapshot(), 1) == sample_queries(index.snapshot(), 1)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.slow
def test_tune_on_the_command_line(tmp_path):
    words = ["heart", "blood", "bank", "rate", "code", "compiler", "volcano", "magma", "pasta", "water"]
    random = np.random.default_rng(0)
    folder = tmp_path / "x"
    with Index.create(folder, Encoder.load(), flat_tokens=400) as index:
        index.add({"doc_id": str(i), "text": " ".join(random.choice(words, 10))} for i in range(60))
    (tmp_path / "q.txt").write_text("cardiac blood\n\nlending rate\n")
    dry = run("tune", folder, "--dry-run", "-n", 5)
    assert "nothing stored" in dry.output
    assert "5 queries" in dry.output
    done = run(
        "tune", folder, "--recall", "0.99", "--queries", tmp_path / "q.txt", "--plot", tmp_path / "t.png"
    )
    assert done.exit_code == 0, done.output
    assert "2 queries, k=10" in done.output
    assert done.output.count("<- chosen") == 1
    assert (tmp_path / "t.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    stored = json.loads(run("info", folder, "--json").stdout)["tuned_search"]
    assert stored["recall"] >= 0.99
    assert "tuned_search" in run("info", folder).output
    again = json.loads(run("tune", folder, "--json", "--dry-run", "-n", 2, "-k", 3).stdout)
    assert again["chosen"]["k"] == 3
    for arguments, message in (
        (["--recall", 2], "pass 0 < recall <= 1"),
        (["--queries", tmp_path / "none.txt"], "cannot be read"),
    ):
        failed = run("tune", folder, *arguments)
        assert message in str(failed.exception)


def test_tuning_a_flat_index_is_refused(tmp_path):
    encoder = FakeEncoder(dim=16)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([{"doc_id": "a", "text": "w1 w2"}])
    with (
        Searcher.open(tmp_path / "x", encoder) as searcher,
        pytest.raises(ArgumentError, match="scored exactly"),
    ):
        tune(searcher, ["w1"])


def test_a_plot_without_matplotlib_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    failed = run("tune", tmp_path, "--plot", tmp_path / "t.png")
    assert "pip install 'latewood[plot]'" in str(failed.exception)


def test_queries_of_scripts_without_spaces_are_lines_too(tmp_path):
    lines = ["すべての人間は自由である", "北京是中华人民共和国的首都"]
    with Index.create(tmp_path / "x", FakeEncoder(8)) as index:
        index.add([{"doc_id": "a", "text": "\n".join(lines)}])
        assert sample_queries(index.snapshot(), 1)[0] in lines
