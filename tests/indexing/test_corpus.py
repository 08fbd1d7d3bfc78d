"""Readers of JSONL, BEIR folders and folders of code: what is read, what is refused, what is passed over."""

import gzip
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import ArgumentError, CorpusError
from encoder.reading import open_regular
from indexing.reading.chunking import ChunkSize
from indexing.reading.corpus import FolderReport, read_folder, read_jsonl, read_source
from indexing.reading.languages import language_named, language_of


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def paths(folder: Path, **options: Any) -> list[str]:
    """Paths of the files read, in order."""
    return list(dict.fromkeys(p["metadata"]["path"] for p in read_folder(folder, **options)))


# JSONL and BEIR


def test_jsonl_ids_titles_and_metadata(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"_id": "a", "title": "T", "text": "x"},
        {"doc_id": "b", "title": "", "text": " y "},
        {"id": 3, "text": " z ", "lang": "py", "metadata": {"lang": "c", "url": "u"}},
        {"_id": "d", "id": 4, "text": "", "title": None, "metadata": None},
    ]
    file = write(tmp_path / "c.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, records)))
    assert list(read_source(file)) == [
        {"doc_id": "a", "text": "T x", "metadata": {}},
        {"doc_id": "b", "text": "y", "metadata": {}},
        {"doc_id": "3", "text": " z ", "metadata": {"lang": "c", "url": "u"}},
        {"doc_id": "d", "text": "", "metadata": {"id": 4}},
    ]


def test_gzipped_jsonl_and_beir_folders(tmp_path: Path) -> None:
    line = json.dumps({"_id": "a", "title": "T", "text": "é\u2028"}, ensure_ascii=False).encode()
    write(tmp_path / "plain" / "corpus.jsonl", line)
    write(tmp_path / "zipped" / "corpus.jsonl.gz", gzip.compress(line))
    write(tmp_path / "zipped" / "notes.txt", "not read")
    wanted = [{"doc_id": "a", "text": "T é", "metadata": {}}]
    assert list(read_source(tmp_path / "plain")) == wanted
    assert list(read_source(tmp_path / "zipped")) == wanted
    assert list(read_source(tmp_path / "zipped" / "corpus.jsonl.gz")) == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is a JSON list"),
        ('{"text": "x"}', "has no id; give it '_id', 'doc_id' or 'id'"),
        ('{"_id": "", "text": "x"}', "has '_id' = ''; give it an id that is not empty"),
        ('{"_id": true, "text": "x"}', "has '_id' = True; give it a string or an integer"),
        ('{"_id": ["x"], "text": "x"}', "has '_id' = ['x']; give it a string or an integer"),
        ('{"_id": 1}', "has no 'text'"),
        ('{"_id": 1, "text": null}', "has no 'text'; give it a string"),
        ('{"_id": 1, "text": ["x"]}', "has 'text' = ['x']; give it a string"),
        ('{"_id": 1, "text": "x", "title": 5}', "has 'title' = 5; give it a string"),
        ('{"_id": 1, "text": "x", "metadata": [1]}', "has 'metadata' = [1]; give it an object"),
        ('{"_id": 1, "text": "x", "n": NaN}', "is not JSON (NaN is no JSON)"),
        ('{"_id": 1, "text": "x", "n": -Infinity}', "is not JSON (-Infinity is no JSON)"),
        ('{"_id": 1, "text": "x", "n": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        ('{"_id": 1, "text": "x", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deep"),
        (b'{"_id": 1, "text": "\xed\xa0\x80"}', "is not JSON"),
        (b'{"_id": 1, "text": "\xff"}', "is not JSON"),
    ],
)
def test_bad_lines_are_refused_by_number(tmp_path: Path, line: str | bytes, message: str) -> None:
    good = b'{"_id": 1, "text": "x"}\n\n'
    file = write(tmp_path / "c.jsonl", good + (line.encode() if isinstance(line, str) else line))
    passages = read_jsonl(file)
    assert next(passages)["doc_id"] == "1"
    with pytest.raises(CorpusError) as caught:
        next(passages)
    assert str(caught.value).startswith(f"{file}:3 ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_surrogate_pair_becomes_storable(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.jsonl", '{"_id": "\\uDC00", "text": "a\\ud800b \\ud83d\\ude00", "m": "\\udc00"}'
    )
    assert next(read_jsonl(file)) == {
        "doc_id": "\ufffd",
        "text": "a\ufffdb \U0001f600",
        "metadata": {"m": "\ufffd"},
    }


def test_missing_and_broken_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist; pass a"):
        read_source(tmp_path / "none")
    broken = write(tmp_path / "c.jsonl.gz", gzip.compress(b'{"_id": 1, "text": "x"}\n' * 999)[:60])
    with pytest.raises(CorpusError, match="cannot read"):
        list(read_source(broken))
    with pytest.raises(CorpusError, match=r"a.bin cannot be indexed: binary; pass"):
        list(read_source(write(tmp_path / "a.bin", b"\0\1")))
    with pytest.raises(CorpusError, match="holds no text or code to index: 0 files, 0 passages; skipped 1"):
        list(read_source(write(tmp_path / "only" / "a.png", b"\0\1").parent))


# Folders of text and code


def test_a_folder_gives_passages_with_their_places(tmp_path: Path) -> None:
    write(tmp_path / "b.py", "def f():\n    return 1\n\n\nclass A:\n    def m(self): pass\n")
    write(tmp_path / "a" / "README.md", "# Title\nText\n")
    report = FolderReport()
    passages = list(read_source(tmp_path, report=report))
    assert [p["doc_id"] for p in passages] == ["a/README.md::Title", "b.py::f", "b.py::A", "b.py::A.m"]
    assert passages[0]["metadata"] == {
        "path": "a/README.md",
        "language": "markdown",
        "kind": "section",
        "symbol": "Title",
        "start_line": 1,
        "end_line": 2,
    }
    assert passages[3]["metadata"]["symbol"] == "A.m"
    assert passages[3]["text"] == "    def m(self): pass"
    assert str(report) == "2 files (markdown 1, python 1), 4 passages"
    assert list(read_source(tmp_path)) == passages


def test_one_file(tmp_path: Path) -> None:
    file = write(tmp_path / "d" / "tool", "#!/usr/bin/env python3\nx = 1\n")
    assert [(p["doc_id"], p["metadata"]["language"]) for p in read_source(file)] == [("tool", "python")]


def test_the_same_symbol_again_gets_its_own_id(tmp_path: Path) -> None:
    file = write(tmp_path / "long.txt", "word " * 100)
    passages = list(read_source(file, size=ChunkSize(200, 0)))
    assert [p["doc_id"] for p in passages] == ["long.txt", "long.txt#2", "long.txt#3"]
    assert passages[1]["metadata"]["columns"] == [200, 400]


def test_a_class_outline_lists_its_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "class A:\n    def m(self):\n        pass\n\n    x = 1\n")
    outline = next(read_source(file))
    assert outline["text"] == "class A:\n    x = 1"
    assert outline["metadata"]["lines"] == [[1, 1], [5, 5]]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "keep.py", "x = 1\n")
    write(tmp_path / "python2.py", "print 'x'\n")
    for skipped in (".hidden/a.py", ".env", "node_modules/a.js", "__pycache__/a.py", "p/site-packages/a.py"):
        write(tmp_path / skipped, "x = 1\n")
    write(tmp_path / "venv" / "pyvenv.cfg", "home = x\n")
    write(tmp_path / "venv" / "a.py", "x = 1\n")
    write(tmp_path / "empty.py", " \n")
    write(tmp_path / "binary.py", b"x = 1\0")
    write(tmp_path / "short.gz", b"\x1f\x8b\x08\xff\xfe\x01")
    write(tmp_path / "app.min.js", "a=1;" * 3_000)
    write(tmp_path / "dump.js", "a=1;" * 3_000)
    write(tmp_path / "vendor" / "a.py", "x = 1\n")
    write(tmp_path / "docs.index" / "index.db", "")
    write(tmp_path / "docs.index" / "index.lock", "")
    write(tmp_path / "large.txt", "a b\n" * 3_000)
    write(tmp_path / "poetry.lock", "x\n")
    write(tmp_path / "long-paragraphs.txt", "word " * 1_500)
    report = FolderReport()
    assert paths(tmp_path, report=report, max_file_bytes=11_999 + 1, exclude=["large.*"]) == [
        "keep.py",
        "long-paragraphs.txt",
        "python2.py",
    ]
    assert dict(report.skipped) == {
        "hidden": 2,
        "installed packages": 2,
        "cache": 1,
        "virtual environment": 1,
        "empty": 1,
        "binary": 2,
        "vendored": 1,
        "Latewood index": 1,
        "minified": 1,
        "very long lines": 1,
        "excluded": 1,
        "lock file": 1,
    }
    assert report.examples["installed packages"] == ["node_modules/", "p/site-packages/"]
    assert report.files == 3
    assert "skipped 15: hidden 2" in str(report)
    large = FolderReport()
    paths(tmp_path, report=large, max_file_bytes=11_999)
    assert large.examples["too large"] == ["dump.js", "large.txt"]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", "héé".encode(), "héé"),
        ("a.txt", b"\xef\xbb\xbfx", "x"),
        ("a.txt", "héé".encode("utf-16"), "héé"),
        ("a.txt", "héé".encode("utf-32"), "héé"),
        ("A.PY", b"# coding: latin-1\nx = '\xe9'", "# coding: latin-1\nx = 'é'"),
        ("a.py", "# coding: cp1251\nx = 'д'".encode("cp1251"), "# coding: cp1251\nx = 'д'"),
        ("a.py", b"x = 1\r\ny = 2\r\n", "x = 1\ny = 2"),
    ],
)
def test_encodings(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    assert [p["text"] for p in read_source(write(tmp_path / name, data))] == [text]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "héé".encode("latin-1")),
        ("a.txt", "д".encode("cp1251") * 9),
        ("a.txt", b"\xff\xfea"),  # UTF-16, cut
        ("a.txt", b"\xef\xbb\xbf\xff"),
        ("a.py", "# coding: nonsense\nx = 'é'".encode("latin-1")),
        ("a.py", "# coding: utf-7\nx = '+2AA-\xe9'".encode("latin-1")),  # half of a surrogate pair
    ],
)
def test_what_cannot_be_decoded_is_passed_over_and_named(tmp_path: Path, name: str, data: bytes) -> None:
    write(tmp_path / name, data)
    write(tmp_path / "b.txt", "x")
    report = FolderReport()
    assert [p["text"] for p in read_folder(tmp_path, report=report)] == ["x"]
    assert str(report).endswith(f"skipped 1: unknown encoding 1 ({name})")
    with pytest.raises(CorpusError, match="cannot be indexed: unknown encoding"):
        list(read_source(tmp_path / name))


