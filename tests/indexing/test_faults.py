"""A disk that fails: an index stays what was committed, says so, and takes the same work once the disk is well."""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import IndexFormatError, StorageError
from indexing import Index
from indexing.storage.refusals import refusals
from tests.helpers.fakes import DIM, FakeEncoder, assert_equals, contents, corpus, record, stored, texts_of
from tests.indexing.test_crashes import models, new_encoder, steps

ROOT = Path(__file__).parent.parent.parent


def in_python(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def checked(index: Index, done: int) -> int:
    """Steps that the index shows to be done, by a reader of its own: those acknowledged or one more."""
    expected = models()
    with Index.open(index.folder) as reader:
        reader.verify()
        now = stored(reader)
    assert now in expected[done : done + 2]
    return done if now == expected[done] else done + 1


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["fsync", "rename", "replace"])
def test_a_call_that_fails_leaves_the_last_commit(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = os if failing == "fsync" else Path
    real = getattr(owner, failing)
    left = 0  # calls until the one that fails

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC if failing != "fsync" else errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, failing, call)
    failures = 0
    for n in range(1, 1000, 4 if failing == "fsync" else 1):
        left = 0
        with Index.create(tmp_path / f"{n}", new_encoder(), flat_tokens=300) as index:
            left, done, failed = n, 0, False
            history = steps()
            while done < len(history):
                try:
                    history[done](index)
                    done += 1
                except StorageError:
                    assert not failed, "failed without a fault"
                    failed = True
                    done = checked(index, done)
            assert_equals(index, *texts_of(models()[-1], new_encoder()))
            index.verify()
        if not failed:
            break
        failures += 1
    assert failures >= 1


