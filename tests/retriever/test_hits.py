"""Hits: the passage that speaks for a document, in its characters and lines; what is printed; what is not encoded."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.errors import ArgumentError
from encoder.tokenizer import Token
from indexing import Index
from retriever import Searcher
from retriever.hits import STRETCH, Passage, best_stretch
from tests.helpers.fakes import DIM, FakeEncoder, corpus, record

LENGTH = 16  # words that the encoder reads


class TellingEncoder(FakeEncoder):
    """Cuts long texts, and tells its tokens: words."""

    def __init__(self) -> None:
        super().__init__(32, document_length=LENGTH, windows=True)

    def query_tokens(self, text: str) -> list[Token]:
        return [Token(m.group(), m.span()) for m in re.finditer(r"\S+", text)]

    def document_tokens(self, text: str) -> list[Token]:
        return self.query_tokens(text)


def lines_of(text: str, span: tuple[int, int], start: int = 1) -> tuple[int, int]:
    """By a loop over characters."""
    numbers, line = [], start
    for at, character in enumerate(text):
        if span[0] <= at < span[1] and not character.isspace():
            numbers.append(line)
        line += character == "\n"
    return numbers[0], numbers[-1]


LONG = "\n".join(" ".join(f"line{i}word{j}" for j in range(5)) for i in range(30)) + "\n"


@pytest.fixture(params=[10**6, 150], ids=["flat", "compressed"])
def searcher(request: Any, tmp_path: Path) -> Any:
    encoder = TellingEncoder()
    with Index.create(tmp_path / "x", encoder, flat_tokens=request.param) as index:
        index.add([{"doc_id": "long", "text": LONG}, {"doc_id": "short", "text": "a short one"}])
        index.add([{"doc_id": "chunk", "text": LONG.replace("line", "row"), "metadata": {"start_line": 101}}])
        index.add(corpus(20))
        assert index.n_passages > 22
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        yield searcher


@pytest.mark.parametrize("line", [0, 7, 19, 29])
@pytest.mark.parametrize(("doc_id", "start"), [("long", 1), ("chunk", 101)])
def test_a_passage_has_characters_and_lines_of_its_document(
    searcher: Searcher, line: int, doc_id: str, start: int
) -> None:
    query = f"line{line}word3 line{line}word4"
    query = query if doc_id == "long" else query.replace("line", "row")
    for mode in ("late", "hybrid"):
        hit = searcher.search(query, k=1, mode=mode)[0]
        passage = hit.passage
        assert hit.doc_id == doc_id
        assert hit.text is not None
        assert passage is not None
        assert passage.text == hit.text[slice(*passage.span)]
        assert query.split()[0] in passage.text
        assert len(passage.text.split()) <= LENGTH
        assert (passage.first_line, passage.last_line) == lines_of(hit.text, passage.span, start)
        assert passage.first_line <= start + line <= passage.last_line
        for match in hit.explain().matches:
            assert match.span is not None
            assert passage.span[0] <= match.span[0] < match.span[1] <= passage.span[1]
            assert hit.text[slice(*match.span)] == match.passage_token == match.query_token
            assert match.line == start + line


def test_a_short_document_is_its_passage(searcher: Searcher) -> None:
    for mode in ("late", "lexical", "hybrid"):
        [hit] = searcher.search("short one", k=1, mode=mode)
        assert hit.passage == Passage((0, 11), "a short one", 1, 1)


def test_passages_are_listed_by_passage(searcher: Searcher) -> None:
    query = "line3word0 line12word0 line25word0"
    hits = [h for h in searcher.search(query, by="passage", k=1000) if h.doc_id == "long"]
    spans = [h.passage.span for h in hits if h.passage]
    windows = sum(np.count_nonzero(segment.owners == 0) for segment in searcher.snapshot.segments)
    assert len(spans) == len(set(spans)) == windows > 5
    [best] = [h for h in searcher.search(query, k=1000, mode="late") if h.doc_id == "long"]
    assert best.passage is not None
    assert (best.passage.span, best.score) == (spans[0], pytest.approx(hits[0].score))


def test_words_alone_show_the_stretch_with_most_of_them(tmp_path: Path) -> None:
    words = [f"filler{i}" for i in range(1500)]
    words[40], words[900], words[905] = "blue", "blue", "whale"
    text = "".join(word + ("\n" if i % 10 == 9 else " ") for i, word in enumerate(words))
    encoder = FakeEncoder(DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([{"doc_id": "a", "text": text, "metadata": {"start_line": 11}}], encode=False)
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        [hit] = searcher.search("Blue WHALE absent", mode="lexical")
        passage = hit.passage
        assert passage is not None
        assert passage.text == text[slice(*passage.span)]
        assert {"blue", "whale"} <= set(passage.text.split())
        assert set(passage.text.split()) <= set(words)  # no word is cut
        assert STRETCH // 2 < len(passage.text) <= STRETCH
        assert (passage.first_line, passage.last_line) == lines_of(text, passage.span, 11)
        assert passage.first_line <= 11 + 90 <= passage.last_line
        with pytest.raises(ArgumentError, match="found by words alone"):
            hit.explain()


@pytest.mark.parametrize(
    ("text", "query", "length", "found"),
    [
        ("all of it", "x", 100, "all of it"),
        ("a b c d e f g h", "h", 4, "h"),
        ("cat dog x x x x x x cat cat", "dog cat", 8, "cat dog"),
        ("x" * 50, "nothing", 10, "x" * 10),
        ("x x x x 東京タワー x x x x", "東京タワー", 6, "東京タワー"),
    ],
)
def test_the_best_stretch(text: str, query: str, length: int, found: str) -> None:
    start, stop = best_stretch(text, query, length)
    assert 0 <= start < stop <= len(text)
    assert found in text[start:stop]
    assert stop - start <= length or len(text) <= length


def test_what_is_printed_is_short(searcher: Searcher) -> None:
    query = " ".join(f"line{i}word{j}" for i in range(10) for j in range(3))
    hit = searcher.search(query, k=1, mode="late")[0]
    shown = str(hit.explain()).split("\n")
    assert len(shown) == 10
    assert re.fullmatch(r"\d+\.\d\d from 30 tokens of the query, the best first:", shown[0])
    assert re.fullmatch(r" *-?\d\.\d{3}  line\d+word\d → \S+ \(line \d+\)", shown[1])
    assert shown[-1].endswith("  22 others")
    printed = [float(line.split()[0]) for line in shown[1:]]
    assert sum(printed) == pytest.approx(hit.score, abs=0.01)
    assert printed[:-1] == sorted(printed[:-1], reverse=True)
    assert str(hit.explain()) == repr(hit.explain())
    assert len(str(searcher.search("short", k=1, mode="late")[0].explain()).split("\n")) == 2
    assert len(repr(hit)) < 250
    assert repr(hit).startswith(f"Hit(rank=1, score={hit.score:.4f}, doc_id='long', text='line0word0 ")
    assert "...'" in repr(hit)


def test_a_copied_hit_keeps_its_passage(searcher: Searcher) -> None:
    for mode in ("late", "lexical"):
        hit = searcher.search("line9word1", k=1, mode=mode)[0]
        copied = pickle.loads(pickle.dumps(hit))
        assert copied == hit
        assert copied.passage == hit.passage is not None


def test_hits_tell_what_is_not_encoded(tmp_path: Path) -> None:
    encoder = FakeEncoder(DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(corpus(10), encode=False)
        with Searcher(index, encoder) as searcher:
            for by in ("document", "passage"):
                with pytest.raises(ArgumentError) as refused:
                    searcher.search("w1", by=by, mode="late")
                assert str(refused.value) == (
                    f"none of the 10 documents of {index.folder} is encoded yet; run index.encode(), "
                    'or search with mode="lexical"'
                )
            with pytest.raises(ArgumentError, match=r"run index\.encode\(\)"):
                searcher.search_embeddings(np.eye(DIM)[:1])
            words = searcher.search("w1", mode="lexical")
            assert words.unencoded == 10
            fused = searcher.search("w1", mode="hybrid")
            assert ([hit.doc_id for hit in fused], fused.unencoded) == ([hit.doc_id for hit in words], 10)
            for hit in fused:
                with pytest.raises(ArgumentError, match="is not encoded yet"):
                    hit.explain()
            index.encode(["d2", "d3", "d5"])
            assert searcher.reload()
            late = searcher.search("w1", mode="late")
            assert ({hit.doc_id for hit in late}, late.unencoded) == ({"d2", "d3", "d5"}, 7)
            index.encode()
            assert searcher.reload()
            late = searcher.search("w1", mode="late")
            assert (len(late), late.unencoded) == (10, 0)
            assert not searcher.reload()


@pytest.mark.slow
def test_ncandidates_and_nrerank_count_documents(tmp_path: Path) -> None:
    """Ten documents of eight passages each that all look like the query, before 200 others."""
    encoder = FakeEncoder(DIM, document_length=LENGTH, windows=True)
    near = " ".join(["w1 w2"] * (LENGTH // 2))
    with Index.create(tmp_path / "x", encoder, flat_tokens=300, window=LENGTH) as index:
        others = [record(i, f"w3 w{4 + i % 8} w5") for i in range(200)]
        index.add([*others, *({"doc_id": f"near{i}", "text": " ".join([near] * 8)} for i in range(10))])
        assert (len(index), index.n_passages) == (210, 280)
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        knobs = {"k": 10, "ncandidates": 12, "nrerank": 10, "nprobe": searcher.snapshot.codec.nlist}  # type: ignore[union-attr]
        documents = searcher.search("w1 w2", mode="late", **knobs)
        assert {hit.doc_id for hit in documents} == {f"near{i}" for i in range(10)}
        passages = searcher.search("w1 w2", by="passage", **knobs)
        assert len(passages) == 10
        assert {hit.doc_id for hit in passages} < {f"near{i}" for i in range(10)}
        assert searcher.settings(k=10).ncandidates == 288  # of 384 passages, 280 being 210 documents
        assert searcher.recall_vs_exact(["w1 w2"], **knobs).search == 1.0