def test_many_names_and_odd_ones_make_one_short_line(tmp_path: Path) -> None:
    for name in ("a\nb", "c", "d", "e"):
        write(tmp_path / name, b"\xe9")
    write(tmp_path / "good", "x")
    report = FolderReport()
    list(read_folder(tmp_path, report=report))
    assert str(report).endswith(r"unknown encoding 4 ('a\nb', c, d, ...)")


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# Load\n", "the data"]},
        {"cell_type": "code", "source": "def load():\n    return 1", "outputs": [{"text": "z" * 9000}]},
        {"cell_type": "code", "source": ["import os\n", "x = 2"]},
        {"cell_type": "raw", "source": "y"},
        {"cell_type": "code", "source": []},
    ],
    "metadata": {"language_info": {"name": "python"}},
    "nbformat": 4,
}


@pytest.mark.parametrize("old", [False, True])
def test_a_notebook_is_its_cells(tmp_path: Path, old: bool) -> None:
    book: dict[str, Any] = NOTEBOOK
    if old:
        cells = [{"input" if k == "source" else k: v for k, v in cell.items()} for cell in book["cells"]]
        book = {"worksheets": [{"cells": cells}]}
    write(tmp_path / "N.IPYNB", json.dumps(book))
    report = FolderReport()
    passages = list(read_folder(tmp_path, report=report))
    assert [(p["doc_id"], p["text"]) for p in passages] == [
        ("N.IPYNB::Load", "# Load\nthe data"),
        ("N.IPYNB::load", "def load():\n    return 1"),
        ("N.IPYNB", "import os\nx = 2"),
        ("N.IPYNB#2", "y"),
    ]
    wanted = ("cell", "language", "start_line", "end_line")
    assert [tuple(p["metadata"][k] for k in wanted) for p in passages] == [
        (1, "markdown", 1, 2),
        (2, "python", 1, 2),
        (3, "python", 1, 2),
        (4, "text", 1, 1),
    ]
    assert str(report) == "1 files (notebook 1), 4 passages"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"cells": [3]}', '{"cells": [{"cell_type": "code"}]}', "[" * 99_999]
)
def test_what_is_no_notebook_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "n.ipynb", text)
    write(tmp_path / "a.txt", "x")
    report = FolderReport()
    assert len(list(read_folder(tmp_path, report=report))) == 1
    assert "broken notebook 1 (n.ipynb)" in str(report)


