"""The readers of training data: what they give, and one line for whatever else a file may hold."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError, CheckpointError, CorpusError, LatewoodError
from encoder.training.data import Chunks, checked_sources, read_texts
from encoder.training.labels import read_labelled
from encoder.training.pairs import Example, Source, batches, read_examples

READERS = {"examples": read_examples, "labels": read_labelled, "texts": lambda path: list(read_texts(path))}
GOOD = {
    "query": "q",
    "pos": "p",
    "text": "t",
    "label": 1,
    "query_id": 1,
    "document_ids": ["d"],
    "document_id": "d",
}
LINE = json.dumps(GOOD).encode()
# Whole files, none of which is right.
ODD = {
    "empty": b"",
    "blank lines": b"\n\n  \n",
    "no JSON": b"not json",
    "half a line": LINE[:-9],
    "a list": b"[1, 2]",
    "a string": b'"text"',
    "a number": b"7",
    "null": b"null",
    "no UTF-8": b'{"query": "\xff", "pos": "p", "text": "\xe9", "label": 1}',
    "another field": b'{"name": "x"}',
    "deep": b"[" * 100_000,
    "a deep object": b'{"a":' * 100_000,
    "many digits": b'{"query": "q", "pos": "p", "text": "t", "label": ' + b"9" * 5000 + b"}",
    "zeros": b"\0" * 100,
    "a second line that is none": LINE + b"\n[]",
}


def values():
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400)
    return st.recursive(
        leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v), max_leaves=6
    )


FIELDS = [*GOOD, "negs", "scores", "text_pair", "title"]
RECORDS = st.dictionaries(st.sampled_from(FIELDS), values()) | st.fixed_dictionaries(
    dict.fromkeys(("query", "pos", "text"), st.text() | st.just("x")),
    optional={"negs": values(), "scores": values(), "label": values(), "text_pair": values()},
)
FILES = (
    st.lists(RECORDS | values(), max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | st.binary()
)


def places(folder, content):
    """The content as a plain file, as one gzipped, as one said to be gzipped, and as each file of PyLate's layout."""
    (folder / "x.jsonl").write_bytes(content)
    (folder / "y.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "z.jsonl.gz").write_bytes(content)
    yield from (folder / name for name in ("x.jsonl", "y.jsonl.gz", "z.jsonl.gz"))
    names = ("queries", "documents", "train")
    for odd in names:
        part = folder / odd
        part.mkdir(exist_ok=True)
        for name in names:
            (part / f"{name}.jsonl").write_bytes(content if name == odd else LINE)
        yield part


def results(content, folder):
    for path in places(folder, content):
        for name, read in READERS.items():
            found = answer(read, path)
            if isinstance(found, LatewoodError):
                assert "\n" not in str(found)
                assert str(folder) in str(found)
            else:
                yield name, path, found


def answer(read, path):
    try:
        return read(path)
    except LatewoodError as error:
        return error


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_one_line_that_names_it(name, tmp_path):
    found = {reader for reader, _, _ in results(ODD[name], tmp_path)}
    assert found == ({"texts"} if ODD[name].isspace() or not ODD[name] else set())


@pytest.mark.slow
@given(FILES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_what_it_says_or_one_line(tmp_path_factory, content):
    for name, _, found in results(content, tmp_path_factory.mktemp("any")):
        if name == "examples":
            assert found
            assert all(isinstance(t, str) for e in found for t in (e.query, *e.documents))
            assert all(e.documents and len(e.scores) in (0, len(e.documents)) for e in found)
        elif name == "labels":
            assert all(isinstance(t, str) for e in found for t in (e.text, e.pair))
        else:
            assert all(isinstance(t, str) and t for t in found)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_good_file_is_read_by_all(encoding, tmp_path):
    content = (LINE + b"\n\n" + LINE).decode().encode(encoding)
    found = {(name, path.name): read for name, path, read in results(content, tmp_path)}
    assert found["examples", "x.jsonl"] == [Example("q", ("p",))] * 2
    assert found["examples", "train"] == [Example("t", ("t",))] * 2
    assert [e.label for e in found["labels", "y.jsonl.gz"]] == [1, 1]
    assert found["texts", "x.jsonl"] == ["q", "p", "t"] * 2


PAIR = {"query": "q", "pos": "p"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos": None, "positive": "p"}, "has no 'pos'; give it a string"),
        ({"query": 5}, "has 'query' = 5; give it a string"),
        ({"negs": "dog"}, "has 'negs' = 'dog'; give it a list"),
        ({"negs": [1]}, r"has 'negs'\[0\] = 1; give it a string"),
        ({"negs": ["n"], "scores": ["a", "b"]}, r"has 'scores'\[0\] = 'a'; give it a number"),
        ({"scores": [float("nan")]}, r"is not JSON \(NaN is no JSON\); write one JSON object a line"),
        ({"scores": [10**400]}, r"has 'scores'\[0\] = 10+; give it a finite number"),
        ({"negs": ["n"], "scores": [1]}, "1 scores for 2 documents; give one for each"),
    ],
)
def test_a_pair_of_wrong_fields_is_refused_by_line_and_field(changes, message, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (PAIR, PAIR | changes)))
    with pytest.raises(CorpusError, match=rf"x\.jsonl:2.? {message}"):
        read_examples(path)


