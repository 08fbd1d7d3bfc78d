"""The store: one commit point, readers of one moment, the lock, and what SQLite must give back unharmed."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError, IndexFormatError, IndexLockedError
from indexing.storage import tables
from indexing.storage.durable import FileRecord
from indexing.storage.lock import WriterLock
from indexing.storage.reader import Document, Reader
from indexing.storage.store import Store
from indexing.storage.tables import Change, DocumentRow, SegmentRow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tables.create(tmp_path, {"dim": 4})
    return tmp_path / "index.db"


def open_writer(path: Path) -> Store:
    store = Store(path)
    store.bury()
    return store


def row(number: int, doc_id: str, text: str | None = "text", metadata: str = "{}") -> DocumentRow:
    return DocumentRow(number, doc_id, "hash", metadata, text)


def commit(store: Store, **change: Any) -> None:
    reader = Reader(store.path)
    state = replace(reader.state, generation=reader.state.generation + 1)
    reader.close()
    store.commit(Change(**{"state": state, **change}))


def add(store: Store, *rows: DocumentRow) -> None:
    commit(store, documents=list(rows))


def test_documents_are_found_by_number_and_by_name(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(n, f"d{n}", f"text {n}", json.dumps({"n": n})) for n in range(1200)))
    store.close()
    reader = Reader(path)
    numbers = [(7 * i) % 1200 for i in range(1200)]
    assert reader.documents(numbers) == {n: Document(f"d{n}", f"text {n}", {"n": n}) for n in range(1200)}
    assert reader.doc_ids(numbers[:700]) == {n: f"d{n}" for n in numbers[:700]}
    assert reader.documents([]) == {}
    assert reader.documents([3, 3, 1200]).keys() == {3}
    assert [(n, i) for n, i in reader.stream("doc_id")] == [(n, f"d{n}") for n in range(1200)]
    found = reader.find([f"d{i}" for i in range(1100, 1900)])
    assert {doc_id: r.document for doc_id, r in found.items()} == {f"d{i}": i for i in range(1100, 1200)}
    reader.close()
    reader.close()
    with pytest.raises(ArgumentError, match="is closed"):
        reader.documents([0])


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.text(min_size=1).filter(lambda s: s.isprintable() or "\0" in s),
    st.none() | st.text(),
    st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
    ),
)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, doc_id: str, text: str | None, metadata: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("store") / "index.db"
    tables.create(path.parent, {})
    store = open_writer(path)
    add(store, row(0, doc_id, text, json.dumps(metadata)), row(1, doc_id + "'; DROP TABLE documents; --"))
    store.close()
    reader = Reader(path)
    assert reader.documents([0]) == {0: Document(doc_id, text, metadata)}
    assert reader.find([doc_id])[doc_id].document == 0
    assert reader.n_documents == 2
    reader.close()


def test_a_reader_stays_at_its_moment(path: Path) -> None:
    writer, before = open_writer(path), Reader(path)
    add(writer, row(0, "a"))
    then = Reader(path)
    assert (before.n_documents, then.n_documents) == (0, 1)
    commit(writer, deleted=[0], documents=[row(1, "a", "new")], unencoded=[1])
    assert then.documents([0])[0].text == "text"
    now = Reader(path)
    assert now.documents([0, 1]) == {1: Document("a", "new", {})}
    assert [len(reader.tombstones()) for reader in (before, then, now)] == [0, 0, 1]
    assert [reader.state.generation for reader in (before, then, now)] == [0, 1, 2]
    assert list(now.unencoded()) == list(now.unencoded(["a", "b"])) == [(1, "a", "new")]
    assert list(now.unencoded([])) == list(then.unencoded()) == []
    for store in (before, then, now, writer):
        store.close()


def test_what_was_never_encoded_leaves_no_tombstone(path: Path) -> None:
    store = open_writer(path)
    commit(store, documents=[row(n, f"d{n}") for n in range(4)], unencoded=[1, 2, 3])
    commit(store, encoded=[2])
    commit(store, deleted=[0, 1, 2])
    reader = Reader(path)
    assert reader.tombstones().tolist() == [0, 2]
    assert (reader.n_documents, reader.n_unencoded) == (1, 1)
    reader.close()
    commit(store, forgotten=[2])
    reader = Reader(path)
    assert reader.tombstones().tolist() == [0]
    reader.close()
    store.close()


def test_names_change_places(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(n, doc_id, f"text {doc_id}") for n, doc_id in enumerate("abc")))
    commit(store, renamed={0: "b", 1: "c", 2: "a"})
    reader = Reader(path)
    assert reader.doc_ids(range(3)) == {0: "b", 1: "c", 2: "a"}
    assert {k: v.document for k, v in reader.find(["a", "b", "c"]).items()} == {"b": 0, "c": 1, "a": 2}
    reader.close()
    store.close()


def test_a_commit_is_all_or_nothing(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a"), row(1, "b"))
    with pytest.raises(sqlite3.IntegrityError):
        commit(
            store,
            deleted=[0],
            documents=[row(2, "c"), row(3, "b")],  # "b" lives
            unencoded=[2],
            add_segments=[SegmentRow(1, "flat", 2, 5)],
            add_files=[FileRecord("segments/000001/offsets.npy", 1, "x")],
        )
    assert store.uncertain
    reader = Reader(path)
    assert reader.state.generation == 1
    assert reader.find(["a", "b", "c"]).keys() == {"a", "b"}
    assert (reader.segments(), reader.files()) == ([], [])
    assert reader.tombstones().tolist() == []
    assert reader.n_unencoded == 0
    reader.close()
    store.close()


def test_segments_and_files_leave_together(path: Path) -> None:
    store = open_writer(path)
    rows = [SegmentRow(n, "flat", 1, 1) for n in (1, 2)]
    files = [FileRecord(f"{r.folder}/{name}", 3, "0") for r in rows for name in ("a.npy", "b.npy")]
    codec = FileRecord("codec-1.faiss", 4, "1")
    state = tables.State(generation=1, codec="codec-1.faiss")
    store.commit(Change(state, add_segments=rows, add_files=[*files, codec]))
    state = replace(state, generation=2, codec=None)
    store.commit(Change(state, drop_segments=rows[:1], drop_codec="codec-1.faiss"))
    reader = Reader(path)
    assert reader.segments() == rows[1:]
    assert reader.files() == files[2:]
    assert reader.state == state
    reader.close()
    store.close()


def test_deleted_text_leaves_the_disk(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a", "a secret that goes"), row(1, "b", "a text that stays"))
    commit(store, deleted=[0], rebuild_words=True)
    store.shrink(always=True)
    on_disk = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"a text that stays" in on_disk
    assert b"a secret that goes" not in on_disk
    store.close()


def test_what_is_no_index_is_refused(tmp_path: Path, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE settings SET value = '5' WHERE key = 'format_version'")
    db.commit()
    db.close()
    with pytest.raises(
        IndexFormatError,
        match=r"other version of Latewood \(format_version 5, this one reads 4\); upgrade Latewood",
    ):
        Reader(path)
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(IndexFormatError, match=r"other\.db is not a Latewood index"):
        Reader(other)
    assert tables.exists(other)
    other.write_bytes(b"")
    with pytest.raises(IndexFormatError, match="creation was cut short; make the index again"):
        Reader(other)
    assert not tables.exists(other)
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexFormatError, match=r"other\.db is damaged"):
        Reader(other)
    with pytest.raises(IndexFormatError, match=r"other\.db is damaged"):
        Store(other)
    assert tables.exists(other)


def test_a_damaged_page_is_found(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(n, f"d{n}", "text" * 200) for n in range(200)))
    store.shrink(always=True)
    store.close()
    sound = Reader(path)
    sound.check()
    sound.close()
    content = bytearray(path.read_bytes())
    content[-12288:-8192] = bytes(4096)  # a leaf: opening has no need of it
    path.write_bytes(content)
    damaged = Reader(path)
    with pytest.raises(IndexFormatError, match=r"index\.db is damaged"):
        damaged.check()
    damaged.close()


def test_many_threads_share_one_reader(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(n, f"d{n}") for n in range(500)))
    store.close()
    reader = Reader(path)
    wrong: list[int] = []

    def read(start: int) -> None:
        for i in range(100):
            number = (start + 7 * i) % 500
            if reader.documents([number])[number].doc_id != f"d{number}":
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    reader.close()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_on_a_read_only_medium_is_read(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a"))
    store.close()
    path.parent.chmod(0o555)
    try:
        reader = Reader(path)
        assert reader.n_documents == 1
        reader.close()
    finally:
        path.parent.chmod(0o755)


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "index.lock"
    lock = WriterLock(path)
    with pytest.raises(IndexLockedError, match=rf"is being written by process {os.getpid()} on \S+ since 20"):
        WriterLock(path)
    lock.release()
    lock.release()
    script = (
        "import sys\nfrom pathlib import Path\nfrom indexing.storage.lock import WriterLock\n"
        "lock = WriterLock(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(IndexLockedError, match=f"process {child.pid} on"):
            WriterLock(path)
        child.kill()
        child.wait()
        WriterLock(path).release()


def test_a_lock_file_without_a_name_still_locks(tmp_path: Path) -> None:
    path = tmp_path / "index.lock"
    lock = WriterLock(path)
    path.write_text("torn")
    with pytest.raises(IndexLockedError, match="being written by another process"):
        WriterLock(path)
    lock.release()
