"""Windows of long documents: nothing is lost, nothing is too long, hits fold into documents."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.tokenizer import LateTokenizer
from indexing import Index
from indexing.windows import Windows
from retriever.cli import app
from retriever.folding import fold, search_documents
from retriever.searcher import Hit, Searcher
from tests.fakes import FakeEncoder

WORDS = ["word", "antidisestablishmentarianism", "é", "a.b", " ", "\n", "x" * 90]


@pytest.fixture(scope="module")
def tokenizer() -> LateTokenizer:
    return Encoder.load(document_length=64).tokenizer


@settings(deadline=None, max_examples=60)
@given(
    text=st.lists(
        st.sampled_from(["word", "antidisestablishmentarianism", "é", "a.b", " ", "\n", "x" * 90])
    ).map(" ".join),
    window=st.integers(8, 64),
    part=st.sampled_from([0, 0.2, 0.5]),
)
def test_windows_cover_the_text_and_fit(
    tokenizer: LateTokenizer, text: str, window: int, part: float
) -> None:
    windows = Windows(tokenizer, window, int((window - 2) * part))
    spans = windows.spans(text)
    covered = set()
    for start, end in spans:
        covered |= set(range(start, end))
        ids = tokenizer.tokenizer.encode(text[start:end], add_special_tokens=False).ids
        assert len(spans) == 1 or len(ids) <= windows.room
    assert not [c for i, c in enumerate(text) if i not in covered and not c.isspace()]
    starts = [start for start, _ in spans]
    assert starts == sorted(set(starts))


def test_windows_overlap_and_begin_at_words(tokenizer: LateTokenizer) -> None:
    text = " ".join(f"w{i}" for i in range(100))
    windows = Windows(tokenizer, 32, 10)
    spans = windows.spans(text)
    assert len(spans) > 5
    for (_, end), (start, _) in pairwise(spans):
        assert 0 < end - start < 60
        assert text[start - 1] == " "


def test_passages_that_fit_stay_as_they_are(tokenizer: LateTokenizer) -> None:
    windows = Windows(tokenizer, 16)
    long = "one two three " * 12
    records = [
        {"doc_id": "a", "text": "short", "metadata": {"x": 1}},
        {"doc_id": "b", "text": long, "metadata": {"x": 2}},
    ]
    first, *rest = windows.cut(records)
    assert first == records[0]
    assert windows.counts == {"a": 0, "b": len(rest)}
    for n, window in enumerate(rest, 1):
        start, end = window["metadata"]["span"]
        assert window == {
            "doc_id": f"b#{n}",
            "text": long[start:end],
            "metadata": {"x": 2, "parent": "b", "window": n, "span": [start, end]},
        }


def test_what_cannot_be_is_refused(tokenizer: LateTokenizer) -> None:
    for window, overlap in ((65, 0), (3, 0), (32, 16), (32, -1)):
        with pytest.raises(ArgumentError, match=r"window=|overlap="):
            Windows(tokenizer, window, overlap)
    with pytest.raises(ArgumentError, match="metadata 'parent', which windows need"):
        list(Windows(tokenizer, 32).cut([{"doc_id": "a", "text": "b", "metadata": {"parent": 1}}]))


def test_a_document_that_gets_shorter_leaves_no_windows(tokenizer: LateTokenizer, tmp_path: Path) -> None:
    long, longer = "one two three " * 12, "one two three " * 30
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:

        def store(**texts: str) -> set[str]:
            windows = Windows(tokenizer, 16)
            index.add(windows.cut({"doc_id": d, "text": t} for d, t in texts.items()))
            windows.drop_stale(index)
            return {
                d.doc_id
                for d in index.documents(
                    [s.pid_start + i for s in index.segments for i in range(s.n_passages) if index.live(s)[i]]
                )
            }

        index.add([{"doc_id": "a#2", "text": "w1"}])  # of the user's own, and no window
        n = len(Windows(tokenizer, 16).spans(long))
        assert len(store(b=longer)) > n + 1
        assert store(b=long) == {"a#2"} | {f"b#{i + 1}" for i in range(n)}
        assert store(b="short", a="short") == {"a#2", "a", "b"}
        assert store(b=long) == {"a#2", "a"} | {f"b#{i + 1}" for i in range(n)}


def test_folding_keeps_the_best_window_of_each() -> None:
    names = [("d#2", "d"), ("e", None), ("d#1", "d"), ("f#1", "f")]
    hits = [
        Hit(i, 9.0 - i, doc_id, "", {"parent": parent} if parent else {})
        for i, (doc_id, parent) in enumerate(names, 1)
    ]
    folded = fold(hits)
    assert [(h.rank, h.doc_id, h.score) for h in folded] == [(1, "d", 8.0), (2, "e", 7.0), (3, "f", 5.0)]


def test_k_documents_come_back_however_many_windows_one_has(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:
        windows = [
            {"doc_id": f"long#{i}", "text": "w1 w2", "metadata": {"parent": "long"}} for i in range(50)
        ]
        index.add([*windows, *({"doc_id": f"d{i}", "text": "w1"} for i in range(8))])
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        found = search_documents(searcher, {"q": "w1 w2", "r": "w3"}, k=3)
        assert list(found) == ["q", "r"]
        assert found["q"][0].doc_id == "long"
        assert [len({h.doc_id for h in hits}) for hits in found.values()] == [3, 3]
        everything = search_documents(searcher, {"q": "w1 w2"}, k=100)["q"]
        assert [h.rank for h in everything] == list(range(1, 10))


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line_shows_the_document_and_its_best_window(tmp_path: Path) -> None:
    filler = "Nothing of interest was said about the weather. " * 12
    text = f"{filler} The heart pumps blood through the body. {filler}"
    source = tmp_path / "c.jsonl"
    source.write_text(
        json.dumps({"_id": "talk", "text": text}) + "\n" + json.dumps({"_id": "x", "text": "A cat."})
    )
    out = tmp_path / "x"
    assert "x: " in run("index", source, "--out", out, "--window", 48, "--overlap", 8)
    [hit, other] = json.loads(run("search", out, "cardiac circulation of blood", "--json"))
    assert (hit["doc_id"], other["doc_id"]) == ("talk", "x")
    start, end = hit["metadata"]["span"]
    assert "heart pumps blood" in text[start:end] == hit["text"]
    line = run("search", out, "cardiac circulation of blood").splitlines()[0]
    assert line.endswith(f"talk  window {hit['metadata']['window']}, characters {start}-{end}")
