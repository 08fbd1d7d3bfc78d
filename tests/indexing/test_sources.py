"""An index that follows a folder: after any edits it holds what a new one would, and encodes only what is new."""

import errno
import io
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import retriever.cli.update
from encoder.errors import ArgumentError, CorpusError, IndexFormatError, MissingDependencyError, StorageError
from encoder.reading import open_regular
from indexing import Index
from indexing.reading.corpus import read_folder
from indexing.writing.sources import UpdateReport, update_folder
from retriever.cli import app
from retriever.cli.commands import PastTyperError
from retriever.searcher import Searcher
from tests.helpers.fakes import FakeEncoder
from tests.indexing.test_corpus import refuses

TWO = "def one():\n    return w1\n\n\ndef two():\n    return w2\n"
CLOCK = iter(range(10**9, 10**10))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(now := next(CLOCK) * 10**9, now))  # a coarse clock would hide a quick change


class Followed:
    """A folder, an index that follows it and its encoder."""

    def __init__(self, place: Path) -> None:
        self.folder, self.out = place / "code", place / "code.index"
        self.folder.mkdir()
        self.encoder = FakeEncoder()
        Index.create(self.out, self.encoder).close()

    def update(self, **options: Any) -> UpdateReport:
        self.encoder.encoded.clear()
        with Index.open(self.out, self.encoder, writable=True) as index:
            return update_folder(index, self.folder, **options)

    def holds(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        with Index.open(self.out) as index:
            assert index.n_unencoded == 0
            return {document.doc_id: (document.text, document.metadata) for document in index}

    def check(self) -> None:
        fresh = read_folder(self.folder) if any(self.folder.iterdir()) else iter(())
        assert self.holds() == {p["doc_id"]: (p["text"], p["metadata"]) for p in fresh}


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_an_unchanged_tree_is_not_read(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b" / "c.md", "# T\n\ntext\n")
    write(followed.folder / "empty.py", "")
    first = followed.update()
    assert (first.changed, first.unchanged, first.added.added) == (3, 0, 3)
    followed.check()

    def unread(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("indexing.reading.files.TextFile.read", unread)
    again = followed.update()
    assert (again.changed, again.unchanged, again.gone, again.added.tokens) == (0, 3, 0, 0)
    assert dict(again.folder.skipped) == {"empty": 1}


def test_only_what_changed_is_encoded(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "x = 1\n")
    followed.update()
    write(followed.folder / "a.py", "import w3\n\n\n" + TWO.replace("w2", "w4"))
    report = followed.update()
    assert sorted(followed.encoder.encoded) == ["def two():\n    return w4", "import w3"]
    assert (report.changed, report.unchanged, report.added.added, report.added.replaced) == (1, 1, 1, 2)
    followed.check()  # line numbers of what stayed the same too


def test_what_is_gone_goes_and_what_moved_keeps_its_vectors(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "def three():\n    return w3\n")
    followed.update()
    (followed.folder / "sub").mkdir()
    (followed.folder / "a.py").rename(followed.folder / "sub" / "new.py")
    (followed.folder / "b.py").unlink()
    report = followed.update()
    assert (report.gone, report.renamed, report.deleted) == (2, 2, 1)
    assert followed.encoder.encoded == []
    followed.check()


def test_documents_that_change_places_are_renamed(followed: Followed) -> None:
    write(followed.folder / "a.txt", "w1 w2\n")
    write(followed.folder / "b.txt", "w3 w4\n")
    followed.update()
    write(followed.folder / "a.txt", "w3 w4\n")
    write(followed.folder / "b.txt", "w1 w2\n")
    assert followed.update().renamed == 2
    assert followed.encoder.encoded == []
    followed.check()


def test_documents_of_other_origin_are_left_alone(followed: Followed) -> None:
    write(followed.folder / "a.py", TWO)
    with Index.open(followed.out, followed.encoder, writable=True) as index:
        index.add([{"doc_id": "mine", "text": "w5"}])
    followed.update()
    (followed.folder / "a.py").unlink()
    followed.update(allow_empty=True)
    assert followed.holds() == {"mine": ("w5", {})}


def test_an_interrupted_update_is_made_good(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "def three():\n    return w3\n")
    followed.update()
    write(followed.folder / "a.py", TWO.replace("two", "four"))
    (followed.folder / "b.py").rename(followed.folder / "c.py")
    for method in ("delete", "rename", "add"):
        with monkeypatch.context() as patch:

            def stop(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(Index, method, stop)
            with pytest.raises(KeyboardInterrupt):
                followed.update()
    (followed.folder / "a.py").unlink()  # and what it was about to store is gone by now
    followed.update()
    followed.check()
    assert followed.update().changed == 0


def read_by(monkeypatch: pytest.MonkeyPatch, then: Callable[[Path], object]) -> list[str]:
    """The names of files read from now on; `then` is done to each right after its bytes were read."""
    opened: list[str] = []

    @contextmanager
    def open_and_tell(path: Path) -> Iterator[Any]:
        with open_regular(path) as file:

            def read() -> bytes:
                data = file.read()
                opened.append(path.name)
                then(path)
                return data

            yield SimpleNamespace(fileno=file.fileno, read=read)

    monkeypatch.setattr("indexing.reading.files.open_regular", open_and_tell)
    return opened


def test_a_file_is_read_once_and_one_that_changes_meanwhile_again(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.py", "b.py"):
        write(followed.folder / name, "x = 1\n")

    def changes(path: Path) -> None:
        if path.name == "b.py":
            os.utime(path, ns=(10**18, 10**18))  # so that only the text is new
            path.write_text("y = 2\n")
            os.utime(path, ns=(10**18, 10**18))

    with monkeypatch.context() as patch:
        os.utime(followed.folder / "b.py", ns=(10**18, 10**18))
        opened = read_by(patch, changes)
        followed.update()
        assert sorted(opened) == ["a.py", "b.py"]
    assert followed.holds()["b.py"][0] == "x = 1"  # what was read
    report = followed.update()
    assert (report.unchanged, report.changed) == (1, 1)
    followed.check()


def test_a_change_that_keeps_size_and_time_is_found(followed: Followed) -> None:
    file = followed.folder / "a.py"
    write(file, "x = 1\n")
    time = file.stat().st_mtime_ns
    followed.update()
    file.write_text("x = 2\n")
    os.utime(file, ns=(time, time))
    assert followed.update().changed == 1
    followed.check()


@pytest.mark.slow
@pytest.mark.parametrize("age", [0.0, 1.5, -3600.0])
def test_a_young_file_is_read_again_and_costs_nothing(
    followed: Followed, age: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = followed.folder / "a.py"
    write(file, "x = 1\n")
    when = time.time() - age
    os.utime(file, (when, when))
    # A clock so coarse that no time tells.
    monkeypatch.setattr(
        "indexing.reading.files._stamp", lambda status: f"{status.st_size} {status.st_mtime_ns}"
    )
    followed.update()
    report = followed.update()
    assert (report.unchanged, report.changed, followed.encoder.encoded) == (1, 0, [])
    file.write_text("x = 2\n")
    os.utime(file, (when, when))
    assert followed.update().changed == 1
    followed.check()
    # Grown old, it is not opened any more.
    os.utime(file, (when - 7200, when - 7200))
    opened = read_by(monkeypatch, lambda _: None)
    followed.update()
    assert (followed.update().unchanged, opened) == (1, ["a.py"])


@pytest.mark.parametrize("year", ["2400-01-01", "1900-01-01", "9999-12-31"])
def test_any_time_that_a_file_system_gives(
    followed: Followed, year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "x = 1\n")
    seconds = int(datetime.fromisoformat(year).replace(tzinfo=timezone.utc).timestamp())
    real = os.fstat

    def strange(status: os.stat_result) -> Any:  # not every file system here has such times
        values = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_mtime_ns": seconds * 10**9})

    monkeypatch.setattr("os.fstat", lambda descriptor: strange(real(descriptor)))
    assert followed.update().added.added == 3
    for _ in range(2):
        report = followed.update()
        assert (report.unchanged, report.changed, report.added.tokens) == (2, 0, 0)
    (followed.folder / "b.py").unlink()
    followed.update()
    followed.check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b.py", "c"])
def test_what_cannot_be_read_stays_and_is_tried_again(
    followed: Followed, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("a.py", "b.py", "c/d.py"):
        write(followed.folder / file, f"x = '{file}'\n")
    followed.update()
    before = followed.holds()
    for file in ("b.py", "c/d.py"):
        write(followed.folder / file, "y = 2\n")
    with monkeypatch.context() as patch:
        refuses(patch, name, PermissionError(13, "Permission denied"))
        for _ in range(2):
            report = followed.update()
            kept = "b.py" if name == "b.py" else "c/d.py"
            assert followed.holds()[kept] == before[kept]
            assert f"unreadable 1 ({'b.py' if name == 'b.py' else 'c/'})" in str(report.folder)
            assert report.gone == 0
    assert followed.update().changed == 1
    followed.check()


def test_a_file_never_read_is_tried_again(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", "x = 1\n")
    with monkeypatch.context() as patch:
        refuses(patch, "a.py", OSError(5, "Input/output error"))
        for _ in range(2):
            report = followed.update()
            assert (report.changed, report.folder.unreadable) == (0, {"a.py"})
    assert followed.update().added.added == 1
    followed.check()


def test_a_file_that_vanishes_before_it_is_read_is_gone(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.py", "b.py", "c.py"):
        write(followed.folder / name, f"{name[0]} = 1\n")
    followed.update()
    write(followed.folder / "a.py", "y = 2\n")
    for name in ("b.py", "new.py"):
        write(followed.folder / name, "x = 2\n")

    def vanish(path: Path) -> None:
        if path.name == "a.py":
            (followed.folder / "b.py").unlink()
            (followed.folder / "new.py").unlink()

    with monkeypatch.context() as patch:
        read_by(patch, vanish)
        report = followed.update()
    assert (report.changed, report.gone, report.folder.unreadable) == (1, 1, set())
    followed.check()


def test_an_empty_folder_is_refused(followed: Followed) -> None:
    with pytest.raises(CorpusError, match="holds no text or code to index"):
        followed.update()
    for name in ("a.py", "b.py"):
        write(followed.folder / name, TWO)
    followed.update()
    before = followed.holds()
    for name in ("a.py", "b.py"):
        (followed.folder / name).unlink()
    with pytest.raises(CorpusError, match=r"which deletes the 4 documents that the index has of it$"):
        followed.update()
    assert followed.holds() == before
    told: list[str] = []
    assert followed.update(allow_empty=True, tell=told.append).deleted == 4
    assert told == ["deletes 4 of 4 documents, whose files are gone or changed"]
    assert followed.holds() == {}


def test_a_deletion_of_more_than_half_is_told_before(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        write(followed.folder / f"{name}.py", f"{name} = 1\n")
    followed.update()
    told: list[str] = []
    for name in "ab":
        (followed.folder / f"{name}.py").unlink()
    followed.update(tell=told.append)
    assert told == []
    for name in "cd":
        (followed.folder / f"{name}.py").unlink()

    def tell(line: str) -> None:
        told.append(line)
        assert len(followed.holds()) == 3

    followed.update(tell=tell)
    assert told == ["deletes 2 of 3 documents, whose files are gone or changed"]
    followed.check()


def test_a_folder_whose_name_is_no_utf8(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        followed.folder = followed.folder.rename(odd)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    write(odd / "a.py", TWO)
    assert followed.update().changed == 1
    assert followed.update().unchanged == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database at all, but of some length" * 99),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: sql(path, "DROP TABLE files", "CREATE TABLE files (path)"),
        lambda path: sql(path, "UPDATE files SET doc_ids = '[1'"),
        lambda path: sql(path, "UPDATE source SET root = NULL"),
    ],
)
def test_a_damaged_sources_db_is_told_in_a_line(followed: Followed, damage: Callable[[Path], object]) -> None:
    write(followed.folder / "a.py", TWO)
    followed.update()
    before = followed.holds()
    damage(followed.out / "sources.db")
    write(followed.folder / "a.py", "x = 1\n")
    with pytest.raises(IndexFormatError, match=r"sources\.db is damaged \(.*\); ") as caught:
        followed.update()
    assert "\n" not in str(caught.value)
    assert followed.holds() == before


def sql(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@pytest.mark.slow
def test_a_full_disk_at_any_write_of_the_notes(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    write(followed.folder / "a.py", TWO)
    write(followed.folder / "b.py", "x = 1\n")
    followed.update()
    left = 0

    class Failing(sqlite3.Connection):
        def execute(self, statement: str, *rest: Any) -> sqlite3.Cursor:
            fail(statement)
            return super().execute(statement, *rest)

        def executemany(self, statement: str, *rest: Any) -> sqlite3.Cursor:
            fail(statement)
            return super().executemany(statement, *rest)

    def fail(statement: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise sqlite3.OperationalError("database or disk is full")

    def failing(path: Path, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Failing)

    failures = 0
    for n in range(1, 100):
        write(followed.folder / "a.py", TWO.replace("w2", f"w{n % 9 + 3}"))
        (followed.folder / "b.py").rename(followed.folder / "c.py")
        with monkeypatch.context() as patch:
            patch.setattr("indexing.writing.sources.connect", failing)
            left = n
            try:
                followed.update()
                break
            except StorageError as error:
                told = str(error)
        failures += 1
        assert "sources.db cannot be used (database or disk is full); free space" in told
        followed.update()
        followed.check()
        (followed.folder / "c.py").rename(followed.folder / "b.py")
        followed.update()
        followed.check()
        assert followed.update().changed == 0
    assert failures > 6


def test_no_room_for_the_documents_between_reading_and_storing(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(followed.folder / "a.py", TWO)

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", lambda **_: Full())
        with pytest.raises(StorageError, match=r"code\.index cannot be .*; free space"):
            followed.update()
    followed.update()
    followed.check()
    assert sorted(p.name for p in followed.out.iterdir() if "index" not in p.name) == [
        "segments",
        "sources.db",
    ]


@pytest.mark.slow
def test_files_are_noted_by_the_commit_that_holds_them(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(followed.out)
    Index.create(followed.out, followed.encoder, commit_tokens=10).close()
    monkeypatch.setattr("indexing.writing.records.BATCH_RECORDS", 3)
    for n in range(6):
        write(followed.folder / f"{n}.py", f"def a():\n    return w{n}\n\n\ndef b():\n    return x{n}\n")
    real = followed.encoder.encode_documents
    calls = 0

    def breaks(texts: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(followed.encoder, "encode_documents", breaks)
        with pytest.raises(KeyboardInterrupt):
            followed.update()
    assert len(followed.holds()) == 9
    report = followed.update()
    assert (report.unchanged, report.changed, report.added.unchanged) == (4, 2, 1)
    followed.check()


edits = st.lists(
    st.tuples(
        st.sampled_from(["write", "move", "delete"]),
        st.sampled_from(["a.py", "b.txt", "d/c.py", "d/e.md"]),
        st.sampled_from(["a.py", "b.txt", "d/c.py", "d/e.md", "f.py"]),
        st.lists(
            st.sampled_from(["def f():\n    return w1\n", "x = 1\n", "# w2\n\nw3 w4\n", "w5\n"]), max_size=4
        ),
    ),
    max_size=4,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(rounds=st.lists(edits, min_size=1, max_size=4))
def test_after_any_edits_the_index_is_as_a_new_one(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str, list[str]]]]
) -> None:
    place = tmp_path_factory.mktemp("edits")
    followed = Followed(place)
    write(followed.folder / "stays.txt", "w0\n")
    for some in rounds:
        for kind, name, other, parts in some:
            path = followed.folder / name
            if kind == "write":
                write(path, "\n".join(parts))
            elif path.exists():
                if kind == "delete":
                    path.unlink()
                else:
                    (followed.folder / other).parent.mkdir(exist_ok=True)
                    path.replace(followed.folder / other)
        followed.update()
        followed.check()
        assert followed.update().changed == 0
    shutil.rmtree(place)


def test_an_index_follows_one_folder(followed: Followed, tmp_path: Path) -> None:
    write(followed.folder / "a.py", TWO)
    followed.update()
    write(tmp_path / "other" / "b.py", TWO)
    with Index.open(followed.out, followed.encoder, writable=True) as index:
        with pytest.raises(ArgumentError, match=r"follows .*; use an index of its own"):
            update_folder(index, tmp_path / "other")
        with pytest.raises(ArgumentError, match="is no folder"):
            update_folder(index, tmp_path / "none")
        # A folder that was moved is still the same.
        followed.folder.rename(tmp_path / "moved")
        assert update_folder(index, tmp_path / "moved").unchanged == 1


def test_rename(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with Index.create(tmp_path / "x", encoder) as index:
        index.add([{"doc_id": d, "text": t} for d, t in {"a": "w1", "b": "w2", "c": "w3"}.items()])
        assert index.rename({"a": "b", "b": "a"}) == 2
        assert {d.doc_id: d.text for d in index} == {"b": "w1", "a": "w2", "c": "w3"}
        assert list(index.ids()) == ["b", "a", "c"]
        for wrong in ({"z": "y"}, {"a": "c"}, {"a": "y", "b": "y"}, {"a": ""}):
            with pytest.raises(ArgumentError):
                index.rename(wrong)
        assert len(encoder.encoded) == 3
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        for mode in ("late", "lexical"):
            [hit] = searcher.search("w1", k=1, mode=mode)
            assert (hit.doc_id, hit.text) == ("b", "w1")


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "code", tmp_path / "code" / "own.index"
    write(source / "a.py", TWO)
    text = run("index", source, "--out", out, "--update")
    assert "0 files unchanged, 1 read, 0 gone; documents: 2 added" in text
    # Nothing to do: not even the model is loaded.
    with monkeypatch.context() as patch:
        patch.setattr("encoder.Encoder.load", None)
        assert "1 files unchanged, 0 read, 0 gone" in run("index", source, "--out", out, "--update")

    def changes(*_: object, watch_filter: Any, **__: object) -> Any:
        assert not watch_filter(1, str(out / "index.db"))
        assert watch_filter(1, str(source / "a.py"))
        (source / "a.py").rename(source / "b.py")
        yield {(1, "b.py")}
        yield {(1, "nothing that counts")}
        raise KeyboardInterrupt

    monkeypatch.setattr("watchfiles.watch", changes)
    watched = CliRunner().invoke(app, ["watch", str(source), "--out", str(out)])
    lines = watched.output.splitlines()
    assert "1 read, 1 gone; documents: 0 added, 0 replaced, 2 renamed" in lines[-1].replace(
        "2 replaced", "0 replaced"
    )
    assert isinstance(watched.exception, PastTyperError)
    assert str(watched.exception.error).startswith(f"stopped watching; {out} is whole and holds ")
    assert run("search", "--code", out, "one", "-k", 1).startswith("b.py:")


@pytest.mark.slow
def test_watch_finds_what_changed_while_it_first_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "code", tmp_path / "own.index"
    write(source / "a.py", TWO)

    def nothing(*_: object, yield_on_timeout: bool = False, **__: object) -> Any:
        write(source / "b.py", TWO)  # before anything watched
        if yield_on_timeout:
            yield set()
            write(source / "c.py", TWO)
            yield set()
        raise KeyboardInterrupt

    monkeypatch.setattr("watchfiles.watch", nothing)
    lines = CliRunner().invoke(app, ["watch", str(source), "--out", str(out)]).output.splitlines()
    assert [line for line in lines if "1 files unchanged, 1 read" in line]
    with Index.open(out) as index:
        assert set(index.values("path")) == {"a.py", "b.py"}  # and no more looks without a change


@pytest.mark.slow
def test_watch_waits_for_another_writer_and_for_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "code", tmp_path / "own.index"
    write(source / "a.py", TWO)
    run("index", source, "--out", out, "--update")
    others = []
    waited = 0

    def sleep(seconds: float) -> None:
        nonlocal waited
        waited += 1
        if waited == 3:
            others.pop().close()

    monkeypatch.setattr(
        retriever.cli.update, "time", SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter)
    )

    def changes(*_: object, **__: object) -> Any:
        others.append(Index.open(out, writable=True))
        (source / "a.py").rename(source / "b.py")
        yield {(1, "b.py")}
        (source / "b.py").rename(tmp_path / "b.py")
        yield {(1, "b.py")}
        (tmp_path / "b.py").rename(source / "c.py")
        yield {(1, "c.py")}
        raise KeyboardInterrupt

    monkeypatch.setattr("watchfiles.watch", changes)
    lines = CliRunner().invoke(app, ["watch", str(source), "--out", str(out)]).output.splitlines()
    assert [line for line in lines if "is being written by process" in line] == [
        next(line for line in lines if line.startswith("waiting: "))
    ]
    assert waited == 3
    assert sum("2 renamed" in line for line in lines) == 2
    assert sum("holds no text or code to index" in line for line in lines) == 1
    assert run("search", "--code", out, "one", "-k", 1).startswith("c.py:")


@pytest.mark.slow
def test_a_hit_in_a_notebook_names_its_cell(tmp_path: Path) -> None:
    source, out = tmp_path / "code", tmp_path / "own.index"
    cells = [{"cell_type": "code", "source": s} for s in ("import os", "\ndef one():\n    return w1\n")]
    write(source / "a.ipynb", json.dumps({"cells": cells}))
    run("index", source, "--out", out, "--update")
    assert "a.ipynb:cell 2:2  one" in run("search", out, "one")
    assert run("search", "--code", out, "one", "-k", 1).startswith("a.ipynb:cell 2:2  one")


@pytest.mark.slow
def test_an_empty_folder_empties_an_index_only_where_it_is_told_to(tmp_path: Path) -> None:
    source, out = tmp_path / "code", tmp_path / "own.index"
    write(source / "a.py", TWO)
    run("index", source, "--out", out, "--update")
    (source / "a.py").unlink()
    result = CliRunner().invoke(app, ["index", str(source), "--out", str(out), "--update"])
    assert isinstance(result.exception, CorpusError)
    assert "(--allow-empty), which deletes the 2 documents" in str(result.exception)
    text = run("index", source, "--out", out, "--update", "--allow-empty")
    assert f"{out}: deletes 2 of 2 documents" in text
    assert f"{out}: 0 documents" in text
    result = CliRunner().invoke(app, ["index", str(source), "--out", str(out), "--allow-empty"])
    assert isinstance(result.exception, ArgumentError)


def test_watch_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    result = CliRunner().invoke(app, ["watch", str(tmp_path), "--out", str(tmp_path / "x")])
    assert isinstance(result.exception, MissingDependencyError)
    assert "pip install 'latewood[watch]'" in str(result.exception)
