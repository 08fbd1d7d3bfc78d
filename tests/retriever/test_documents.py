"""Ranking documents by their best passage, and snapshots as values, against plain loops."""

import gc
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder import Encoder
from indexing import Index
from retriever import Scoring, Searcher
from retriever.ranking.documents import best_of_each, best_passages, n_documents
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, corpus, record, stored

PLAIN = Scoring(idf=False, sharpness=0.0)
runs = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=5), max_size=12)


def new_encoder() -> FakeEncoder:
    return FakeEncoder(DIM, document_length=6, windows=True)


def flat(scores: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Owners and scores of the passages of documents 0, 1, ..."""
    owners = np.array([i for i, own in enumerate(scores) for _ in own], np.int64)
    return owners, np.array([score for own in scores for score in own], np.float32)


@pytest.mark.slow
@given(runs)
def test_the_best_passage_of_each_equals_a_loop(scores: list[list[int]]) -> None:
    owners, values = flat(scores)
    starts = np.cumsum([0, *map(len, scores)])[:-1]
    expected = [int(start) + own.index(max(own)) for start, own in zip(starts, scores, strict=True)]
    assert best_of_each(owners, values).tolist() == expected
    assert n_documents(owners) == len(scores)


@pytest.mark.slow
@given(runs, st.integers(1, 14))
def test_the_passages_of_the_n_best_documents_equal_a_loop(scores: list[list[int]], n: int) -> None:
    owners, values = flat(scores)
    best = sorted((max(own) for own in scores), reverse=True)
    floor = best[n - 1] if n < len(best) else -np.inf
    expected = [score >= floor for own in scores for score in own]
    assert best_passages(owners, values, n).tolist() == expected
    kept = len(np.unique(owners[best_passages(owners, values, n)]))
    assert kept >= min(n, len(scores))
    if len(set(best)) == len(best):
        assert kept == min(n, len(scores))


@pytest.fixture(scope="module")
def long_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 documents of 1 to 40 words, in windows of 6 words; compressed."""
    path, random = tmp_path_factory.mktemp("documents") / "x", np.random.default_rng(0)
    vocabulary = [f"v{i}" for i in range(400)]
    with Index.create(path, new_encoder(), flat_tokens=1000) as index:
        index.add(
            record(i, " ".join(random.choice(vocabulary, random.integers(1, 40))), n=i % 7)
            for i in range(300)
        )
        assert {segment.kind for segment in index.snapshot().segments} == {"compressed"}
    return path


@pytest.mark.slow
@pytest.mark.parametrize("nrerank", [20, 60, 150])
def test_candidates_count_documents(long_index: Path, nrerank: int) -> None:
    """As many documents come back as are reranked, however many passages they have; by passage, as many passages."""
    with Searcher.open(long_index, new_encoder(), scoring=PLAIN) as searcher:
        for seed in range(8):
            query = " ".join(f"v{i}" for i in np.random.default_rng(seed).integers(0, 400, 4))
            everything = searcher.search(query, mode="late", k=300, nrerank=300, ncandidates=2000)
            exact = {h.doc_id: h.score for h in everything}
            found = searcher.search(query, mode="late", k=nrerank, nrerank=nrerank, ncandidates=2 * nrerank)
            assert len({hit.doc_id for hit in found}) == len(found) == nrerank
            assert all(hit.score <= exact[hit.doc_id] + 1e-3 for hit in found)
            first = nrerank // 20
            best = sorted(exact.values(), reverse=True)[:first]
            np.testing.assert_allclose([hit.score for hit in found[:first]], best, atol=1e-3)
            by_passage = searcher.search(
                query, k=nrerank, by="passage", nrerank=nrerank, ncandidates=2 * nrerank
            )
            assert len(by_passage) == nrerank
            places = {(hit.doc_id, hit.passage.span) for hit in by_passage if hit.passage}
            assert len(places) == nrerank


@pytest.mark.parametrize(
    "options",
    [
        {"nrerank": 128, "ncandidates": 512},
        {"nrerank": 40, "ncandidates": 100, "nprobe": 8},
        {"filter": "n < 3"},
        {"by": "passage"},
    ],
)
def test_a_device_agrees_with_the_processor(long_index: Path, options: dict[str, object]) -> None:
    encoder = new_encoder()
    with (
        Searcher.open(long_index, encoder, scoring=PLAIN) as processor,
        Searcher.open(long_index, encoder, scoring=PLAIN, device="cpu") as device,
    ):
        for seed in range(5):
            query = " ".join(f"v{i}" for i in np.random.default_rng(seed).integers(0, 400, 4))
            one = processor.search(query, k=10, **options)
            other = device.search(query, k=10, **options)
            np.testing.assert_allclose([h.score for h in one], [h.score for h in other], atol=2e-3)
            scores = [round(hit.score, 2) for hit in one]
            for a, b, score in zip(one, other, scores, strict=True):
                assert (
                    (a.doc_id, a.passage) == (b.doc_id, b.passage)
                    or scores.count(score) > 1
                    or score == scores[-1]
                )


# Snapshots are values ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_held_snapshot_answers_the_same(tmp_path: Path) -> None:
    encoder = new_encoder()
    with Index.create(tmp_path / "x", encoder, flat_tokens=300) as index:
        index.add(corpus(40))
        snapshot = index.snapshot()
        searcher = Searcher(snapshot, encoder, scoring=PLAIN)
        asked = [("w1 w2", mode) for mode in ("late", "lexical", "hybrid")]
        before = [searcher.search(text, k=40, mode=mode) for text, mode in asked]
        state = stored(snapshot)
        for write in (
            lambda: index.delete(["d1", "d2"]),
            lambda: index.add([record(3, "w1 w2"), record(90, "w2 w1 " * 9)]),
            lambda: index.rename({"d5": "other"}),
            lambda: index.update_metadata({"d6": {"new": 1}}),
            lambda: index.compact(),
            lambda: index.delete(filter="n >= 0"),
            lambda: index.compact(),
            lambda: index.close(),
        ):
            write()
            assert [searcher.search(text, k=40, mode=mode) for text, mode in asked] == before
            assert stored(snapshot) == state
        searcher.close()  # a snapshot that was passed in stays its owner's
        assert stored(snapshot) == state
        snapshot.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_searcher_that_reloads_leaks_no_file_and_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("indexing.storage.database.LONG_LOG", 1 << 18)
    path, encoder = tmp_path / "x", new_encoder()

    def held() -> tuple[int, int]:
        gc.collect()
        files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(str(path) in file for file in files), sum(str(path) in line for line in maps)

    def taken() -> int:
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())

    with Index.create(path, encoder, flat_tokens=300) as index:
        index.add(corpus(60))
        with Searcher(index, encoder, scoring=PLAIN) as searcher:
            seen = []
            for number in range(300):
                index.add([record(number % 20, f"{WORDS[number % 12]} w1", n=number)])
                if number % 10 == 9:
                    index.compact()
                assert searcher.reload()
                assert not searcher.reload()
                assert len(searcher.search("w1", k=3)) == 3
                if number % 100 == 99:
                    seen.append((*held(), taken()))
    (files, maps, disk), *later = seen
    for more_files, more_maps, more_disk in later:
        assert more_files <= files + 2
        assert more_maps <= maps + 4
        assert more_disk <= 1.3 * disk
    del index, searcher
    assert held() == (0, 0)
    assert not list(path.glob("*-wal"))
    assert taken() <= 1.3 * disk


