"""A disk that fails: an index stays what was committed, says so, and takes the same work once the disk is well."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from indexing import Index
from tests.fakes import DIM, FakeEncoder, assert_equals, contents
from tests.test_crashes import models, steps

ROOT = Path(__file__).parent.parent


def checked(index: Index, done: int) -> int:
    """Steps that the index shows to be done, by a reader of its own: those acknowledged or one more."""
    expected = models()
    with Index.open(index.folder) as reader:
        reader.verify()
        stored = {k: v[:2] for k, v in contents(reader).items()}
    assert stored in expected[done : done + 2]
    return done if stored == expected[done] else done + 1


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
        with Index.create(tmp_path / f"{n}", FakeEncoder(DIM), flat_tokens=300) as index:
            left, done, failed = n, 0, False
            history = steps()
            while done < len(history):
                try:
                    history[done](index)
                    done += 1
                except OSError:
                    assert not failed, "failed without a fault"
                    failed = True
                    done = checked(index, done)
            assert_equals(index, models()[-1], FakeEncoder(DIM))
            index.verify()
        if not failed:
            break
        failures += 1
    assert failures >= 1


# A limit on the size of a file: writes of Python, SQLite and FAISS fail in the midst, as on a disk that is full.
FULL = """
import resource, sys
from pathlib import Path
from indexing import Index
from tests.fakes import DIM, FakeEncoder, assert_equals
from tests.test_crashes import models, steps
from tests.test_faults import FAULTS, checked

faults = 0
for size in (3_000, 6_000, 20_000, 60_000, 130_000, 200_000, 300_000):
    with Index.create(Path(sys.argv[1]) / str(size), FakeEncoder(DIM), flat_tokens=300) as index:
        done, history, failed = 0, steps(), set()
        while done < len(history):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            if done not in failed:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                history[done](index)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                done += 1
            except FAULTS:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                assert done not in failed, "failed with room on the disk"
                failed.add(done)
                done = checked(index, done)
        assert_equals(index, models()[-1], FakeEncoder(DIM))
        index.verify()
        faults += len(failed)
print(faults)
"""
FAULTS = (OSError, sqlite3.OperationalError, RuntimeError)  # of Python, SQLite and FAISS


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on a file's size")
def test_a_full_disk_leaves_the_last_commit(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 5
