"""Explanations against the vectors they explain, and against the text they point into."""

import copy
import dataclasses
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import retriever.cli.commands
import retriever.cli.terminal
from encoder import Encoder, TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.tokenizer import LateTokenizer, Token
from indexing import Index
from retriever import Searcher
from retriever.cli import app
from retriever.explaining import Explanation, sliding_max
from tests.helpers.fakes import FakeEncoder

TEXTS = [
    "The heart pumps blood, through the whole body!",
    "  Interest rates were raised by the central bank; markets fell.\nInvestors sold their shares.",
    "A compiler translates source code into machine code.",
    "def parse_date(text):\n    return date.fromisoformat(text)\n",
]


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load(document_length=24, skiplist_words=tuple(",.!?;"))


@pytest.fixture(scope="module", params=["flat", "compressed"])
def searcher(request, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain") / "x"
    texts = [*TEXTS, *(" ".join(f"word{i * j} filler" for j in range(12)) for i in range(30))]
    with Index.create(folder, encoder, flat_tokens=300 if request.param == "compressed" else 10**6) as index:
        index.add(
            {"doc_id": f"d{i}", "text": t, "metadata": {"start_line": 41} if i == 3 else {}}
            for i, t in enumerate(texts)
        )
    with Searcher.open(folder, encoder) as searcher:
        assert {segment.kind for segment in searcher.snapshot.segments} == {request.param}
        yield searcher


@pytest.mark.slow
@pytest.mark.parametrize("query", ["cardiac circulation of blood", "who raised rates?", "read an ISO date"])
def test_scores_add_up_and_spans_hold_the_tokens(searcher, query):
    for hit in searcher.search(query, k=34, mode="late"):
        explanation = hit.explain()
        assert explanation.score == pytest.approx(hit.score, abs=1e-3)
        assert len(explanation.matches) == len(searcher.encoder.encode_queries([query])[0])
        for match in explanation.matches:
            if match.span is None:
                assert match.passage_token in ("[CLS]", "[D] ", "[SEP]")
            else:
                start, stop = match.span
                assert hit.text[start:stop].lower() == match.passage_token.removeprefix("##")
        covered = [hit.text[a:b].lower() for a, b in (t.span for t in explanation.passage_tokens if t.span)]
        kept = {"##" + t for t in covered} | set(covered)
        assert all(t.text in kept for t in explanation.passage_tokens if t.span)
        assert not {",", ".", "!", "?", ";"} & set(covered)  # the skiplist's words have no vector


def test_query_tokens_and_lines(searcher):
    [hit] = [h for h in searcher.search("fromisoformat", k=34, mode="late") if h.doc_id == "d3"]
    explanation = hit.explain()
    assert explanation.matches[0].query_token == "[CLS]"
    found = [m for m in explanation.matches if m.span]
    assert found
    for match in found:
        assert match.line == 41 + hit.text[: match.span[0]].count("\n")
    window = explanation.best_window(3)
    assert window.first_line <= window.last_line <= 43
    assert hit.text[window.start : window.stop].strip()


@pytest.mark.slow
def test_a_truncated_passage_has_spans_up_to_the_cut(encoder, tmp_path):
    text = " ".join(f"alpha{i}" for i in range(40))
    with Index.create(tmp_path / "x", encoder, window=None) as index:
        index.add([{"doc_id": "a", "text": text}])
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        [hit] = searcher.search("alpha7", mode="late")
        tokens = hit.explain().passage_tokens
        assert len(tokens) == 24
        assert tokens[-1] == Token("[SEP]", None)
        assert max(t.span[1] for t in tokens if t.span) < len(text) / 2
    longer = Encoder.load(
        document_length=64, skiplist_words=()
    )  # cuts elsewhere, so its tokens are not those that were stored
    with (
        Searcher.open(tmp_path / "x", longer) as searcher,
        pytest.raises(ArgumentError, match="24 stored vectors"),
    ):
        searcher.search("alpha7", mode="late")[0].explain()


@pytest.mark.parametrize("prompt", ["", "search_document: "])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    "text", ["  Hello brave World ", "\n\tİstanbul is a city\nin Türkiye", "Café \ud800 here"]
)
def test_spans_survive_prompts_whitespace_and_case(encoder, prompt, lower, text):
    tokenizer = LateTokenizer(
        encoder.tokenizer.tokenizer,
        dataclasses.replace(
            encoder.tokenizer.settings, document_prompt=prompt, do_lower_case=lower, skiplist_words=()
        ),
    )
    tokens = tokenizer.document_tokens(text)
    assert len(tokens) == len(tokenizer.documents([text]).ids[0])
    spans = [token.span for token in tokens if token.span]
    words = [m.span() for m in re.finditer(r"\w+", text)]
    assert spans == sorted(spans)
    for start, stop in words:
        assert min(a for a, b in spans if a >= start) == start  # a token begins where the word does
        assert stop in {b for _, b in spans}


class WordEncoder(FakeEncoder):
    """A fake that tells its tokens: words."""

    def query_tokens(self, text):
        return [Token(m.group(), m.span()) for m in re.finditer(r"\S+", text)][: self.query_length]

    def document_tokens(self, text):
        return [Token(m.group(), m.span()) for m in re.finditer(r"\S+", text)][: self.document_length]


