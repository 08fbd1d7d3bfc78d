"""Data sets by name, with a stand-in for mteb that has its functions' signatures; nothing is downloaded."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encoder.errors import ArgumentError, CorpusError, MissingDependencyError
from retriever.cli import app
from retriever.evaluation.published import GROUPS, Published, fetch, published, short_name

CORPUS = [
    {"id": "a", "title": "Heart", "text": "It pumps blood."},
    {"id": "b", "title": "", "text": "The bank raised interest rates."},
    {"id": "c", "title": None, "text": "Compilers translate code."},
]
QUERIES = [
    {"id": "1", "text": "blood circulation"},
    {"id": "2", "text": "monetary policy"},
    {"id": "3", "text": "x"},
]
JUDGED = {"1": {"a": 1}, "2": {"b": 2, "c": 0}}


class FakeTask:
    """As AbsTaskRetrieval: load_data fills dataset[subset][split], an older task only after the conversion."""

    def __init__(self, name: str, splits: list[str], subsets: list[str], corpus: Any = None) -> None:
        self.name, self.splits, self.subsets = name, splits, subsets
        self.corpus = CORPUS if corpus is None else corpus
        self.dataset: dict[str, dict[str, Any]] = {}

    def load_data(self, num_proc: int | None = None, *, timer: Any = None, **kwargs: Any) -> None:
        self.loaded = True

    def convert_v1_dataset_format_to_v2(self, num_proc: int | None) -> None:
        assert self.loaded
        data = {"corpus": self.corpus, "queries": QUERIES, "relevant_docs": JUDGED, "top_ranked": None}
        self.dataset = {subset: dict.fromkeys(self.splits, data) for subset in self.subsets}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """mteb replaced; what it was asked for."""
    asked: list[Any] = []

    def get_task(
        task_name: str,
        *,
        languages: list[str] | None = None,
        script: list[str] | None = None,
        eval_splits: list[str] | None = None,
        hf_subsets: list[str] | None = None,
        exclusive_language_filter: bool = False,
    ) -> FakeTask:
        asked.append((task_name, eval_splits, hf_subsets))
        assert eval_splits is not None
        assert hf_subsets is not None
        if task_name == "NQ":
            raise ConnectionError("no route to huggingface.co\nand more")
        corpus = [{"id": "i", "image": b""}] if task_name == "Pictures" else None
        return FakeTask(task_name, eval_splits, hf_subsets, corpus)

    module = types.ModuleType("mteb")
    module.get_task = get_task  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mteb", module)
    return asked


def test_a_set_is_fetched_once_into_a_beir_folder(asked: list[Any], tmp_path: Path) -> None:
    (one,) = published("MLDR_de")
    data = fetch(one, tmp_path)
    assert asked == [("MultiLongDocRetrieval", ["test"], ["de"])]
    assert (data.name, data.split, data.qrels) == ("mldr-de", "test", JUDGED)
    assert data.queries == {"1": "blood circulation", "2": "monetary policy"}
    texts = {p["doc_id"]: p["text"] for p in data.passages()}
    assert texts == {
        "a": "Heart It pumps blood.",
        "b": "The bank raised interest rates.",
        "c": "Compilers translate code.",
    }
    assert fetch(one, tmp_path).digest() == data.digest()
    assert len(asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mldr-de"]


@pytest.mark.slow
def test_the_command_takes_names_beside_folders(asked: list[Any], tmp_path: Path) -> None:
    arguments = ["evaluate", "msmarco", "nano-arguana", "--cache", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert [(r["dataset"], r["split"], r["R@100"]) for r in results] == [
        ("msmarco", "dev", 1.0),
        ("nano-arguana", "train", 1.0),
    ]
    assert [task for task, _, _ in asked] == ["MSMARCO", "NanoArguAnaRetrieval"]


def test_every_published_set_has_a_name() -> None:
    sizes = {name: len(group) for name, group in GROUPS.items()}
    assert sizes == {
        "beir": 14 + 12,  # cqadupstack is twelve
        "cqadupstack": 12,
        "nanobeir": 13,
        "mldr": 13,
        "longembed": 4 + 2 * 8,
        "codesearchnet": 6,
        "coir": 7 + 6 + 6 + 1,
    }
    assert published("stackoverflow-qa") == [Published("stackoverflow-qa", "StackOverflowQA")]
    assert published("mteb:CosQA") == [Published("mteb-cosqa", "CosQA")]
    assert published("mteb:MIRACLRetrieval/sw") == [
        Published("mteb-miraclretrieval-sw", "MIRACLRetrieval", "sw")
    ]
    assert short_name("ArguAna") == "arguana"
    assert short_name("Unheard") == "Unheard"
    with pytest.raises(ArgumentError, match="neither a folder nor the name of a data set; near it: scifact"):
        published("scifcat")
    with pytest.raises(ArgumentError, match="groups are beir, "):
        published("zzz")


def test_no_network_no_text_and_no_mteb_are_one_line(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError) as refused:
        fetch(published("nq")[0], tmp_path)
    assert str(refused.value) == (
        "cannot fetch nq (ConnectionError: no route to huggingface.co); check the network, or pass a BEIR folder"
    )
    with pytest.raises(CorpusError, match="is no text retrieval set"):
        fetch(published("mteb:Pictures")[0], tmp_path)
    with pytest.raises(CorpusError, match="is no text retrieval set"):  # the half-written folder is no cache
        fetch(published("mteb:Pictures")[0], tmp_path)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(
        MissingDependencyError, match=r"fiqa is fetched by mteb.*pip install 'latewood\[eval\]'"
    ):
        fetch(published("fiqa")[0], tmp_path)
