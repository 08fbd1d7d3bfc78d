"""Readers of JSONL, BEIR folders and folders of code: what is read, what is refused, what is passed over."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import ArgumentError, CorpusError
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
        ('{"_id": "", "text": "x"}', "has _id=''"),
        ('{"_id": true, "text": "x"}', "has _id=True"),
        ('{"_id": 1}', "has no 'text'"),
        ('{"_id": 1, "text": null}', "has text=None"),
        ('{"_id": 1, "text": "x", "title": 5}', "has title=5"),
        ('{"_id": 1, "text": "x", "metadata": [1]}', "has metadata="),
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
    passages = list(read_source(file, max_chars=200, overlap_chars=0))
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
        ("a.txt", "héé".encode("latin-1"), "héé"),
        ("a.py", "# coding: cp1251\nx = 'д'".encode("cp1251"), "# coding: cp1251\nx = 'д'"),
        ("a.py", "# coding: nonsense\nx = 'é'".encode("latin-1"), "# coding: nonsense\nx = 'é'"),
        ("a.py", b"x = 1\r\ny = 2\r\n", "x = 1\ny = 2"),
    ],
)
def test_encodings(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    assert [p["text"] for p in read_source(write(tmp_path / name, data))] == [text]


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


def test_gitignore_above_the_folder_counts_within_a_repository(repository: Path) -> None:
    assert "c.log" not in paths(repository / "src")
    assert paths(repository / "build") == ["x.py"]  # ignored itself, and asked for all the same
    shutil.rmtree(repository / ".git")
    assert "c.log" in paths(repository / "src")


def test_exclude_takes_gitignore_patterns(repository: Path) -> None:
    assert paths(repository, exclude=["src/", "*.log"]) == ["docs/deep/a.txt", "x.py"]
    with pytest.raises(ArgumentError, match="exclude="):
        paths(repository, exclude=["!"])


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
    ids = [p["doc_id"] for p in read_source(tmp_path, max_chars=200, overlap_chars=0)]
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
