"""What a crash leaves of an index: the last commit, or the one in flight, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from encoder.errors import IndexFormatError
from indexing import Index
from tests.helpers.fakes import (
    DIM,
    WORDS,
    FakeEncoder,
    assert_equals,
    contents,
    corpus,
    record,
    stored,
    texts_of,
)

ROOT = Path(__file__).parent.parent.parent
Stored: TypeAlias = dict[str, tuple[str | None, dict[str, Any], bool]]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder(DIM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs.index"


# Runs the history of `steps` once for each instant at which it touches the disk, and dies at that instant.
# It forks before FAISS has started threads.
CRASHES = """
import faiss, os, sys
from pathlib import Path
from indexing.storage import store
from indexing.writing import writer
from indexing import Index
from tests.indexing import test_crashes

def dies_at(n):
    count = 0
    def watched(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                os._exit(9)
            return function(*args, **kwargs)
        return call
    os.fsync = watched(os.fsync)
    Path.rename = watched(Path.rename)
    Path.replace = watched(Path.replace)
    writer.remove = watched(writer.remove)
    store.Store.commit = watched(store.Store.commit)
    store.Store.shrink = watched(store.Store.shrink)
    # In the midst of a transaction, which SQLite must then undo.
    store.asdict = watched(store.asdict)

root = Path(sys.argv[1])
for n in range(1, 1000):
    pid = os.fork()
    if pid == 0:
        folder = root / str(n)
        folder.mkdir()
        dies_at(n)
        encoder, flat_tokens = test_crashes.new_encoder(), int(sys.argv[3])
        with Index.create(folder / "docs.index", encoder, flat_tokens=flat_tokens) as index:
            for number, step in enumerate(getattr(test_crashes, sys.argv[2])()):
                step(index)
                (folder / "done").write_text(str(number + 1))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), (n, code)
    if code == 0:
        print(n)
        break
