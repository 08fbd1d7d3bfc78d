"""Texts are encoded while others are read, coded and written; nothing of what `add` means changes by it."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder import Encoder
from encoder.errors import ArgumentError
from encoder.progress import Told
from encoder.workers import WorkerPool
from indexing import AddReport, Index
from indexing.writing import ahead, records
from indexing.writing.ahead import WAITING
from indexing.writing.writer import Writer
from tests.helpers.checkpoints import TEXTS, pylate
from tests.helpers.fakes import DIM, FakeEncoder, assert_equals, corpus, record
from tests.helpers.meeting import MeetingEncoder


class SlowEncoder(FakeEncoder):
    """Calls wait until their texts are free, or all are, as for a device; says how many were in it at once."""

    calls_at_once = 2

    def __init__(self) -> None:
        super().__init__(DIM)
        self.free: set[str] = set()
        self.all_free = threading.Event()
        self.begun = threading.Semaphore(0)
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def encode_documents(self, texts: Any, *, progress: Told | None = None) -> Any:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.begun.release()
        try:
            while not (self.free.intersection(texts) or self.all_free.wait(0.01)):
                assert progress is not None
                progress(None)  # type: ignore[arg-type]  # raises once nobody wants the vectors
        finally:
            with self.lock:
                self.inside -= 1
        return super().encode_documents(texts)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH_RECORDS", 4)


def test_later_texts_are_encoded_while_a_commit_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SlowEncoder()
    commit, written = Writer.commit, []

    def documents() -> Iterator[dict[str, Any]]:
        for n, document in enumerate(corpus(40)):
            if n == 15:  # the last of as many as are under way
                encoder.free |= {own["text"] for own in corpus(8)}
            yield document

    def slow_commit(writer: Writer, pending: Any) -> None:
        if not written:  # two calls are done; those after them begin, and end, during this
            for _ in range(4):
                assert encoder.begun.acquire(timeout=10)
            encoder.all_free.set()
            late = time.monotonic() + 10
            while len(encoder.encoded) < 16 and time.monotonic() < late:
                time.sleep(0.001)
            assert len(encoder.encoded) == 16
        written.append(len(pending.documents))
        commit(writer, pending)

    monkeypatch.setattr(Writer, "commit", slow_commit)
    with Index.create(tmp_path / "x", encoder, commit_tokens=1) as index:
        report = index.add(documents())
        assert report == AddReport(added=40, passages=40, tokens=400)
        assert written[:10] == [4] * 10
        assert encoder.most == 2
        assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in corpus(40)}, encoder)


@pytest.mark.parametrize(
    ("batch_tokens", "commit_tokens", "words", "expected"),
    [
        (0, 500, 1, [4] * 10),  # it says nothing
        (320, 10**4, 1, [20] * 2),  # two batches of 320 tokens, where a short text has 32
        (320, 320, 1, [10] * 4),  # a commit has no room for more
        (320, 10**4, 160, [4] * 10),  # of 4 characters a token
    ],
)
def test_a_call_has_texts_for_several_of_an_encoders_batches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_tokens: int,
    commit_tokens: int,
    words: int,
    expected: list[int],
) -> None:
    class Large(FakeEncoder):
        def encode_documents(self, texts: Any) -> Any:
            given.append(len(texts))
            return super().encode_documents(texts)

    monkeypatch.setattr(records, "BATCH_CHARS", 16)
    given: list[int] = []
    encoder = Large(DIM)
    if batch_tokens:
        encoder.batch_tokens = batch_tokens  # type: ignore[attr-defined]
    texts = [record(n, "w1  " * words) for n in range(40)]
    with Index.create(tmp_path / "x", encoder, commit_tokens=commit_tokens) as index:
        index.add(texts)
        assert given == expected
        index.add([{**own, "doc_id": f"e{own['doc_id']}"} for own in texts], encode=False)
        index.encode()
    assert given == 2 * expected


def test_an_encoder_that_says_nothing_is_called_by_one_thread_at_a_time(tmp_path: Path) -> None:
    class Alone(FakeEncoder):
        lock = threading.Lock()

        def encode_documents(self, texts: Any) -> Any:
            assert self.lock.acquire(blocking=False)
            try:
                return super().encode_documents(texts)
            finally:
                self.lock.release()

    encoder = Alone(DIM)
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(corpus(50))
    assert encoder.encoded == [document["text"] for document in corpus(50)]


def test_records_are_read_a_few_batches_ahead_and_by_the_caller(tmp_path: Path) -> None:
    encoder = SlowEncoder()
    threads, read = set(), 0

    def documents() -> Iterator[dict[str, Any]]:
        nonlocal read
        for document in corpus(60):
            threads.add(threading.current_thread())
            read += 1
            if read == 4 * WAITING * 2:  # as many as are under way; there are no more until some are free
                encoder.all_free.set()
            yield document

    stored: list[tuple[int, int, int]] = []
    with Index.create(tmp_path / "x", encoder, commit_tokens=100) as index:
        index.add(documents(), committed=lambda n: stored.append((n, len(index), read)))
    assert threads == {threading.current_thread()}
    assert [n for n, *_ in stored] == [12, 24, 36, 48, 60, 60]
    assert all(n == there <= seen <= n + 4 * WAITING * 2 for n, there, seen in stored)


def test_a_text_is_encoded_once_however_often_it_comes(tmp_path: Path) -> None:
    """Also where the same doc_id is on its way, pending, or stored; the last text of each wins."""
    encoder = FakeEncoder(DIM)
    texts = ["w1", "w2", "w1", "w1", "w3", "w3", "w1", "w2", "w2"]
    stream = [record(n, f"{text} w{n}") for text in texts for n in range(6)]
    for commit_tokens in (1, 30, 10**6):
        with Index.create(tmp_path / f"{commit_tokens}", encoder, commit_tokens=commit_tokens) as index:
            encoder.encoded.clear()
            report = index.add(stream)
            assert (report.added, report.replaced, report.unchanged) == (6, 30, 18)
            assert report.passages == len(encoder.encoded) == 36
            assert_equals(index, {f"d{n}": (f"w2 w{n}", {}) for n in range(6)}, encoder)
            assert index.add(stream[-6:]) == AddReport(unchanged=6)
            assert len(encoder.encoded) == 36


@pytest.mark.parametrize("broken", ["record", "source", "vectors"])
def test_an_error_comes_when_all_before_it_is_stored(tmp_path: Path, broken: str) -> None:
    class Broken(FakeEncoder):
        def encode_documents(self, texts: Any) -> Any:
            found = super().encode_documents(texts)
            if any("bad" in text for text in texts):
                found.vectors[:] = float("nan")
            return found

    def documents() -> Iterator[Any]:
        yield from corpus(22)
        if broken == "source":
            raise OSError("the line is dead")
        yield {"doc_id": "d22", "text": "bad" if broken == "vectors" else None}
        yield from corpus(60)[23:]

    expected, line = {
        "record": (ArgumentError, "record 22 has text None"),
        "source": (OSError, "the line is dead"),
        "vectors": (ArgumentError, "not finite"),
    }[broken]
    with Index.create(tmp_path / "x", Broken(DIM), commit_tokens=50) as index:
        with pytest.raises(expected, match=line):
            index.add(documents())
        assert set(index.ids()) == {f"d{n}" for n in range(16)}  # commits of eight documents each
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
        index.add(corpus(3, seed=9))
        assert len(index) == 16


def test_what_is_interrupted_waits_for_no_encoding(tmp_path: Path) -> None:
    encoder = SlowEncoder()

    def documents() -> Iterator[dict[str, Any]]:
        yield from corpus(4)
        assert encoder.begun.acquire(timeout=10)
        raise KeyboardInterrupt

    with Index.create(tmp_path / "x", encoder) as index:
        with pytest.raises(KeyboardInterrupt):
            index.add(documents())  # else it would never end: nothing is free
        assert (len(index), encoder.inside) == (0, 0)


def test_a_source_may_write_to_the_index_meanwhile(tmp_path: Path) -> None:
    """Then a text that was stored when it was read is no longer, and is encoded when it is stored."""
    encoder = SlowEncoder()
    encoder.all_free.set()
    with Index.create(tmp_path / "x", encoder) as index:
        index.add(corpus(8))
        encoder.all_free.clear()

        def documents() -> Iterator[dict[str, Any]]:
            yield from corpus(5)
            index.delete(["d0", "d4"])
            encoder.all_free.set()

        report = index.add(documents())
        assert (report.added, report.unchanged, report.passages) == (2, 3, 2)
        index.add(corpus(8))
        assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in corpus(8)}, encoder)


def test_calls_by_several_threads_give_the_vectors_of_one(tmp_path: Path) -> None:
    bundled = Encoder.load()
    texts = [record(n, f"the old oak number {n} " * (n % 7 + 1)) for n in range(40)]
    expected = bundled.encode_documents([document["text"] for document in texts])
    with Index.create(tmp_path / "x", bundled) as index:
        index.add(texts)
        index.delete(["d7"])
        assert index.n_tokens == len(expected.vectors) - len(expected[7])


@pytest.mark.slow
def test_several_devices_work_at_once_for_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of records is one batch of tokens here: a process whose own is alone would wait for ever."""
    monkeypatch.setattr(records, "BATCH_RECORDS", 1)
    monkeypatch.setattr(ahead, "BATCHES", 0)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    pylate(tmp_path / "model", document_length=40)
    texts = [record(n, text) for n, text in enumerate(TEXTS * 3)]
    encoder = Encoder.load(tmp_path / "model", device="cpu,cpu")
    assert encoder._workers is not None
    encoder._workers.leave(encoder)
    encoder._workers = WorkerPool(["cpu", "cpu"], partial(MeetingEncoder, meeting, tmp_path / "model"))
    encoder._workers.users.add(encoder)
    try:
        with Index.create(tmp_path / "x", encoder, window=None) as index:
            assert index.add(texts).added == len(texts)
            expected = Encoder.load(tmp_path / "model").encode_documents([own["text"] for own in texts])
            with index.snapshot() as now:
                [segment] = now.segments
                np.testing.assert_allclose(segment.vectors, expected.vectors, atol=1e-3)
    finally:
        encoder.close()
    assert len(list(meeting.iterdir())) == 2
