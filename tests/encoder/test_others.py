"""sentence-transformers 6 beside Latewood: each reads the other's folders, and its models are taken as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks.parity as parity
import benchmarks.parity_peer as peer
from encoder import Encoder
from encoder.errors import ArgumentError, EncoderMismatchError
from encoder.others import OtherEncoder
from indexing import Index
from retriever import Searcher, rerank

pytest.importorskip("sentence_transformers", "6")
CASES = [case for case in parity.CASES if "st" in case.peers]
TEXTS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.learn_tokenizer(tmp_path_factory.mktemp("st") / "tokenizer")


def job(case: parity.Case) -> dict[str, Any]:
    prompts = dict(zip(("query", "document"), case.prompts or ("", ""), strict=True))
    return {
        "settings": case.settings,
        "head": case.head,
        "prompts": prompts,
        "config": parity.shape().to_hf(),
        **case.texts,
    }


def assert_same(case: parity.Case, encoder: Encoder, model: Any, place: Path) -> None:
    peer.write(place, *peer.encode_st(model, case.texts["queries"], case.texts["documents"]))
    row = parity.differences(case, encoder, place.with_suffix(".npz"))
    assert row["tokens"] > 100
    assert max(row["query vectors"], row["document vectors"]) < 1e-5
    assert row["MaxSim"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_sentence_transformers_saves_is_read(tmp_path: Path, tokenizer: Path, case: parity.Case) -> None:
    backbone = peer.backbone(str(tokenizer.parent), job(case), tmp_path / "backbone")
    model = peer.make_st(job(case), backbone)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = Encoder.load(tmp_path / "saved")
    assert_same(case, loaded, model, tmp_path / "st")
    loaded.save(tmp_path / "again")
    assert Encoder.load(tmp_path / "again").fingerprint == loaded.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.saved_by_latewood], ids=lambda case: case.name
)
def test_what_latewood_saves_is_read_by_sentence_transformers(
    tmp_path: Path, tokenizer: Path, case: parity.Case
) -> None:
    ours = parity.random_encoder(case, tokenizer, seed=1)
    ours.save(tmp_path / "saved")
    model = peer.load_st(str(tmp_path / "saved"))
    assert_same(case, ours, model, tmp_path / "st")
    model.save_pretrained(str(tmp_path / "theirs"))
    assert (
        Encoder.load(tmp_path / "theirs").tokenizer.settings.query_length
        == ours.tokenizer.settings.query_length
    )
    assert_same(case, Encoder.load(tmp_path / "theirs"), model, tmp_path / "st2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Theirs, of the bundled weights in float32."""
    folder = tmp_path_factory.mktemp("bundled") / "saved"
    Encoder.load().save(folder)
    return peer.load_st(str(folder))


@pytest.mark.slow
def test_a_model_of_theirs_is_taken_as_it_is(tmp_path: Path, model: Any) -> None:
    with Index.create(tmp_path / "docs.index", model) as index:
        index.add({"doc_id": i, "text": t} for i, t in TEXTS.items())
        ours = Encoder.load()
        assert index.n_tokens == len(ours.encode_documents(list(TEXTS.values())).vectors)
        index.add([{"doc_id": "empty", "text": ""}])
    with Searcher.open(tmp_path / "docs.index", model) as searcher:
        hits = searcher.search("who sets the cost of borrowing?")
        assert hits[0].doc_id == "bank"
    with Index.create(tmp_path / "ours.index", ours) as index:
        index.add({"doc_id": i, "text": t} for i, t in TEXTS.items())
    with Searcher.open(tmp_path / "ours.index", ours) as searcher:
        own = searcher.search("who sets the cost of borrowing?")
        assert [hit.doc_id for hit in own] == [hit.doc_id for hit in hits if hit.doc_id != "empty"]
    with Index.open(tmp_path / "docs.index", model, writable=True) as index:
        assert index.add([{"doc_id": "bank", "text": TEXTS["bank"]}]).unchanged == 1
    assert rerank(model, "cardiac circulation", list(TEXTS.values()))[0].index == 0
    assert rerank(model, "cardiac circulation", []) == []


@pytest.mark.slow
def test_an_index_of_theirs_takes_no_other_encoder(tmp_path: Path, model: Any) -> None:
    with Index.create(tmp_path / "docs.index", model):
        pass
    with pytest.raises(
        EncoderMismatchError, match=r"was built with 'MultiVectorEncoder, passed as an object'"
    ):
        Searcher.open(tmp_path / "docs.index", Encoder.load())
    first = OtherEncoder(model).fingerprint
    assert OtherEncoder(model).fingerprint == first
    model.prompts["query"] = "ask: "
    assert OtherEncoder(model).fingerprint != first
    model.prompts["query"] = ""


@pytest.mark.slow
def test_vectors_are_theirs(model: Any) -> None:
    texts = ["one text", "", "another, longer text of more tokens"]
    for ours, theirs in (
        (OtherEncoder(model).encode_documents(texts), model.encode_document(texts)),
        (OtherEncoder(model).encode_queries(texts), model.encode_query(texts)),
    ):
        assert [len(rows) for rows in ours] == [len(rows) for rows in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b.float().numpy())
    with pytest.raises(ArgumentError, match=r"texts\[1\] is 3 \(int\); pass strings"):
        OtherEncoder(model).encode_documents(["a", 3])  # type: ignore[list-item]


def test_a_name_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"encoder is 'bundled' \(str\); pass Encoder.load\('bundled'\)"):
        Index.create(tmp_path / "x", "bundled")  # type: ignore[arg-type]


class ColBERT:
    """Stands in for PyLate's `models.ColBERT`: `encode` with `is_query`, and prompts only where they are named."""

    prompts = {"query": "q: ", "document": ""}  # noqa: RUF012
    query_length = 8

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, []  # type: ignore[var-annotated]

    def state_dict(self) -> Any:
        return self.model.state_dict()

    def encode(self, sentences: list[str], *, is_query: bool, prompt_name: str | None, **options: Any) -> Any:
        self.calls.append((is_query, prompt_name))
        encode = self.model.encode_query if is_query else self.model.encode_document
        return encode(sentences, **options)


@pytest.mark.slow
def test_a_model_of_pylate_is_asked_as_pylate_is(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColBERT, "__module__", "pylate.models.colbert")
    theirs = ColBERT(model)
    with Index.create(tmp_path / "docs.index", theirs) as index:  # type: ignore[arg-type]
        index.add({"doc_id": i, "text": t} for i, t in TEXTS.items())
    with Searcher.open(tmp_path / "docs.index", theirs) as searcher:  # type: ignore[arg-type]
        assert searcher.search("cardiac circulation", k=1)[0].doc_id == "heart"
    assert set(theirs.calls) == {(True, "query"), (False, None)}
    assert json.dumps(Index.open(tmp_path / "docs.index").info())
