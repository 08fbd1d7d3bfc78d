"""The store: one commit point, snapshots, the lock, and what SQLite must give back unharmed."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError, IndexFormatError, IndexLockedError
from indexing.storage.durable import FileRecord
from indexing.storage.lock import WriterLock
from indexing.storage.segment import SegmentRow
from indexing.storage.store import Change, Document, DocumentRow, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.create(tmp_path / "index.db", {"dim": 4})
    return tmp_path / "index.db"


def open_writer(path: Path) -> Store:
    store = Store(path, writable=True)
    store.bury()
    return store


def row(pid: int, doc_id: str, text: str | None = "text", metadata: str = "{}") -> DocumentRow:
    return DocumentRow(pid, doc_id, text, metadata, "hash")


def add(store: Store, *rows: DocumentRow) -> None:
    state = replace(store.state, generation=store.state.generation + 1)
    store.commit(Change(state, documents=list(rows)))
    store.refresh()


def test_documents_come_in_the_order_asked(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(pid, f"d{pid}", f"text {pid}", json.dumps({"n": pid})) for pid in range(1200)))
    pids = [(7 * i) % 1200 for i in range(1200)]
    assert store.documents(pids) == [Document(f"d{p}", f"text {p}", {"n": p}) for p in pids]
    assert store.documents([]) == []
    assert store.documents([3, 3])[1].doc_id == "d3"
    found = store.find([f"d{i}" for i in range(1100, 1900)])
    assert {doc_id: r.pid for doc_id, r in found.items()} == {f"d{i}": i for i in range(1100, 1200)}
    with pytest.raises(ArgumentError, match="pid 1200 is not in this snapshot"):
        store.documents([0, 1200])
    store.close()
    with pytest.raises(ArgumentError, match="is closed"):
        store.documents([0])


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
    Store.create(path, {})
    store = open_writer(path)
    add(store, row(0, doc_id, text, json.dumps(metadata)), row(1, doc_id + "'; DROP TABLE documents; --"))
    assert store.documents([0]) == [Document(doc_id, text, metadata)]
    assert store.find([doc_id])[doc_id].pid == 0
    assert store.count() == 2
    store.close()


def test_a_snapshot_stays_until_refreshed(path: Path) -> None:
    writer, reader = open_writer(path), Store(path)
    add(writer, row(0, "a"))
    assert (writer.count(), reader.count()) == (1, 0)
    assert reader.refresh()
    assert not reader.refresh()
    assert reader.count() == 1
    change = Change(replace(writer.state, generation=2), deleted=[0], documents=[row(1, "a", "new")])
    writer.commit(change)
    assert reader.documents([0])[0].text == "text"
    reader.refresh()
    assert reader.documents([1])[0].text == "new"
    assert reader.tombstones(0, 2).tolist() == [0]
    assert reader.tombstones(1, 2).tolist() == []
    writer.close()
    reader.close()


def test_a_commit_is_all_or_nothing(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a"), row(1, "b"))
    segment = SegmentRow(1, "flat", 0, 2, 5)
    bad = Change(
        replace(store.state, generation=9),
        deleted=[0],
        documents=[row(2, "c"), row(3, "b")],  # "b" lives
        add_segments=[segment],
        add_files=[FileRecord("segments/000001/offsets.npy", 1, "x")],
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(bad)
    assert not store.refresh()
    assert store.find(["a", "b", "c"]).keys() == {"a", "b"}
    assert (store.segments, store.files) == ([], [])
    assert store.tombstones(0, 10).tolist() == []
    store.close()


def test_segments_and_files_leave_together(path: Path) -> None:
    store = open_writer(path)
    rows = [SegmentRow(n, "flat", n, 1, 1) for n in (1, 2)]
    files = [FileRecord(f"{r.folder}/{name}", 3, "0") for r in rows for name in ("a.npy", "b.npy")]
    codec = FileRecord("codec-1.faiss", 4, "1")
    state = replace(store.state, generation=1, codec="codec-1.faiss")
    store.commit(Change(state, add_segments=rows, add_files=[*files, codec]))
    state = replace(state, generation=2, codec=None)
    store.commit(Change(state, drop_segments=rows[:1], drop_codec="codec-1.faiss"))
    store.refresh()
    assert store.segments == rows[1:]
    assert store.files == files[2:]
    assert store.state == state
    store.close()


def test_renumbering_keeps_order_and_clears_tombstones(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(pid, f"d{pid}", "gone" * 500) for pid in range(10)))
    store.commit(Change(replace(store.state, generation=2), deleted=[0, 4]))
    store.refresh()
    store.commit(Change(replace(store.state, generation=3), renumber_from=10))
    store.refresh()
    store.shrink(always=True)
    expected = [f"d{i}" for i in range(10) if i not in (0, 4)]
    assert [d.doc_id for d in store.documents(range(10, 18))] == expected
    assert store.tombstones(0, 100).tolist() == []
    assert store.count() == 8
    store.check()
    store.close()


def test_deleted_text_leaves_the_disk(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a", "a secret that goes"), row(1, "b", "a text that stays"))
    store.commit(Change(replace(store.state, generation=2), deleted=[0]))
    store.refresh()
    store.shrink(always=True)
    on_disk = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"a text that stays" in on_disk
    assert b"a secret that goes" not in on_disk
    store.close()


def test_what_is_no_index_is_refused(tmp_path: Path, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE settings SET value = '3' WHERE key = 'format_version'")
    db.commit()
    db.close()
    with pytest.raises(IndexFormatError, match="format_version 3, this Latewood reads 2; upgrade Latewood"):
        Store(path)
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(IndexFormatError, match=r"other\.db is not a Latewood index"):
        Store(other)
    assert Store.exists(other)
    other.write_bytes(b"")
    with pytest.raises(IndexFormatError, match=r"creation was cut short; run Index\.create again"):
        Store(other)
    assert not Store.exists(other)
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexFormatError, match=r"other\.db is damaged"):
        Store(other)
    assert Store.exists(other)


def test_a_damaged_page_is_found(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(pid, f"d{pid}", "text" * 200) for pid in range(200)))
    store.shrink(always=True)
    store.check()
    store.close()
    content = bytearray(path.read_bytes())
    content[-12288:-8192] = bytes(4096)  # a leaf: opening has no need of it
    path.write_bytes(content)
    damaged = Store(path)
    with pytest.raises(IndexFormatError, match=r"index\.db is damaged"):
        damaged.check()
    damaged.close()


def test_many_threads_read_one_store(path: Path) -> None:
    store = open_writer(path)
    add(store, *(row(pid, f"d{pid}") for pid in range(500)))
    wrong: list[int] = []

    def read(start: int) -> None:
        for i in range(100):
            pid = (start + 7 * i) % 500
            if store.documents([pid])[0].doc_id != f"d{pid}":
                wrong.append(pid)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_on_a_read_only_medium_is_read(path: Path) -> None:
    store = open_writer(path)
    add(store, row(0, "a"))
    store.close()
    path.parent.chmod(0o555)
    try:
        reader = Store(path)
        assert reader.count() == 1
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