# A limit on the size of a file: writes of Python, SQLite and FAISS fail in the midst, as on a disk that is full.
FULL = """
import resource, sys
from pathlib import Path
from encoder.errors import StorageError
from indexing import Index
from tests.helpers.fakes import assert_equals, texts_of
from tests.indexing.test_crashes import models, new_encoder, steps
from tests.indexing.test_faults import checked

faults = 0
for size in (3_000, 6_000, 20_000, 60_000, 130_000, 200_000, 300_000):
    with Index.create(Path(sys.argv[1]) / str(size), new_encoder(), flat_tokens=300) as index:
        done, history, failed = 0, steps(), set()
        while done < len(history):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            if done not in failed:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                history[done](index)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                done += 1
            except StorageError as error:
                assert "run the same again" in str(error)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                assert done not in failed, "failed with room on the disk"
                failed.add(done)
                done = checked(index, done)
        assert_equals(index, *texts_of(models()[-1], new_encoder()))
        index.verify()
        faults += len(failed)
print(faults)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on a file's size")
def test_a_full_disk_leaves_the_last_commit(tmp_path: Path) -> None:
    ran = in_python(FULL, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 5


# FAISS's own file writer prints "close error" here, raises nothing, and leaves the file without its last block.
LAST_BLOCK = """
import resource, sys
from pathlib import Path
import numpy as np
from indexing.coding.codec import Codec, write_codes
codec = Codec.train(np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32), nlist=4)
for name, write in {
    "codec": codec.save,
    "codes": lambda path: write_codes(path, codec, [np.zeros((1000, 1 + codec.code_bytes), np.uint8)]),
}.items():
    path = Path(sys.argv[1]) / name
    write(path)
    size = path.stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))
    try:
        write(path)
    except OSError as error:
        print(error.errno, path.stat().st_size < size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on a file's size")
def test_no_room_for_the_last_byte_of_a_file_is_told(tmp_path: Path) -> None:
    ran = in_python(LAST_BLOCK, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"{errno.EFBIG} True"] * 2


# As `latewood index`, on a disk that gets full in the midst: a limit on the size of a file.
COMMAND = """
import resource, sys
from retriever.cli import main
size = int(sys.argv.pop(1))
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on a file's size")
def test_the_command_on_a_full_disk_says_so_in_a_line_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    source, out = tmp_path / "docs.jsonl", tmp_path / "docs.index"
    docs = [{"_id": f"d{i}", "text": f"a passage on subject {i} " * 5} for i in range(60)]
    source.write_text("".join(json.dumps(doc) + "\n" for doc in docs[:3]))
    command = ("index", source, "--out", out, "--quiet")  # but for what went wrong
    assert in_python(COMMAND, 0, *command).returncode == 0
    source.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    # No room for the log that a writer begins with; and, vectors being the largest file, none for them.
    for size, named in ((1000, "index.db"), (120_000, "segments")):
        full = in_python(COMMAND, size, *command)
        assert full.returncode == 1, full.stderr
        assert full.stderr.count("\n") == 1, full.stderr
        assert full.stderr.startswith(f"latewood: {out}"), full.stderr
        assert named in full.stderr, full.stderr
        assert "run the same again" in full.stderr, full.stderr
        with Index.open(out) as index:
            index.verify()
            assert len(index) == 3
    done = in_python(COMMAND, 0, *command)
    assert "57 documents added, 0 replaced, 3 unchanged" in done.stdout, done.stderr
    with Index.open(out) as index:
        index.verify()
        assert len(index) == 60


def test_what_the_system_says_gets_a_remedy_and_a_mistake_in_code_stays_one() -> None:
    said = {
        "database or disk is full": "free space",
        "disk I/O error": "check that disk",
        "database is locked": "let the other program finish",
        "attempt to write a readonly database": "change its permissions",
    }
    for message, remedy in said.items():
        with (
            pytest.raises(StorageError, match=rf"^x\.db cannot be used \({message}\); {remedy}"),
            refusals(Path("x.db")),
        ):
            raise sqlite3.OperationalError(message)
    with pytest.raises(sqlite3.OperationalError, match="no such column"), refusals(Path("x.db")):
        raise sqlite3.OperationalError("no such column: text")
    with pytest.raises(RuntimeError, match="a bug"), refusals(Path("x.db")):
        raise RuntimeError("a bug")


def test_a_database_that_another_program_holds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.storage.database.BUSY_SECONDS", 0.01)
    path = tmp_path / "docs.index"
    with Index.create(path, FakeEncoder(DIM)) as index:
        index.add([{"doc_id": "1", "text": "w1"}])
        other = sqlite3.connect(path / "index.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"index\.db cannot be used \(database is locked\)"):
            index.add([{"doc_id": "2", "text": "w2"}])
        other.execute("ROLLBACK")
        other.close()
        index.add([{"doc_id": "2", "text": "w2"}])
        assert contents(index).keys() == {"1", "2"}


class FailingConnection(sqlite3.Connection):
    """Fails at one statement of those to come, BEGIN, COMMIT and reads included, as on a disk that fails."""

    left = 0  # statements until the one that fails; shared by all connections
    message = ""

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self._counted(super().execute, *args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return self._counted(super().executemany, *args)

    def _counted(self, function: Any, *args: Any) -> Any:
        FailingConnection.left -= 1
        if FailingConnection.left == 0:
            self.rollback()  # by SQLite itself, in these cases
            raise sqlite3.OperationalError(self.message)
        return function(*args)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, factory=FailingConnection, **kwargs)

    monkeypatch.setattr("indexing.storage.database.sqlite3.connect", connected)
    return FailingConnection


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(steps())))
def test_each_statement_of_sqlite_may_fail(tmp_path: Path, failing: Any, number: int) -> None:
    """Each write, each commit, each read after one: a line that says so, and the same call does it afterwards."""
    failing.left, expected, encoder = 0, models(), new_encoder()
    with Index.create(tmp_path / "before", encoder, flat_tokens=300) as index:
        for step in steps()[:number]:
            step(index)
    step, faults = steps()[number], 0
    for n in range(1, 1000, 9 if number == 4 else 1):  # each trains a codec, and has five commits' statements
        path = shutil.copytree(tmp_path / "before", tmp_path / str(n))
        failing.left, failing.message = 0, ("database or disk is full", "disk I/O error")[n % 2]
        with Index.open(path, encoder, writable=True) as index:
            failing.left, told = n, ""
            try:
                step(index)
            except StorageError as error:
                told = str(error)
            finished, failing.left = failing.left > 0, 0
            if told:
                assert failing.message in told, n
                assert "\n" not in told
                faults += 1
            done = checked(index, number)
            if done == number:
                step(index)
            else:  # all of it was committed; one more commit must not take its numbers again
                index.add([{"doc_id": "z", "text": "w1 w1"}], encode=False)
                index.delete(["z"])
            assert_equals(index, *texts_of(expected[number + 1], encoder))
            index.verify()
        shutil.rmtree(path)
        if finished:
            break
    assert faults > 3


@pytest.mark.slow
def test_each_statement_of_opening_may_fail(tmp_path: Path, failing: Any) -> None:
    failing.left = 0
    Index.create(tmp_path / "docs.index", FakeEncoder(DIM)).close()
    for n in range(1, 1000):
        for options in ({}, {"writable": True}):
            failing.left, failing.message = n, "disk I/O error"
            with contextlib.suppress(StorageError):
                Index.open(tmp_path / "docs.index", **options).close()
        if failing.left > 0:
            break
    assert n > 10


def test_a_database_damaged_while_it_is_open_is_named(tmp_path: Path, failing: Any) -> None:
    failing.left = 0
    with Index.create(tmp_path / "docs.index", FakeEncoder(DIM)) as index:
        index.add(corpus(2))
        for call in (
            lambda: index.get(["d0"]),
            lambda: index.reload(),
            lambda: index.snapshot().select("n = 1"),
            lambda: index.delete(["d0"]),
        ):

            def broken(self: Any, function: Any, *args: Any) -> Any:
                raise sqlite3.DatabaseError("database disk image is malformed")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(FailingConnection, "_counted", broken)
                with pytest.raises(IndexFormatError, match=r"index\.db is damaged \(database disk image"):
                    call()
        index.reload()
        assert index.delete(["d0"]) == 1


def test_a_snapshot_that_could_not_be_opened_is_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Index.create(tmp_path / "docs.index", FakeEncoder(DIM)) as writer,
        Index.open(writer.folder) as reader,
    ):
        writer.add(corpus(3))

        def fails(*args: Any) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr("indexing.storage.snapshot.Snapshot._open_files", fails)
            with pytest.raises(StorageError, match=r"docs\.index cannot be used \(Too many open files\)"):
                reader.reload()
            with pytest.raises(StorageError, match="Too many open files"):
                writer.add([record(3, "w1")])  # committed, and not seen
        assert reader.reload()
        assert contents(reader).keys() == {"d0", "d1", "d2", "d3"}
        writer.add([record(4, "w2")])
        assert contents(writer).keys() == {"d0", "d1", "d2", "d3", "d4"}
        writer.verify()


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("shards", [None, 2])
def test_nothing_is_written_beside_an_index_that_took_the_place_of_an_open_one(
    tmp_path: Path, replaced: bool, shards: int | None
) -> None:
    place, moved = tmp_path / "x", tmp_path / "y"
    with Index.create(place, FakeEncoder(), shards=shards) as index:
        index.add([record(1, "w1")])
        place.rename(moved)
        if replaced:
            Index.create(place, FakeEncoder(), shards=shards).close()
        before = sorted(tmp_path.rglob("*"))
        tries: list[Callable[[], object]] = [
            lambda: index.add([record(2, "w2")]),
            lambda: index.add([record(2, "w2")], encode=False),
            lambda: index.delete(["d1"]),
            index.compact,
        ]
        for attempt in tries:
            with pytest.raises(StorageError, match=r"moved, deleted or replaced .* open it again"):
                attempt()
        assert sorted(tmp_path.rglob("*")) == before
    with Index.open(moved, FakeEncoder(), writable=True) as index:
        assert list(index.ids()) == ["d1"]
        index.add([record(2, "w2")])
        assert len(index) == 2