def test_null_is_a_field_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(PAIR | {"negs": None, "scores": None}))
    assert read_examples(path) == [Example("q", ("p",))]
    path.write_text(json.dumps({"text": "t", "text_pair": None, "label": 0}))
    assert read_labelled(path)[0].pair == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document_ids": ["d"]}, "has no 'query_id'"),
        ({"query_id": 1}, "has no 'document_ids'"),
        ({"query_id": 1, "document_ids": []}, "names no document"),
        ({"query_id": 1, "document_ids": "d"}, "has 'document_ids' = 'd'; give it a list"),
        ({"query_id": 1, "document_ids": ["d", "e"], "scores": [1]}, "1 scores for 2 documents"),
        ({"query_id": 2, "document_ids": ["d"]}, r"2 is not in .*queries\.jsonl"),
    ],
)
def test_pylates_rows_are_refused_by_line_and_field(row, message, tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"query_id": 1, "text": "q"}')
    (tmp_path / "documents.jsonl").write_text(
        '{"document_id": "d", "text": "p"}\n{"document_id": "e", "text": "n"}'
    )
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(CorpusError, match=rf"train\.jsonl:1.? {message}"):
        read_examples(tmp_path)


def test_an_id_with_two_texts_is_refused(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"query_id": 1, "text": "a"}\n{"query_id": "1", "text": "b"}')
    for name in ("documents", "train"):
        (tmp_path / f"{name}.jsonl").write_bytes(LINE)
    with pytest.raises(CorpusError, match=r"queries\.jsonl:2 has query_id '1' again, with another text"):
        read_examples(tmp_path)


def test_a_cut_gzip_file_is_one_line(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join([LINE] * 1000))[:-20])
    for read in READERS.values():
        with pytest.raises(CorpusError, match=r"cannot read .*x\.jsonl\.gz"):
            read(path)


def test_sources_are_checked_once_for_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(LINE)
    assert checked_sources(((p, 0.5) for p in ["x.jsonl"]), "file") == [(tmp_path / "x.jsonl", 0.5)]
    for written in ("x.jsonl", "x.jsonl:0.5"):  # as on the command line
        share = 0.5 if ":" in written else 1.0
        assert checked_sources([written], "file") == [(tmp_path / "x.jsonl", share)]
    (tmp_path / "y:1").write_bytes(LINE)
    assert checked_sources(["y:1"], "file") == [(tmp_path / "y:1", 1.0)]
    for sources, message in (
        (["x.jsonl:half"], r"'x\.jsonl:half': share 'half' is no number; write FILE:0\.25"),
        ([], "no source; pass at least one file"),
        ("x.jsonl", "sources is the string 'x.jsonl'"),
        ([("x.jsonl", 0.0)], r"share=0\.0; pass a share above 0"),
        ([("x.jsonl", float("nan"))], "share=nan"),
        ([("y.jsonl", 1.0)], r"y\.jsonl is not there"),
    ):
        with pytest.raises(ArgumentError, match=message):
            checked_sources(sources, "file")


def test_chunks_that_are_none_or_cut_are_one_line(tmp_path):
    none = Chunks(np.empty(0, np.uint16), np.zeros(1, np.int64))
    with pytest.raises(CorpusError, match="no text to make batches of"):
        next(none.batches(64, seed=0))
    (tmp_path / "c.npz").write_bytes(b"PK\3\4 cut")
    with pytest.raises(CheckpointError, match=r"c\.npz cannot be read .*; delete it, and it is made again"):
        Chunks.load(tmp_path / "c.npz")


def test_examples_with_and_without_negatives_fill_a_batch_together():
    rows = [Example(f"q{i}", ("p", "n")[: 1 + i % 2]) for i in range(8)]
    batch = next(batches([Source(rows)], size=6, n_negatives=1, seed=0))
    assert [len(row) for row in batch.documents] == [1] * 6
