"""Whatever files come, each reader of a corpus gives passages that an index holds as they are, or one line that says
why not: the files of `odd_files` (their names say what is odd), and what Hypothesis makes."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from encoder.errors import LatewoodError
from indexing import Index
from indexing.reading.corpus import read_folder, read_jsonl, read_source
from indexing.writing.records import read_records
from indexing.writing.sources import update_folder
from retriever.cli import app
from tests.helpers.fakes import FakeEncoder, contents

ODD = sorted((Path(__file__).parent / "odd_files").iterdir())
NAMES = ["a.txt", "a.md", "a.py", "a.js", "a.json", "a", "a.ipynb", "a.PY", "a.jsonl", ".gitignore"]


def as_source(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def among_others(folder: Path, name: str, data: bytes) -> Path:
    as_source(folder, "other.txt", b"w1 w2")
    return as_source(folder, name, data).parent


WAYS: dict[str, Callable[[Path, bytes], Path]] = {
    "jsonl": lambda folder, data: as_source(folder, "c.jsonl", data),
    "jsonl.gz": lambda folder, data: as_source(folder, "c.jsonl.gz", data),
    "jsonl packed": lambda folder, data: as_source(folder, "c.jsonl.gz", gzip.compress(data)),
    "BEIR": lambda folder, data: as_source(folder, "corpus.jsonl", data).parent,
    **{f"file {n}": lambda folder, data, n=n: as_source(folder, n, data) for n in NAMES[:-2]},  # type: ignore[misc]
    **{f"folder with {n}": lambda folder, data, n=n: among_others(folder, n, data) for n in NAMES},  # type: ignore[misc]
}


STORED = {"jsonl", "folder with a.py", "folder with .gitignore", "folder with a.ipynb"}


def check(folder: Path, data: bytes, way: str) -> None:
    """Read it, and store what was read: both come to something, or to one line."""
    told = ""
    try:
        stores(folder, WAYS[way](folder, data), way)
    except LatewoodError as error:
        told = str(error)
    assert "\n" not in told, way


def stores(folder: Path, source: Path, way: str) -> None:
    passages = list(read_source(source))
    list(read_records(passages, ""))  # what the index asks of each
    if way not in STORED:
        return
    with Index.create(folder / "x.index", FakeEncoder(8)) as index:
        index.add(passages)
        stored = {doc_id: row[:2] for doc_id, row in contents(index).items()}
        assert stored == {p["doc_id"]: (p["text"], p["metadata"]) for p in passages}
        if source.is_dir():  # as followed, it is the same
            added = update_folder(index, source).added
            assert (added.added, added.replaced) == (0, 0)
            assert update_folder(index, source).changed == 0


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD, ids=lambda path: path.name)
def test_odd_files(tmp_path: Path, odd: Path) -> None:
    for number, way in enumerate(WAYS):
        (folder := tmp_path / str(number)).mkdir()
        check(folder, odd.read_bytes(), way)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["_id", "doc_id", "id", "text", "title", "metadata", "window", "span", "x", "cells"])


def written(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


lines = st.lists(
    st.dictionaries(keys, st.text() | json, max_size=5).map(written)
    | st.fixed_dictionaries({"_id": st.text(min_size=1), "text": st.text(), "m": json}).map(written)
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=30)
    | st.sampled_from(
        [
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"# coding: utf-16",
            b"[" * 2000,
            b"!",
            b"\\",
            b"**/[!a-",
            b"```",
            b"class A:",
        ]
    ),
    max_size=5,
).map(b"\n".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=lines, way=st.sampled_from(sorted(WAYS)))
def test_any_file(tmp_path: Path, data: bytes, way: str) -> None:
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    (tmp_path / "one").mkdir()
    check(tmp_path / "one", data, way)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "a\nb.py",
        "'",
        '"; --',
        "a\x01b",
        "a\\b",
        "#",
        "%",
        "::",
        "\u2028",
        "e\u0301",
        "-",
        " ",
        "*",
        "a" * 250,
    ],
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).write_text("x = 1")
    except OSError:
        pytest.skip("no name on this file system")
    for part in ("x", "y"):
        with Index.create(tmp_path / f"{part}.index", FakeEncoder(8)) as index:
            if part == "x":
                index.add(read_folder(tmp_path))
            else:
                update_folder(index, tmp_path)
                assert update_folder(index, tmp_path).changed == 0
            assert [row[0] for row in contents(index).values()] == ["x = 1"]
    (tmp_path / name).unlink()
    (tmp_path / "other").write_text("x = 1")
    with Index.open(tmp_path / "y.index", FakeEncoder(8), writable=True) as index:
        assert update_folder(index, tmp_path).renamed == 1


OWN_KEYS = [
    {"window": 1, "span": None, "parent": "a"},
    {"window": "1", "span": [1], "start_line": "x", "end_line": None, "path": 3, "lines": 5},
    {"window": [1], "span": "ab", "start_line": 1.5, "path": ["p"], "lines": [[1]], "symbol": 7},
    {"window": True, "span": [1, "b"], "start_line": True, "path": "p", "lines": [["a", "b"], 3]},
    {"window": 2, "span": {}, "start_line": -5, "path": None, "lines": [[1, None]], "columns": 3, "cell": {}},
]


@pytest.mark.slow
def test_metadata_under_names_that_we_use_ourselves(tmp_path: Path) -> None:
    source, out = tmp_path / "c.jsonl", tmp_path / "x.index"
    own = [{"_id": str(i), "text": "return one\n\ntwo", "metadata": m} for i, m in enumerate(OWN_KEYS)]
    source.write_bytes(b"\n".join(map(written, own)))
    for command in (
        ["index", str(source), "--out", str(out)],
        ["index", str(source), "--out", f"{out}2", "--window", "64"],
        *(["search", str(out), "return one", *more] for more in ([], ["--code"], ["--explain"], ["--json"])),
        ["search", str(out), "return one", "--regex", "t"],
        ["search", str(out), "return one", "--mode", "hybrid"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.exception)
    with Index.open(out) as index:
        assert [row[1] for row in contents(index).values()] == OWN_KEYS


def test_jsonl_is_read_as_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(written({"_id": "a\u2028b", "text": "x\u2028y\x00", "m": ["\u2029", 10**300]}))
    assert list(read_jsonl(file)) == [
        {"doc_id": "a\u2028b", "text": "x\u2028y\x00", "metadata": {"m": ["\u2029", 10**300]}}
    ]
