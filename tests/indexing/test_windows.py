"""Windows of long documents: nothing is lost, nothing is too long."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.tokenizer import LateTokenizer
from indexing import Index
from indexing.reading.windows import Windows
from retriever.cli import app
from tests.helpers.fakes import FakeEncoder, passages

WORDS = ["word", "antidisestablishmentarianism", "é", "a.b", " ", "\n", "x" * 90]


@pytest.fixture(scope="module")
def tokenizer() -> LateTokenizer:
    return Encoder.load(document_length=64).tokenizer


@pytest.mark.slow
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
        assert len(spans) == 1 or len(ids) <= window - tokenizer.n_special
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


def test_texts_that_fit_stay_whole(tokenizer: LateTokenizer) -> None:
    windows = Windows(tokenizer, 16)
    assert windows.spans("") == [(0, 0)]
    assert windows.spans(" short\n") == [(0, 7)]  # with its white space
    fits = "one two three " * 4 + "one two"
    assert len(tokenizer.tokenizer.encode(fits).ids) == 16
    assert windows.spans(fits) == [(0, len(fits))]
    assert len(windows.spans(fits + " three")) == 2


@pytest.mark.slow
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
    assert (
        len(text)
        < 64 - tokenizer.n_special
        < len(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)
    )
    assert len(windows.spans(text)) > 1


def test_what_cannot_be_is_refused(tokenizer: LateTokenizer) -> None:
    for window, overlap in ((65, 0), (3, 0), (32, 16), (32, -1)):
        with pytest.raises(ArgumentError, match=r"window=|overlap="):
            Windows(tokenizer, window, overlap)
    for whole in (31, 65):
        with pytest.raises(ArgumentError, match=f"whole={whole}; pass window=32 to document_length=64"):
            Windows(tokenizer, 32, whole=whole)


@pytest.mark.slow
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

    assert "1 documents were long and are stored in several passages each" in index("x")
    found = CliRunner().invoke(app, ["search", str(tmp_path / "x"), "zebra", "-k", "1", "--json"])
    [hit] = json.loads(found.stdout)
    assert (hit["doc_id"], hit["text"]) == ("a", long)
    assert hit["passage"]["text"].endswith("The zebra crossed the river.")
    told = index("y", "--document-length", "64")
    assert "1 documents were longer than the model reads and were" in told


WORD = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def words(n: int) -> str:
    return " ".join(WORD[i % 10] for i in range(n))


@pytest.mark.parametrize(
    ("options", "text", "n_passages", "n_tokens"),
    [
        ({}, words(64), 1, 64),
        ({}, words(65), 2, 65),  # windows of 64 that may overlap by 8, cut at words
        ({"window": None}, words(200), 1, 64),
        ({"window": 16}, words(65), 5, 65),
        ({"window": 16, "overlap": 4}, words(40), 3, 48),
        ({"window": 16}, "", 1, 0),
    ],
)
def test_an_index_cuts_what_it_is_given(
    tmp_path: Path, options: dict[str, Any], text: str, n_passages: int, n_tokens: int
) -> None:
    encoder = FakeEncoder(windows=True)
    with Index.create(tmp_path / "x", encoder, **options) as index:
        report = index.add([{"doc_id": "a", "text": text}])
        assert (report.added, report.passages) == (1, n_passages)
        assert report.truncated == (options.get("window", 1) is None)
        spans = [span for span, _ in passages(index)["a"]]
        assert len(spans) == n_passages == index.n_passages
        kept = [word for start, end in spans for word in text[start:end].split()]
        assert report.tokens == index.n_tokens == min(len(kept), 64 if n_passages == 1 else len(kept))
        if "overlap" not in options and options:
            assert index.n_tokens == n_tokens
        assert len(index) == 1


def test_windows_that_an_encoder_cannot_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="window=8, and 'fake' has no tokenizer; pass window=None"):
        Index.create(tmp_path / "x", FakeEncoder(), window=8)
    with pytest.raises(ArgumentError, match="window=65; pass 2 to document_length=64, or raise that"):
        Index.create(tmp_path / "x", FakeEncoder(windows=True), window=65)
    with pytest.raises(ArgumentError, match="overlap=9; pass 0 to 8, half a window"):
        Index.create(tmp_path / "x", FakeEncoder(windows=True), window=16, overlap=9)
    with pytest.raises(ArgumentError, match="overlap=4 without a window; pass window, or leave it out"):
        Index.create(tmp_path / "x", FakeEncoder(windows=True), overlap=4)
    assert not (tmp_path / "x").exists()


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
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
    start, end = hit["passage"]["span"]
    assert "heart pumps blood" in text[start:end] == hit["passage"]["text"]
    assert (hit["text"], hit["metadata"]) == (text, {})
    line = run("search", out, "cardiac circulation of blood").splitlines()[0]
    assert line.endswith("talk  lines 1-1")