def test_names_in_capitals_are_what_their_small_letters_are(tmp_path: Path) -> None:
    line = b'{"_id": "a", "text": "x"}'
    wanted = [{"doc_id": "a", "text": "x", "metadata": {}}]
    for name, data in {
        "C.JSONL": line,
        "C.JSONL.GZ": gzip.compress(line),
        "C.Jsonl.Gz": gzip.compress(line),
    }.items():
        assert list(read_source(write(tmp_path / name, data))) == wanted
    for name, data in {"corpus.JSONL": line, "corpus.JSONL.GZ": gzip.compress(line)}.items():
        assert list(read_source(write(tmp_path / name[6:] / name, data).parent)) == wanted


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_jsonl_in_what_its_mark_says(tmp_path: Path, encoding: str) -> None:
    data = '{"_id": "a", "text": "é\u010a"}\n\n{"_id": "b", "text": "x"}'.encode(encoding)
    for name, stored in {"c.jsonl": data, "c.jsonl.gz": gzip.compress(data)}.items():
        file = write(tmp_path / name, stored)
        assert [(p["doc_id"], p["text"]) for p in read_jsonl(file)] == [("a", "é\u010a"), ("b", "x")]
    with pytest.raises(CorpusError, match=r"c\.jsonl(:3)? is not "):
        list(read_jsonl(write(tmp_path / "c.jsonl", data[:-3] + b"\xff\xdb\xff")))


