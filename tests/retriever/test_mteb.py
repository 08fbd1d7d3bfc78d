"""mteb: our adapter by hand and by a local task through mteb itself; its tasks by name."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.maxsim import SHARPNESS
from retriever.cli import app
from retriever.evaluation import METRICS, evaluate
from retriever.evaluation.mteb_adapter import MtebSearch
from retriever.evaluation.published import GROUPS
from retriever.ranking.weighting import idf_weights
from tests.encoder.test_maxsim import counted

CORPUS = [
    {"id": "a", "title": "The heart", "text": "It pumps blood through the body."},
    {"id": "b's", "title": "", "text": "Interest rates were raised by the central bank."},
    {"id": "c", "text": "A compiler translates source code into machine code."},
    {"id": "1", "text": "how does blood move"},
]
QUERIES = [{"id": "1", "text": "how does blood move"}, {"id": "2", "text": "bank interest rates"}]
JUDGED = {"1": {"a": 1}, "2": {"b's": 1, "c": 0}}
TASK: dict[str, Any] = {
    "task_metadata": SimpleNamespace(name="ArguAna"),
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {"batch_size": 32},
    "num_proc": None,
}


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder.load()


def test_index_then_search(bundled: Encoder) -> None:
    with MtebSearch(bundled) as model:
        with pytest.raises(ArgumentError, match="call index before search"):
            model.search(QUERIES, top_k=10, **TASK)
        model.index(CORPUS, **TASK)
        run = model.search(QUERIES, top_k=2, **TASK)
        assert {qid: len(hits) for qid, hits in run.items()} == {"1": 2, "2": 2}
        document = bundled.encode_documents(["The heart It pumps blood through the body."])[0]
        text = QUERIES[0]["text"]
        query = bundled.with_query_length(64).encode_queries([text])[0]
        counts = {"how": 1, "does": 1, "blood": 2, "move": 1}  # passages of four that have the word
        weights = idf_weights(text, bundled.query_tokens(text), 4, lambda words: [counts[w] for w in words])
        best = (query @ document.T).max(axis=1)
        expected = sum(w * counted(float(b), 1.0, SHARPNESS) for w, b in zip(weights, best, strict=True))
        assert run["1"]["a"] == pytest.approx(expected, abs=0.02)
        model.index(CORPUS[1:], **TASK)  # the next task
        assert "a" not in model.search(QUERIES, top_k=10, **TASK)["1"]
    with pytest.raises(ArgumentError, match="organisation/model"):
        MtebSearch(bundled, name="latewood")


def test_reranking_tasks_keep_to_their_candidates(bundled: Encoder) -> None:
    with MtebSearch(bundled) as model:
        model.index(CORPUS, **TASK)
        run = model.search(QUERIES, top_k=10, top_ranked={"1": ["b's", "c"], "2": []}, **TASK)
    assert run["1"].keys() == {"b's", "c"}
    assert run["2"] == {}


def test_queries_are_joined_as_mteb_joins_them(bundled: Encoder) -> None:
    turns = [{"role": "user", "content": "bank"}, {"role": "user", "content": "rates"}]
    queries = [
        {"id": "x", "text": "bank", "instruction": "find rates"},
        {"id": "y", "text": "bank find rates"},
        {"id": "z", "text": turns},
        {"id": "w", "text": "user: bank; user: rates"},
    ]
    with MtebSearch(bundled) as model:
        model.index(CORPUS, **TASK)
        run = model.search(queries, top_k=10, **TASK)
    assert run["x"] == run["y"]
    assert run["z"] == run["w"]


def local_task() -> Any:
    """A task of mteb's own class, whose data are the four documents above."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskRetrieval):
        ignore_identical_ids = True
        metadata = TaskMetadata(
            name="LocalRetrieval",
            description="four documents",
            dataset={"path": "local/local", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            reference=None,
            date=("2026-01-01", "2026-01-02"),
            domains=["Written"],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="found",
            bibtex_citation="",
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            rows = [{"title": "", **row} for row in CORPUS]
            split = {"corpus": Dataset.from_list(rows), "queries": Dataset.from_list(QUERIES)}
            self.dataset = {"default": {"test": {**split, "relevant_docs": dict(JUDGED), "top_ranked": None}}}
            self.data_loaded = True

    return Local()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other people's, on import and in passing
def test_mteb_evaluates_a_local_task_on_our_index(bundled: Encoder) -> None:
    import mteb
    from mteb.models import SearchProtocol

    with MtebSearch(bundled) as model, warnings.catch_warnings():
        assert isinstance(model, SearchProtocol)
        found = mteb.evaluate(model, local_task(), cache=None, show_progress_bar=False)
        model.index(CORPUS, **TASK)
        run = model.search(QUERIES, top_k=1000, **TASK)
    (scores,) = found.task_results[0].scores["test"]
    del run["1"]["1"]
    ours = evaluate(JUDGED, run)
    assert scores["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-4)
    assert scores["mrr_at_10"] == pytest.approx(ours["RR@10"], abs=1e-4)
    assert scores["ndcg_at_10"] > 0.9
    assert found.model_name == "latewood/latewood-mini"
    assert found.model_revision == bundled.fingerprint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_command_measures_a_task_by_name(
    bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mteb's own loading of a task, but for the download; then the same from the cache, without mteb."""
    import mteb

    monkeypatch.setattr(mteb, "get_task", lambda name, **options: local_task())
    command = ["evaluate", "mteb:LocalRetrieval", "--cache", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["dataset"], found["documents"], found["queries"]) == ("mteb-localretrieval", 4, 2)
    with MtebSearch(bundled) as model:
        named = TASK | {"task_metadata": SimpleNamespace(name="LocalRetrieval")}
        model.index(CORPUS, **named)
        expected = evaluate(JUDGED, model.search(QUERIES, top_k=100, **named))
    assert {name: found[name] for name in METRICS} == pytest.approx(expected, abs=1e-4)
    again = json.loads(
        CliRunner().invoke(app, ["evaluate", str(tmp_path / "mteb-localretrieval"), "--json"]).stdout
    )
    assert [again[name] for name in METRICS] == [found[name] for name in METRICS]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_named_set_is_a_task_of_mteb() -> None:
    """With the subset and the split that are measured."""
    import mteb

    tasks = {
        name: mteb.get_task(name).metadata for name in {one.task for own in GROUPS.values() for one in own}
    }
    assert len(tasks) > 50
    for one in (one for own in GROUPS.values() for one in own):
        assert one.split in tasks[one.task].eval_splits, one
        assert one.subset == "default" or one.subset in tasks[one.task].hf_subsets, one