@pytest.mark.slow
def test_the_best_window_of_a_long_document(tmp_path):
    encoder = WordEncoder(dim=32, document_length=8192)
    words = [f"w{i % 97}" for i in range(8192)]
    words[1000], words[6001:6004] = "blue", ["blue", "whale", "sings"]
    text = "".join(word + ("\n" if i % 10 == 9 else " ") for i, word in enumerate(words))
    with Index.create(tmp_path / "x", encoder, flat_tokens=1000) as index:
        index.add([{"doc_id": "long", "text": text}])
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        [hit] = searcher.search("blue whale sings", mode="late")
        explanation = hit.explain()
        assert explanation.score == pytest.approx(hit.score, abs=1e-3)
        window = explanation.best_window(3)
        assert text[window.start : window.stop].split() == ["blue", "whale", "sings"]
        assert (window.first_line, window.last_line) == (601, 601)
        assert explanation.best_window(10**6).score == pytest.approx(explanation.score, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_sliding_max_is_a_loop_over_windows(n, width, seed):
    rows = np.random.default_rng(seed).standard_normal((3, n)).astype(np.float32)
    width = min(width, n)
    expected = np.stack([rows[:, i : i + width].max(axis=1) for i in range(n - width + 1)], axis=1)
    np.testing.assert_array_equal(sliding_max(rows, width), expected)


def test_what_cannot_be_explained_is_refused(searcher, tmp_path):
    lexical = searcher.search("compiler", mode="lexical")[0]
    with pytest.raises(ArgumentError, match="found by words alone"):
        lexical.explain()
    hybrid = next(h for h in searcher.search("compiler", mode="hybrid") if h.doc_id == "d2")
    late = next(h for h in searcher.search("compiler", k=34, mode="late") if h.doc_id == "d2")
    assert hybrid.explain().score == pytest.approx(late.score, abs=1e-3)
    vectors = TokenEmbeddings.from_list([np.eye(16, dtype=np.float32)], 16)
    with Index.create(tmp_path / "own", dim=16) as index:
        index.add_embeddings(["a"], vectors)
        index.add_embeddings(["b"], vectors, texts=["a text"])
    with Searcher.open(tmp_path / "own") as own:
        for hit in own.search_embeddings(vectors[0]):
            with pytest.raises(
                ArgumentError, match="without a text" if hit.doc_id == "a" else "built from vectors"
            ):
                hit.explain()
    with (
        Searcher.open(tmp_path / "own", FakeEncoder(dim=16)) as own,
        pytest.raises(ArgumentError, match="not tell"),
    ):
        own.search_embeddings(vectors[0])[1].explain()


def test_a_hit_is_data_for_all_others(searcher):
    hit = searcher.search("heart", k=1, mode="late")[0]
    assert set(dataclasses.asdict(hit)) == {"rank", "score", "doc_id", "text", "metadata"}
    copied = copy.deepcopy(hit)
    assert copied == hit
    with pytest.raises(ArgumentError, match="was copied"):
        copied.explain()


@pytest.mark.slow
def test_explain_on_the_command_line(searcher, monkeypatch):
    folder = str(searcher.snapshot.folder)
    plain = CliRunner().invoke(app, ["search", folder, "the heart", "-k", "1", "--explain"], color=True)
    assert plain.exit_code == 0, plain.output
    assert "\x1b" not in plain.output  # no terminal
    assert "heart -> heart  line 1" in plain.output
    monkeypatch.setattr(retriever.cli.commands, "colour", lambda: True)
    coloured = CliRunner().invoke(app, ["search", folder, "the heart", "-k", "1", "--explain"], color=True)
    assert "\x1b[32m\x1b[1mheart\x1b[0m pumps" in coloured.output
    arguments = ["search", folder, "the heart", "-k", "1", "--mode", "late", "--explain", "--json"]
    [hit] = json.loads(CliRunner().invoke(app, arguments).stdout)
    matches = hit["explanation"]["matches"]
    assert sum(m["score"] for m in matches) == pytest.approx(hit["score"], abs=1e-3)
    [heart] = [m for m in matches if m["query_token"] == "heart"]
    assert hit["text"][slice(*heart["span"])] == "heart"
    assert hit["explanation"]["window"]["first_line"] == 1


@pytest.mark.parametrize(
    ("tty", "no_color", "term", "expected"),
    [
        (True, "", "xterm", True),
        (True, "1", "xterm", False),
        (True, "0", "xterm", False),  # any value
        (True, "", "dumb", False),
        (False, "", "xterm", False),
    ],
)
def test_colour_only_where_it_is_wanted(monkeypatch, tty, no_color, term, expected):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    assert retriever.cli.terminal.colour() is expected


def test_ties_between_passage_tokens_take_the_first():
    similarity = np.array([[0.5, 0.5]], np.float32)
    explanation = Explanation("a b", similarity, ["q"], [Token("a", (0, 1)), Token("b", (2, 3))])
    assert explanation.matches[0].span == (0, 1)
    assert explanation.spans == [(0, 1)]