@pytest.mark.slow
def test_searches_beside_a_reload_never_fail(tmp_path: Path) -> None:
    encoder = new_encoder()
    failed: list[BaseException] = []
    stop = threading.Event()
    with (
        Index.create(tmp_path / "x", encoder, flat_tokens=300) as index,
    ):
        index.add(corpus(60))
        with Searcher(index, encoder, scoring=PLAIN) as searcher:

            def search(mode: str) -> None:
                try:
                    while not stop.is_set():
                        hits = searcher.search("w1 w2", k=5, mode=mode)
                        assert len(hits) == 5
                        assert hits[0].passage is not None
                except BaseException as error:
                    failed.append(error)

            threads = [
                threading.Thread(target=search, args=(m,)) for m in ("late", "lexical", "hybrid", "late")
            ]
            for thread in threads:
                thread.start()
            for number in range(25):
                index.add([record(number % 9, f"w1 w2 {WORDS[number % 12]}", n=number)])
                if number % 6 == 5:
                    index.compact()
                searcher.reload()
            stop.set()
            for thread in threads:
                thread.join()
    assert failed == []


@pytest.mark.slow
def test_a_sentence_deep_in_a_long_text_is_found_by_the_bundled_model(tmp_path: Path) -> None:
    """40,000 tokens of Python's manual, with nothing but `index.add`."""
    from pydoc_data.topics import topics

    encoder = Encoder.load()
    manual = "\n\n".join(topics.values())
    said = "The keeper of the lighthouse mended its broken lens with a silver spoon."
    end = 180_000  # characters, of which four and a half are a token
    at = manual.index("\n\n", int(end * 0.93))
    long = f"{manual[:at]}\n\n{said}{manual[at:end]}"
    rest = manual[end:]
    records = [{"doc_id": "long", "text": long}]
    records += [{"doc_id": f"d{i}", "text": rest[i * 400 : i * 400 + 400]} for i in range(199)]
    with Index.create(tmp_path / "x", encoder) as index:
        report = index.add(records)
        assert (len(index), report.truncated) == (200, 0)
        assert report.tokens > 40_000 + 199 * 50
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        hit = searcher.search("who repaired the lamp of the lighthouse?")[0]
    assert hit.doc_id == "long"
    assert hit.passage is not None
    start, stop = hit.passage.span
    assert start > 0.8 * len(long)
    assert said in hit.passage.text == long[start:stop]


def test_a_long_log_is_looked_at_once_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks several times a second whether there is a newer one."""
    monkeypatch.setattr("indexing.storage.database.LONG_LOG", 0)
    encoder = new_encoder()
    with Index.create(tmp_path / "x", encoder) as index, Searcher(index, encoder, scoring=PLAIN) as searcher:
        for number in range(3):
            index.add([record(number, "w1")])
            assert searcher.reload()
            newest = searcher.snapshot
            assert not searcher.reload()
            assert searcher.snapshot is newest