"""


def new_encoder() -> FakeEncoder:
    """Reads 16 words; what is longer comes in windows that overlap by two."""
    return FakeEncoder(DIM, document_length=16, windows=True)


def long(number: int, words: int = 40) -> str:
    return " ".join(WORDS[(number + i * i) % len(WORDS)] for i in range(words))


def steps() -> list[Any]:
    docs = corpus(35)
    return [
        lambda index: index.add(docs[:20]),
        lambda index: index.add([record(1, "w1 w2"), record(2, docs[2]["text"], new=True)]),
        lambda index: index.delete(["d3", "d4"]),
        lambda index: index.update_metadata({"d5": {"n": -5}, "d6": {"n": 6, "note": "é"}}),
        lambda index: index.add(docs[20:]),  # trains the codec
        lambda index: index.create_metadata_index("n"),
        lambda index: index.delete(filter="n >= 30"),
        lambda index: index.add([record(1, long(1)), record(50, long(2)), record(7, long(3))], encode=False),
        lambda index: index.encode(["d50"]),
        lambda index: index.delete(["d7"]),  # which was never encoded
        lambda index: index.encode(),
        lambda index: index.add([record(50, "w3"), record(1, long(4, 60))]),
        lambda index: index.rename({"d1": "d2", "d2": "d1", "d8": "new"}),
        lambda index: index.compact(),
    ]


def models() -> list[Stored]:
    docs = {d["doc_id"]: (d["text"], d["metadata"], True) for d in corpus(35)}
    states = [{}, {f"d{i}": docs[f"d{i}"] for i in range(20)}]

    def then(changed: Stored, without: Iterable[str] = ()) -> None:
        states.append({k: v for k, v in states[-1].items() if k not in without} | changed)

    then({"d1": ("w1 w2", {}, True), "d2": (docs["d2"][0], {"new": True}, True)})
    then({}, ["d3", "d4"])
    then({"d5": (docs["d5"][0], {"n": -5}, True), "d6": (docs["d6"][0], {"n": 6, "note": "é"}, True)})
    then({f"d{i}": docs[f"d{i}"] for i in range(20, 35)})
    then({})
    then({}, [f"d{i}" for i in range(30, 35)])
    then({"d1": (long(1), {}, False), "d50": (long(2), {}, False), "d7": (long(3), {}, False)})
    then({"d50": (long(2), {}, True)})
    then({}, ["d7"])
    then({"d1": (long(1), {}, True)})
    then({"d50": ("w3", {}, True), "d1": (long(4, 60), {}, True)})
    last = states[-1]
    then({"d1": last["d2"], "d2": last["d1"], "new": last["d8"]}, ["d8"])
    then({})
    return states


def crash(folder: Path, history: str, flat_tokens: int) -> int:
    """Runs CRASHES: how many instants there were, each with a folder of its number."""
    ran = subprocess.run(
        [sys.executable, "-c", CRASHES, str(folder), history, str(flat_tokens)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crash_at_any_instant_leaves_the_last_commit(tmp_path: Path) -> None:
    instants = crash(tmp_path, "steps", 300)
    assert instants > 60
    expected = models()
    encoder = new_encoder()
    opened = 0
    for n in range(1, instants + 1):
        folder = tmp_path / str(n)
        done = int((folder / "done").read_text()) if (folder / "done").exists() else 0
        path = folder / "docs.index"
        try:
            with Index.open(path) as reader:
                reader.verify()
                found = stored(reader)
                assert_equals(reader, *texts_of(found, encoder))
        except IndexFormatError:
            assert done == 0, f"instant {n}"
            Index.create(path, encoder).close()  # creation itself was cut short
            continue
        assert found in expected[done : done + 2], f"instant {n}"
        opened += 1
        with Index.open(path, encoder, writable=True) as index:
            index.verify()
            known = {file.path for file in index.snapshot().files}
            left = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
            assert {p for p in left if "index." not in p} == known, f"instant {n}"
            if n % 5 == 0:
                for step in steps()[done:]:
                    step(index)
                assert stored(index) == expected[-1], f"instant {n}"
                assert_equals(index, *texts_of(expected[-1], encoder))
    assert opened > 50


VERSIONS = {
    "a": [f"first {long(1)}", "second w1", f"third {long(2)}"],
    "b": ["fourth w2 w3", f"fifth {long(3, 70)}", f"sixth {long(4)}"],
    "c": [f"seventh {long(5)}", f"eighth {long(6, 90)}", f"ninth {long(7, 20)}"],
}


def replacements() -> list[Any]:
    """Long to short, short to long and long to long, one document a step."""
    texts = [{"doc_id": doc_id, "text": own[0]} for doc_id, own in VERSIONS.items()]
    changed = [{"doc_id": doc_id, "text": own[n]} for n in (1, 2) for doc_id, own in VERSIONS.items()]
    return [lambda index: index.add(texts), *(lambda index, d=doc: index.add([d]) for doc in changed)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_replaced_document_is_wholly_the_old_or_wholly_the_new(tmp_path: Path) -> None:
    """In its text, its words and its vectors, wherever the writer dies."""
    instants = crash(tmp_path, "replacements", 10**6)
    states: list[dict[str, str]] = [{}, {doc_id: own[0] for doc_id, own in VERSIONS.items()}]
    for n in (1, 2):
        for doc_id, own in VERSIONS.items():
            states.append(states[-1] | {doc_id: own[n]})
    looked_at = 0
    for n in range(1, instants + 1):
        done = tmp_path / str(n) / "done"
        if not done.exists():
            continue
        number = int(done.read_text())
        with Index.open(tmp_path / str(n) / "docs.index") as reader:
            texts = {document.doc_id: str(document.text) for document in reader}
            assert texts in states[number : number + 2], f"instant {n}"
            assert_equals(reader, {doc_id: (text, {}) for doc_id, text in texts.items()}, new_encoder())
            with reader.snapshot() as now:
                for doc_id, own in VERSIONS.items():
                    for text in own:
                        found, _ = now.lexical(text.split()[0], now.select())
                        named = list(now.doc_ids(found.tolist()).values())
                        assert named == ([doc_id] if texts[doc_id] == text else []), f"instant {n}"
        looked_at += 1
    assert looked_at > 50


# What SIGKILL does between a commit's last write to the log and its mark in the log's index (-shm): the
# commit is not visible, and would be once that index is rebuilt.
HALF_COMMITTED = """
import os, sys
from pathlib import Path
from indexing import Index
from tests.helpers.fakes import DIM, FakeEncoder, record
path = Path(sys.argv[1])
index = Index.open(path, FakeEncoder(DIM), writable=True)
def commit(change, commit=index._writer.store.commit):
    header = (path / "index.db-shm").read_bytes()[:136]
    commit(change)
    with (path / "index.db-shm").open("rb+") as file:
        file.write(header)
    os._exit(9)
index._writer.store.commit = commit
index.add([record(1, "w1 w1")])
"""

KILLED_BEFORE_COMMIT = """
import os, sys
from indexing import Index
from tests.helpers.fakes import DIM, FakeEncoder, record
index = Index.open(sys.argv[1], FakeEncoder(DIM), writable=True)
index._writer.store.commit = lambda change: os._exit(9)
index.add([record(2, "w2 w2 w2")])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="writes to a file that SQLite has mapped")
def test_a_commit_that_half_happened_never_comes_back(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        index.add([record(0, "w0")])
    with Index.open(path) as reader:  # keeps the log's index in use
        for script in (HALF_COMMITTED, KILLED_BEFORE_COMMIT):
            command = [sys.executable, "-c", script, str(path)]
            ran = subprocess.run(command, cwd=ROOT, check=False)
            assert ran.returncode == 9
        assert contents(reader).keys() == {"d0"}
    (path / "index.db-shm").unlink()
    with Index.open(path) as index:
        index.verify()
        assert contents(index).keys() == {"d0"}


def test_a_commit_that_fails_can_be_tried_again(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(path, encoder) as index:
        index.add([record(0, "w0")])

        def fails(change: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(index._writer.store, "_commit", fails)
        with pytest.raises(OSError, match="No space left"):
            index.add([record(1, "w1")])
        monkeypatch.undo()
        assert contents(index).keys() == {"d0"}
        index.add([record(1, "w1")])
        assert_equals(index, {"d0": ("w0", {}), "d1": ("w1", {})}, encoder)
        index.verify()