def test_only_regular_files_are_read_and_nothing_waits(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    write(tmp_path / "a.txt", "x")
    for name in ("pipe.txt", ".gitignore", "c.jsonl", "corpus.jsonl"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)  # for the path of a socket is short
        listening.bind("s")
        report = FolderReport()
        assert paths(tmp_path, report=report) == ["a.txt"]
        assert report.skipped == {"not a regular file": 5, "hidden": 1}
        assert "not a regular file 5 (c.jsonl, corpus.jsonl, pipe.txt, ...)" in str(report)
        for name in ("pipe.txt", "c.jsonl", "s", "zero"):
            with pytest.raises(CorpusError, match="not a regular file"):
                list(read_source(tmp_path / name))


@pytest.mark.slow
def test_folders_in_folders_as_deep_as_the_system_allows(tmp_path: Path) -> None:
    deep = [str(tmp_path) + "/d" * n for n in range(1, 1201)]
    for folder in deep:
        os.mkdir(folder)  # noqa: PTH102
    write(Path(deep[-1], "a.txt"), "x")
    # And beyond: a path that is longer than it takes.
    long = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(20):
        os.mkdir("e" * 250, dir_fd=long[-1])
        long.append(os.open("e" * 250, os.O_RDONLY, dir_fd=long[-1]))
    try:
        report = FolderReport()
        [passage] = read_folder(tmp_path, report=report)
        assert passage["doc_id"] == "d/" * 1200 + "a.txt"
        assert report.skipped == {"unreadable": 1}
    finally:
        Path(deep[-1], "a.txt").unlink()
        for folder in reversed(deep):
            os.rmdir(folder)  # noqa: PTH106
        for descriptor in reversed(long[:-1]):
            os.rmdir("e" * 250, dir_fd=descriptor)
        for descriptor in long:
            os.close(descriptor)


def refuses(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """As where the system does not let a file or a folder be read."""

    def refused(real: Any) -> Any:
        def call(path: Any) -> Any:
            if Path(path).name == name:
                raise error
            return real(path)

        return call

    monkeypatch.setattr("indexing.reading.files.open_regular", refused(open_regular))
    monkeypatch.setattr("os.scandir", refused(os.scandir))


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
@pytest.mark.parametrize("name", ["b.txt", "c"])
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("a.txt", "b.txt", "c/d.txt"):
        write(tmp_path / file, "x")
    refuses(monkeypatch, name, error)
    report = FolderReport()
    assert len(paths(tmp_path, report=report)) == 2
    shown = name if name == "b.txt" else "c/"
    assert f"unreadable 1 ({shown})" in str(report)
    assert report.unreadable == {shown}


@pytest.mark.slow
def test_definitions_in_definitions_some_thousand_deep(tmp_path: Path) -> None:
    depth = 3000
    write(tmp_path / "a.js", "class A { static x = \n" * depth + "1" + "}" * depth)
    write(tmp_path / "a.py", "if x:\n  pass\n" + "elif y:\n  pass\n" * depth)
    write(tmp_path / "b.py", "x = " + "(" * 2000 + ")" * 2000)
    assert set(paths(tmp_path)) == {"a.js", "a.py", "b.py"}


GITIGNORES = {
    ".gitignore": "*.log\n!keep.log\n/build/\ndocs/*.txt\n**/generated\n# note\n\n\\#odd\n!\n",
    "src/.gitignore": "!b.log\nlocal*\n/top.py\n",
    "src/deep/.gitignore": "*\n!only.py\n",
}
FILES = [
    *("a.log", "keep.log", "build/x.py", "docs/a.txt", "docs/deep/a.txt", "x.py", "#odd"),
    *("src/build/x.py", "src/generated/x.py", "src/b.log", "src/c.log", "src/localx.py", "src/top.py"),
    *("src/in/top.py", "src/in/keep.log", "src/deep/x.py", "src/deep/only.py"),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name, content in GITIGNORES.items():
        write(root / name, content)
    for name in FILES:
        write(root / name, "x = 1\n")
    write(root / ".git" / "config", "")
    return root


def test_gitignore_files_are_honoured(repository: Path) -> None:
    report = FolderReport()
    assert paths(repository, report=report) == [
        "docs/deep/a.txt",
        "keep.log",
        "src/b.log",
        "src/build/x.py",
        "src/deep/only.py",
        "src/in/keep.log",
        "src/in/top.py",
        "x.py",
    ]
    assert report.skipped["ignored by .gitignore"] == 9


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")
def test_gitignore_as_git_itself(repository: Path) -> None:
    shutil.rmtree(repository / ".git")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (["init", "--quiet"], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(
            ["git", *command], cwd=repository, env=environment, check=True, capture_output=True, text=True
        )
    listed = [name for name in done.stdout.split() if not name.endswith(".gitignore")]
    assert sorted(paths(repository)) == sorted(listed)


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs git in a folder, as a user who has chosen nothing."""
    if shutil.which("git") is None:
        pytest.skip("git makes the repository")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    options = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]

    def run(folder: Path, *command: str) -> str:
        done = subprocess.run(
            ["git", *options, *command], cwd=folder, check=True, capture_output=True, encoding="utf-8"
        )
        return done.stdout

    return run


def test_all_that_git_ignores(tmp_path: Path, git: Any) -> None:
    root = tmp_path / "r"
    names = ["a.x", "b.x", "keep.x", "in/c.y", "in/d.z", "in/e.x", "top.w", "in/top.w", "s.v"]
    for name in names:
        write(root / name, "x = 1")
    write(root / ".gitignore", "!keep.x\n")
    git(root, "init", "--quiet")
    write(root / ".git" / "info" / "exclude", "in/*.y\n*.x\n")
    write(tmp_path / "home" / ".config" / "git" / "ignore", "*.z\n/top.w\n")

    def check(folder: Path) -> None:
        listed = git(folder, "ls-files", "--others", "--cached", "--exclude-standard").split()
        assert sorted(paths(folder)) == sorted(name for name in listed if name != ".gitignore")

    check(root)
    check(root / "in")
    assert paths(root) == ["in/top.w", "keep.x", "s.v"]
    # A file of the user's choice; and a second work tree, which shares .git/info.
    chosen = write(tmp_path / "chosen", "*.v\n")
    git(root, "config", "core.excludesFile", str(chosen))
    assert paths(root) == ["in/d.z", "in/top.w", "keep.x", "top.w"]
    git(root, "add", "-f", "a.x")
    git(root, "commit", "--quiet", "-m", "x")
    git(root, "worktree", "add", "--quiet", str(tmp_path / "second"))
    write(tmp_path / "second" / "n.txt", "x")
    write(tmp_path / "second" / "n.v", "x")
    assert paths(tmp_path / "second") == ["n.txt"]
    # Repositories within a folder that is none.
    assert "in/r/a.x" not in paths(shutil.copytree(root, tmp_path / "all" / "in" / "r").parent.parent)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf*.log\r\nb.txt\r\n",
        "*.log\nb.txt\n".encode("utf-16"),
        b"*.log\n[z-a]\nx[[:y\nb.txt",
        "*.log\n\u2028\x0c!a.log\nb.txt\n".encode(),
        b"\xff\xfe*\n*.log\nb.txt\n",
    ],
)
def test_ignore_files_of_other_programs(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / ".gitignore", data)
    for name in ("a.log", "b.txt", "c.txt"):
        write(tmp_path / name, "x")
    kept = ["a.log", "b.txt", "c.txt"] if data.startswith(b"\xff\xfe*\n") else ["c.txt"]
    assert paths(tmp_path) == kept  # what says UTF-16 and is none has no pattern in it


def test_gitignore_above_the_folder_counts_within_a_repository(repository: Path) -> None:
    assert "c.log" not in paths(repository / "src")
    assert paths(repository / "build") == ["x.py"]  # ignored itself, and asked for all the same
    shutil.rmtree(repository / ".git")
    assert "c.log" in paths(repository / "src")


def test_exclude_takes_gitignore_patterns(repository: Path) -> None:
    assert paths(repository, exclude=["src/", "*.log"]) == ["docs/deep/a.txt", "x.py"]
    for pattern in ("!", "[z-a]"):
        with pytest.raises(ArgumentError, match="exclude="):
            paths(repository, exclude=[pattern])


def test_links_and_odd_files(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "o.py", "x = 1\n")
    root = tmp_path / "root"
    write(root / "sub" / "a.py", "x = 1\n")
    try:
        (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
        (root / "self").symlink_to("self")
        (root / "gone.py").symlink_to("nowhere.py")
        (root / "double.py").symlink_to("sub/a.py")
        (root / "o.py").symlink_to(outside)
    except OSError:
        pytest.skip("no symbolic links here")
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "pipe")
    report = FolderReport()
    assert paths(root, report=report) == ["o.py", "sub/a.py"]
    report.skipped.pop("not a regular file", None)
    assert dict(report.skipped) == {"link to a folder": 1, "broken link": 2, "link within the folder": 1}


def test_names_that_are_not_utf8_give_storable_ids(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    assert [p["doc_id"] for p in read_source(tmp_path)] == ["caf\\xe9.txt"]


def test_languages() -> None:
    assert [
        language_of(n) for n in ("a.PY", "b.tsx", "Makefile", "CMakeLists.txt", "LICENSE", "x.unknown")
    ] == [
        "python",
        "typescript",
        "make",
        "cmake",
        "text",
        "text",
    ]
    assert language_of("run", "#!/bin/bash -e\n") == "shell"
    assert language_of("a.h", "int f(void);\n") == "c"
    assert language_of("a.h", "#pragma once\nnamespace n {}\n") == "cpp"
    assert [language_named(n) for n in ("py", ".RS", "Python", "c++", "x")] == [
        "python",
        "rust",
        "python",
        "cpp",
        None,
    ]


def test_ids_of_odd_names_stay_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "word " * 100)
    write(tmp_path / "a.txt#2", "x")
    write(tmp_path / "a.txt%232", "x")
    ids = [p["doc_id"] for p in read_source(tmp_path, size=ChunkSize(200, 0))]
    assert ids == ["a.txt", "a.txt#2", "a.txt#3", "a.txt%232", "a.txt%25232"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git makes the commit")
def test_passages_of_a_git_work_tree_have_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "src" / "a.py", "x = 1\n")
    assert "commit" not in next(read_source(tmp_path))["metadata"]
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True, capture_output=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert next(read_source(tmp_path / "src"))["metadata"]["commit"] == head.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert "commit" not in next(read_source(tmp_path))["metadata"]


def test_a_relative_source_is_found_after_a_change_of_folder(tmp_path, monkeypatch):
    """The readers read when asked for a passage, of what was named when they were called."""
    (tmp_path / "code").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "code" / "a.py").write_text("def f():\n    return 1\n")
    (tmp_path / "c.jsonl").write_text('{"_id": "1", "text": "one"}\n')
    monkeypatch.chdir(tmp_path)
    readers = [
        read_jsonl("c.jsonl"),
        read_source("c.jsonl"),
        read_folder("code"),
        read_source("code"),
        read_source("code/a.py"),
    ]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [[p["doc_id"] for p in reader] for reader in readers] == [["1"]] * 2 + [["a.py::f"]] * 3


@pytest.mark.parametrize("name", ["index.db", "shards.json", "build.json"])
def test_an_index_within_a_folder_is_not_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "keep.py", "x = 1\n")
    for file in (name, "index.lock", "v0001/000/index.lock", "a.txt"):
        write(tmp_path / "docs.index" / file, "{}")
    report = FolderReport()
    assert paths(tmp_path, report=report) == ["keep.py"]
    assert dict(report.skipped) == {"Latewood index": 1}
