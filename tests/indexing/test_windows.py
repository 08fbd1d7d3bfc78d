"""Windows of long documents: nothing is lost, nothing is too long, hits fold into documents."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from retriever.ranking.folding import fold, search_documents
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.tokenizer import LateTokenizer
from indexing import Index
from indexing.reading.windows import Windows
from retriever.cli import app
from retriever.searcher import Hit, Searcher
from tests.helpers.fakes import FakeEncoder, corpus

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
@example(text="antidisestablishmentarianism " * 2 + "word word", window=8, part=0)
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


def test_by_default_only_what_would_be_cut_off_comes_in_windows() -> None:
    tokenizer = Encoder.load(document_length=4096).tokenizer
    windows = Windows.chosen(tokenizer, "auto")
    assert windows is not None
    assert (windows.window, windows.overlap, windows.whole) == (2048, 256, 4096)
    fits, longer = "word " * 4094, "word " * 4095  # and two special tokens
    assert windows.spans(fits) == [(0, len(fits))]
    spans = windows.spans(longer)
    assert [len(tokenizer.tokenizer.encode(longer[a:b]).ids) for a, b in spans[:-1]] == [2048] * (
        len(spans) - 1
    )
    assert spans[-1][1] == len(longer.rstrip())
    short = Windows.chosen(Encoder.load(document_length=64).tokenizer, "auto")
    assert short is not None
    assert (short.window, short.overlap, short.whole) == (64, 8, 64)
    assert Windows.chosen(tokenizer, None) is None


def test_a_text_of_few_characters_may_have_many_tokens(tokenizer: LateTokenizer) -> None:
    """Characters that the tokenizer takes apart: length in characters says nothing."""
    text = "\uac01 " * 30  # three letters in one character
    windows = Windows(tokenizer, 64)
    assert len(text) < windows.fits < len(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)
    assert len(windows.spans(text)) > 1


def test_what_cannot_be_is_refused(tokenizer: LateTokenizer) -> None:
    for window, overlap in ((65, 0), (3, 0), (32, 16), (32, -1)):
        with pytest.raises(ArgumentError, match=r"window=|overlap="):
            Windows(tokenizer, window, overlap)
    for whole in (31, 65):
        with pytest.raises(ArgumentError, match=f"whole={whole}; pass window=32 to document_length=64"):
            Windows(tokenizer, 32, whole=whole)
    with pytest.raises(ArgumentError, match="metadata 'parent', which windows need"):
        list(Windows(tokenizer, 8).cut([{"doc_id": "a", "text": "b " * 9, "metadata": {"parent": 1}}]))
    short = {"doc_id": "a", "text": "b", "metadata": {"parent": 1}}
    assert list(Windows(tokenizer, 8).cut([short])) == [short]  # what is not cut may have keys of its own


def test_the_command_keeps_all_of_a_long_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda *a, **k: load(*a, **{"document_length": 64, **k}))
    source = tmp_path / "docs.jsonl"
    long = "The weather was fine. " * 40 + "The zebra crossed the river."
    source.write_text(
        "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in (("a", long), ("b", "short")))
    )

    def index(out: str, *options: str) -> str:
        told = CliRunner().invoke(app, ["index", str(source), "--out", str(tmp_path / out), *options])
        assert told.exit_code == 0, told.output
        return told.output

    assert "1 documents were longer than 64 tokens and are stored in windows of 64" in index("x")
    found = CliRunner().invoke(app, ["search", str(tmp_path / "x"), "zebra", "-k", "1", "--json"])
    [hit] = json.loads(found.stdout)
    assert (hit["doc_id"], hit["text"].endswith("The zebra crossed the river.")) == ("a", True)
    told = index("y", "--document-length", "64")
    assert "1 passages were longer than 64 tokens and were cut; leave --document-length out" in told


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
                for d in index._store.documents(
                    [s.pid_start + i for s in index.segments for i in range(s.n_passages) if index.live(s)[i]]
                )
            }

        own = {"parent": "b", "window": 99}
        index.add(
            [{"doc_id": "a#2", "text": "w1"}, {"doc_id": "mine", "text": "w1", "metadata": own}]
        )  # no windows
        n = len(Windows(tokenizer, 16).spans(long))
        assert len(store(b=longer)) > n + 1
        assert store(b=long) == {"a#2", "mine"} | {f"b#{i + 1}" for i in range(n)}
        assert store(b="short", a="short") == {"a#2", "mine", "a", "b"}
        assert store(b=long) == {"a#2", "mine", "a"} | {f"b#{i + 1}" for i in range(n)}


def test_folding_keeps_the_best_window_of_each() -> None:
    names = [("d#2", "d"), ("e", None), ("d#1", "d"), ("f#1", "f")]
    hits = [
        Hit(i, 9.0 - i, doc_id, "", {"parent": parent, "window": int(doc_id[2:])} if parent else {})
        for i, (doc_id, parent) in enumerate(names, 1)
    ]
    hits.append(Hit(5, 1.0, "reply", "", {"parent": "e", "window": "left"}))  # a user's own keys: no window
    folded = fold(hits)
    shown = [(h.rank, h.doc_id, h.score) for h in folded]
    assert shown == [(1, "d", 8.0), (2, "e", 7.0), (3, "f", 5.0), (4, "reply", 1.0)]


def test_k_documents_come_back_however_many_windows_one_has(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:
        windows = [
            {"doc_id": f"long#{i}", "text": "w1 w2", "metadata": {"parent": "long", "window": i}}
            for i in range(50)
        ]
        index.add([*windows, *({"doc_id": f"d{i}", "text": "w1"} for i in range(8))])
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        found = search_documents(searcher, {"q": "w1 w2", "r": "w3"}, k=3)
        assert list(found) == ["q", "r"]
        assert found["q"][0].doc_id == "long"
        assert [len({h.doc_id for h in hits}) for hits in found.values()] == [3, 3]
        everything = search_documents(searcher, {"q": "w1 w2"}, k=100)["q"]
        assert [h.rank for h in everything] == list(range(1, 10))
        # No deeper than the user lets it look: all 4 are windows of one document.
        assert [h.doc_id for h in search_documents(searcher, {"q": "w1 w2"}, k=3, nrerank=4)["q"]] == ["long"]


def window(doc_id: str, n: int, text: str) -> dict[str, Any]:
    return {"doc_id": f"{doc_id}#{n}", "text": text, "metadata": {"parent": doc_id, "window": n}}


def test_hybrid_fuses_the_ranks_of_documents(tmp_path: Path) -> None:
    """Vectors find one window of "both", words another; as windows neither would be found twice."""
    encoder = FakeEncoder()
    encoder.word = lambda word: FakeEncoder.word(encoder, "w1" if word == "near" else word)  # type: ignore
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([window("both", 1, "near near"), window("both", 2, "filler w1 w1")])
        index.add([window("words", 1, "w1"), window("words", 2, "filler")])
        index.add([{"doc_id": "vectors", "text": "near"}, {"doc_id": "none", "text": "filler filler"}])
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        late = search_documents(searcher, {"q": "w1"}, k=10)["q"]
        lexical = search_documents(searcher, {"q": "w1"}, k=10, mode="lexical")["q"]
        for weights in (None, (1.0, 3.0)):
            expected: dict[str, float] = {}
            for weight, ranking in zip(weights or (1, 1), (late, lexical), strict=True):
                for hit in ranking:
                    expected[hit.doc_id] = expected.get(hit.doc_id, 0) + weight / (60 + hit.rank)
            found = search_documents(searcher, {"q": "w1"}, k=10, mode="hybrid", weights=weights)["q"]
            order = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))
            assert [(h.doc_id, h.score) for h in found] == [(d, pytest.approx(s)) for d, s in order]
            assert [h.rank for h in found] == list(range(1, len(found) + 1))
        with pytest.raises(ArgumentError, match="weights="):
            search_documents(searcher, {"q": "w1"}, mode="hybrid", weights=(0, 0))


def test_without_windows_hybrid_is_the_searchers(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(corpus(150))
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        queries = {"q": "w1 w2", "r": "w3", "s": "unknown"}
        for options in ({"k": 7}, {"k": 120}, {"k": 5, "weights": (2.0, 0.5)}, {"k": 5, "nrerank": 20}):
            folded = search_documents(searcher, queries, mode="hybrid", **options)  # type: ignore[arg-type]
            plain = searcher.search_many(queries, mode="hybrid", **options)  # type: ignore[arg-type]
            assert folded == plain


def test_a_window_that_words_found_is_explained_by_vectors(tmp_path: Path) -> None:
    encoder = Encoder.load()
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(window("it's", n, text) for n, text in enumerate(["A cat.", "The heart pumps blood."], 1))
        index.add({"doc_id": f"d{i}", "text": f"blood pressure {i}"} for i in range(9))
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        options: dict[str, Any] = {"k": 1, "nrerank": 1, "mode": "hybrid", "weights": (0.1, 1.0)}
        [hit] = search_documents(searcher, {"q": "pumps"}, **options)["q"]
        assert (hit.doc_id, hit.text) == ("it's", "The heart pumps blood.")
        explained = hit.explain()
        assert explained.text == hit.text
        assert "pumps" in {match.passage_token.strip(" ĠÂ") for match in explained.matches}


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
