"""The index against a plain dict: what is added, replaced, deleted, compacted, read and refused."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.writing.rewriting
from encoder import Encoder
from encoder.embeddings import NO_ID, TokenEmbeddings
from encoder.errors import (
    ArgumentError,
    EncoderMismatchError,
    IndexFormatError,
    IndexLockedError,
)
from encoder.progress import Step
from indexing import AddReport, Index, Snapshot
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, assert_equals, contents, corpus, record


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder(DIM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs.index"


# Adding -----------------------------------------------------------------------------------------------------


def test_ten_lines(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        report = index.add({"doc_id": i, "text": t} for i, t in [("a", "one two"), ("b", "three"), ("c", "")])
        assert report == AddReport(added=3, passages=3, tokens=3)
        assert len(index) == 3
    index = Index.open(path)
    assert {k: v[:2] for k, v in contents(index).items()} == {
        "a": ("one two", {}),
        "b": ("three", {}),
        "c": ("", {}),
    }
    assert (index.dim, index.encoder_name) == (DIM, "fake")
    assert index.settings.encoder_fingerprint == encoder.fingerprint
    with pytest.raises(ArgumentError, match=r"not open for writing; use Index\.open"):
        index.add([])
    index.close()


@pytest.mark.slow
def test_progress_is_told_phase_by_phase_to_a_callable(path: Path, encoder: FakeEncoder) -> None:
    """Documents count when they are encoded; training the codec is a phase of its own, within."""
    steps: list[Step] = []

    def ended() -> list[tuple[str, int, int | None]]:
        found = [(step.phase, step.done, step.total) for step in steps if step.ended]
        steps.clear()
        return found

    with Index.create(path, encoder, flat_tokens=300) as index:
        index.add(corpus(60), encode=False, progress=steps.append)
        assert ended() == [("words", 60, 60)]
        index.encode(["d1", "d2"], progress=steps.append)
        assert ended() == [("encoding", 2, 2)]
        index.encode(progress=steps.append)
        assert steps[0].done == 0
        assert ended() == [("compressing", 600, 600), ("encoding", 58, 58)]
        index.add(corpus(3, seed=1), progress=steps.append)
        assert ended() == [("encoding", 3, 3)]
        index.delete(["d1"])
        index.compact(progress=steps.append)
        assert ended()[-1][0] == "compressing"
        index.verify(progress=steps.append)
        assert {phase for phase, *_ in ended()} == {"verifying"}
        index.encode()
        assert steps == []


def test_what_is_stored_is_not_encoded_again(path: Path, encoder: FakeEncoder) -> None:
    docs = corpus(20)
    with Index.create(path, encoder) as index:
        index.add(docs)
        assert index.add(docs) == AddReport(unchanged=20)
        assert len(encoder.encoded) == 20
        changed = [record(0, "w1 w2", n=0), record(1, docs[1]["text"], n="new"), record(20, "w3")]
        assert index.add(changed) == AddReport(added=1, replaced=2, passages=2, tokens=3)
        assert encoder.encoded[20:] == ["w1 w2", "w3"]
        model = {d["doc_id"]: (d["text"], d["metadata"]) for d in docs + changed}
        assert_equals(index, model, encoder)


def test_other_lengths_are_encoded_again(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        index.add([record(0, "w1 w2 w3")])
    shorter = FakeEncoder(DIM, document_length=2)
    with Index.open(path, shorter, writable=True) as index:
        assert index.add([record(0, "w1 w2 w3")]) == AddReport(replaced=1, truncated=1, passages=1, tokens=2)
        assert index.n_tokens == 2


def test_the_last_of_a_doc_id_wins(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        stream = [record(0, "w1"), record(1, "w2"), record(0, "w3", a=1), record(0, "w3", a=2)]
        assert index.add(stream) == AddReport(added=2, replaced=2, passages=2, tokens=2)
        assert_equals(index, {"d0": ("w3", {"a": 2}), "d1": ("w2", {})}, encoder)
        assert index.add([record(0, "w4"), record(0, "w3", a=2)]).replaced == 2
        assert_equals(index, {"d0": ("w3", {"a": 2}), "d1": ("w2", {})}, encoder)


@pytest.mark.slow
def test_the_last_wins_across_batches_and_commits(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.writing.records.BATCH_RECORDS", 3)
    docs = [record(i % 7, f"w{i % 12} w{i % 5}", i=i % 3) for i in range(60)]
    for commit_tokens in (1, 20, 1000):
        shutil.rmtree(path, ignore_errors=True)
        with Index.create(path, encoder, commit_tokens=commit_tokens) as index:
            index.add(docs[:5])
            report = index.add(docs)
            assert report.added + report.replaced + report.unchanged == 60
            assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}, encoder)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text": "x"}, r"record 2 has doc_id None \(NoneType\); pass a string"),
        ({"doc_id": "", "text": "x"}, "record 2 has doc_id ''; pass a string that is not empty"),
        ({"doc_id": 7, "text": "x"}, "record 2 has doc_id 7"),
        ({"doc_id": "a"}, "record 2 has text None; pass a string"),
        (
            {"doc_id": "a", "text": "x", "title": "y"},
            r"record 2 has unknown keys \['title'\]; put them under",
        ),
        ("text", "record 2 is str; pass"),
        ({"doc_id": "a\ud800", "text": "x"}, r"record 2 has doc_id 'a\\ud800', which has a lone surrogate"),
        (
            {"doc_id": "a", "text": "\ud800"},
            r"record 2 \(doc_id 'a'\) has text '\\ud800', which has a lone surrogate",
        ),
        (
            {"doc_id": "a", "text": "x", "metadata": [1]},
            r"record 2 \(doc_id 'a'\) has metadata \[1\]; pass a dict",
        ),
        ({"doc_id": "a", "text": "x", "metadata": {"d": {1}}}, r"doc_id 'a'.* metadata\['d'\] of type set"),
        ({"doc_id": "a", "text": "x", "metadata": {"d": (1,)}}, r"metadata\['d'\] of type tuple"),
        ({"doc_id": "a", "text": "x", "metadata": {"d": [float("nan")]}}, r"metadata\['d'\]\[0\] = nan"),
        ({"doc_id": "a", "text": "x", "metadata": {"d": {1: 2}}}, r"metadata\['d'\] with the key 1"),
    ],
)
def test_a_bad_record_is_named_and_nothing_half_stored(
    path: Path, encoder: FakeEncoder, bad: Any, message: str
) -> None:
    with Index.create(path, encoder) as index:
        with pytest.raises(ArgumentError, match=message):
            index.add([record(0, "w1"), record(1, "w2"), bad])
        assert len(index) == 0
        index.add([record(0, "w1")])
        assert len(index) == 1


@pytest.mark.parametrize("records", ["text", {"doc_id": "a", "text": "b"}])
def test_one_record_is_no_iterable_of_records(path: Path, encoder: FakeEncoder, records: Any) -> None:
    with (
        Index.create(path, encoder) as index,
        pytest.raises(ArgumentError, match="pass a list of dicts"),
    ):
        index.add(records)


@pytest.mark.slow
def test_an_interrupted_add_keeps_its_commits_and_resumes(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.writing.records.BATCH_RECORDS", 10)
    docs = corpus(100)

    def breaks() -> Iterator[dict[str, Any]]:
        yield from docs[:55]
        raise KeyboardInterrupt

    with Index.create(path, encoder, commit_tokens=200) as index:
        with pytest.raises(KeyboardInterrupt):
            index.add(breaks())
        kept = len(index)
        assert 0 < kept <= 55
        encoder.encoded.clear()
        assert index.add(docs).unchanged == kept
        assert len(encoder.encoded) == 100 - kept
        assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}, encoder)


def test_metadata_of_every_json_kind_comes_back(path: Path, encoder: FakeEncoder) -> None:
    metadata = {
        "s": "é'",
        "i": 2**60,
        "f": 0.1,
        "n": None,
        "b": True,
        "l": [1, [2, {}]],
        "d": {"x": {"y": []}},
    }
    with Index.create(path, encoder) as index:
        index.add([{"doc_id": "a", "text": "w1", "metadata": metadata}])
        assert contents(index)["a"][1] == metadata


# Vectors of one's own ---------------------------------------------------------------------------------------


def test_vectors_of_ones_own(path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((n, DIM)).astype(np.float32) for n in (3, 0, 2)]
    embeddings = TokenEmbeddings.from_list(arrays, DIM)
    with Index.create(path, dim=DIM) as index:
        assert index.add_embeddings(["a", "b", "c"], embeddings).added == 3
        again = index.add_embeddings(["a", "b", "c"], embeddings, metadata=[None, {"x": 1}, None])
        assert again == AddReport(replaced=1, unchanged=2)
        found = contents(index)
        assert found["b"][:2] == (None, {"x": 1})
        for doc_id, array in zip("abc", arrays, strict=True):
            np.testing.assert_array_equal(found[doc_id][2], array.astype(np.float16).astype(np.float32))
        other = TokenEmbeddings.from_list([arrays[0] + 1], DIM)
        assert index.add_embeddings(["a"], other, texts=["text"]) == AddReport(
            replaced=1, passages=1, tokens=3
        )
        assert contents(index)["a"][0] == "text"
        assert index.delete(["b"]) == 1
        assert len(index) == 2
        with pytest.raises(ArgumentError, match="no encoder; use add_embeddings"):
            index.add([record(0, "w1")])
    with pytest.raises(EncoderMismatchError, match="created without an encoder"):
        Index.open(path, FakeEncoder(DIM))


def test_vectors_that_cannot_be_stored_are_refused(path: Path) -> None:
    with Index.create(path, dim=DIM) as index:
        for value in (np.nan, np.inf, -np.inf, 70_000):
            vectors = np.zeros((3, DIM), np.float32)
            vectors[2, 1] = value
            embeddings = TokenEmbeddings(vectors, np.array([0, 2, 2, 3]))
            with pytest.raises(
                ArgumentError, match="doc_id 'c' has a vector with a number that is not finite"
            ):
                index.add_embeddings(["a", "b", "c"], embeddings)
        good = TokenEmbeddings(np.zeros((3, DIM), np.float32), np.array([0, 2, 3]))
        with pytest.raises(ArgumentError, match="2 embeddings for 1 doc_ids"):
            index.add_embeddings(["a"], good)
        with pytest.raises(ArgumentError, match="1 texts for 2 doc_ids"):
            index.add_embeddings(["a", "b"], good, texts=["x"])
        with pytest.raises(ArgumentError, match="vectors have dim=3, the index has dim=8"):
            index.add_embeddings(["a"], TokenEmbeddings(np.zeros((1, 3), np.float32), np.array([0, 1])))
        with pytest.raises(ArgumentError, match="record 1 has doc_id ''"):
            index.add_embeddings(["a", ""], good)
        assert len(index) == 0


# The ladder -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_stream_ends_compressed(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.writing.records.BATCH_RECORDS", 10)
    docs = corpus(120)
    # Trained at the stream's end; and, where it is longer than a segment, on its first part.
    for segment_tokens in (100_000, 400):
        shutil.rmtree(path, ignore_errors=True)
        with Index.create(
            path, encoder, flat_tokens=300, commit_tokens=150, segment_tokens=segment_tokens
        ) as index:
            index.add(docs)
            assert {segment.kind for segment in index.snapshot().segments} == {"compressed"}
            assert index.snapshot().codec is not None
            assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}, encoder)
            index.verify()
            info = index.info()
            originals = {"sampled.npy", "originals.npy"}
            on_disk = sum(
                f.stat().st_size
                for f in (path / "segments").rglob("*")
                if f.is_file() and f.name not in originals
            )
            assert info["bytes_per_token"] == on_disk / 1200
            assert info["bytes"]["codec"] == (path / "codec-1.faiss").stat().st_size
            assert (info["kind"], info["tokens"], info["passages"]) == ("compressed", 1200, 120)


@pytest.mark.slow
def test_it_grows_from_flat_to_compressed_by_itself(path: Path, encoder: FakeEncoder) -> None:
    docs = corpus(60)
    with Index.create(path, encoder, flat_tokens=300) as index:
        assert index.info()["kind"] == "flat"
        kinds = []
        for doc in docs:
            index.add([doc])
            kinds.append(index.info()["kind"])
        assert kinds == ["flat"] * 29 + ["compressed"] * 31
        assert len(index.snapshot().segments) <= indexing.writing.rewriting.SMALL_SEGMENTS + 1
        index.delete(["d0", "d59"])
        index.compact()
        assert len(index.snapshot().segments) == 1
        expected = {d["doc_id"]: (d["text"], d["metadata"]) for d in docs[1:-1]}
        assert_equals(index, expected, encoder)
        assert sorted(p.name for p in (path / "segments").iterdir()) == [
            f"{index.snapshot().segments[0].segment_id:06d}"
        ]


def test_compaction_gives_room_and_deleted_texts_back_while_the_index_stays_open(path: Path) -> None:
    rows = [np.ones((1, 8), np.float32)] * 200
    with Index.create(path, dim=8) as index:
        index.add_embeddings(
            [str(i) for i in range(200)], rows, texts=[f"secret {i} " * 50 for i in range(200)]
        )
        index.delete([str(i) for i in range(1, 200)])
        before = index.info()["bytes"]["database"]
        index.compact()
        assert index.info()["bytes"]["database"] < before / 2
        on_disk = b"".join(file.read_bytes() for file in path.glob("index.db*"))
    assert b"secret 0 secret 0" in on_disk
    assert b"secret 7 secret 7" not in on_disk


@pytest.mark.slow
def test_compaction_retrains_what_was_outgrown(path: Path) -> None:
    random = np.random.default_rng(0)

    def vectors(n: int) -> TokenEmbeddings:
        x = random.standard_normal((n * 10, DIM)).astype(np.float32)
        return TokenEmbeddings(x / np.linalg.norm(x, axis=1, keepdims=True), np.arange(n + 1) * 10)

    with Index.create(path, dim=DIM, flat_tokens=300) as index:
        index.add_embeddings([f"a{i}" for i in range(30)], vectors(30))
        assert index.snapshot().codec is not None
        assert index.snapshot().codec.nlist == 32
        index.add_embeddings([f"b{i}" for i in range(970)], vectors(970))
        assert (
            32 < index.snapshot().codec.nlist <= 256
        )  # centroids for what is new, while ids keep their one byte
        before = contents(index)
        index.compact()
        assert index.snapshot().codec.nlist == 1024
        assert sorted(p.name for p in path.glob("codec-*")) == ["codec-3.faiss"]
        after = contents(index)
        assert after.keys() == before.keys()
        error = np.mean([np.square(after[k][2] - before[k][2]).sum(axis=1).mean() for k in before])
        assert error < 0.05
        index.verify()


def described(n: int, first: int, ids: int) -> tuple[list[str], TokenEmbeddings]:
    """n passages of ten tokens, each near the place of its id; the ids are drawn from `first` on."""
    random = np.random.default_rng([first, n])
    token_ids = random.integers(first, first + ids, n * 10)
    places = np.random.default_rng(7).standard_normal((1000, 32))
    x = places[token_ids] + 0.3 * random.standard_normal((n * 10, 32))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{first}-{i}" for i in range(n)]
    return names, TokenEmbeddings(x, np.arange(n + 1) * 10, 0, token_ids)


def ids_of(index: Index) -> Any:
    """The vocabulary id of each live token, as the index knows it."""
    now = index.snapshot()
    known = []
    for segment, live in zip(now.segments, now.lives, strict=True):
        ids = segment.token_ids(slice(None), now.codec)
        assert ids is not None
        known.append(ids[np.repeat(live, np.diff(segment.offsets))])
    return np.concatenate(known)


@pytest.mark.slow
def test_token_ids_outlive_merging_training_growth_and_compaction(path: Path) -> None:
    names, given = described(60, 0, 20)
    ids = given.token_ids
    assert ids is not None
    with Index.create(path, dim=32, flat_tokens=600) as index:
        for i in range(0, 58, 2):  # small segments, merged while flat
            index.add_embeddings(
                names[i : i + 2],
                TokenEmbeddings(
                    given.vectors[i * 10 : i * 10 + 20], np.arange(3) * 10, 0, ids[i * 10 : i * 10 + 20]
                ),
            )
        np.testing.assert_array_equal(ids_of(index), ids[:580])
        assert index.info()["bytes"]["token_ids"] > 580 * 4
        index.delete(names[:1])
        index.compact()
        np.testing.assert_array_equal(ids_of(index), ids[10:580])
        assert index.snapshot().codec is None

        index.add_embeddings(
            names[58:], TokenEmbeddings(given.vectors[580:], np.arange(3) * 10, 0, ids[580:])
        )
        index.add_embeddings(["more"], TokenEmbeddings(given.vectors[:10], np.array([0, 10]), 0, ids[:10]))
        trained = index.snapshot().codec
        assert trained is not None
        assert trained.owners is not None
        assert sorted(p.name for p in path.glob("codec-*")) == ["codec-1.faiss", "codec-1.owners.npy"]
        assert not list(path.glob("segments/*/token_ids.npy"))
        expected = np.concatenate([ids[10:], ids[:10]])
        np.testing.assert_array_equal(ids_of(index), expected)

        # Words that the codec has never seen get centroids of their own.
        later, new = described(400, 500, 20)
        index.add_embeddings(later, new)
        grown = index.snapshot().codec
        assert grown is not None
        assert grown.owners is not None
        assert grown.nlist > trained.nlist
        np.testing.assert_array_equal(grown.owners.tokens[: trained.nlist], trained.owners.tokens)
        assert set(grown.owners.tokens[trained.nlist :].tolist()) <= set(range(500, 520))
        expected = np.concatenate([expected, new.token_ids])
        assert (ids_of(index) == expected).mean() > 0.99

        before = contents(index)
        index.add_embeddings(*described(2000, 100, 20))
        index.compact()
        outgrown = index.snapshot().codec
        assert outgrown is not None
        assert outgrown.owners is not None
        assert outgrown.nlist > grown.nlist
        found = index.snapshot().state.codec
        assert sorted(p.name for p in path.glob("codec-*")) == [found, found.replace(".faiss", ".owners.npy")]
        after = contents(index)
        assert (
            max(np.square(after[k][2] - before[k][2]).sum(axis=1).mean() for k in before if k in later) < 0.1
        )
        assert (ids_of(index)[: len(expected)] == expected).mean() > 0.99
        index.verify()
        # Vectors without ids find their centroids among all.
        index.add_embeddings(["bare"], [new.vectors[:10]])
        np.testing.assert_allclose(contents(index)["bare"][2], new.vectors[:10], rtol=0, atol=0.4)
        last = contents(index)
    with Index.open(path) as again:
        for name, (_, _, vectors) in contents(again).items():
            np.testing.assert_array_equal(vectors, last[name][2])
        codec = again.snapshot().state.codec
    (path / codec.replace(".faiss", ".owners.npy")).unlink()
    with pytest.raises(IndexFormatError, match=r"owners\.npy"):
        Index.open(path)


@pytest.mark.slow
def test_few_tokens_with_ids_among_many_without_change_nothing(tmp_path: Path) -> None:
    names, given = described(60, 0, 20)
    decoded = []
    for with_ids in (0, 10, 40):
        with Index.create(tmp_path / str(with_ids), dim=32, flat_tokens=600) as index:
            ids = np.where(np.arange(600) < 10 * with_ids, given.token_ids, NO_ID)
            index.add_embeddings(names, TokenEmbeddings(given.vectors, given.offsets, 0, ids))
            codec = index.snapshot().codec
            assert codec is not None
            assert (codec.owners is not None) == (with_ids == 40)
            decoded.append(np.concatenate([contents(index)[name][2] for name in names]))
    np.testing.assert_array_equal(decoded[0], decoded[1])
    assert np.square(decoded[2] - given.vectors).sum(axis=1).mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("windows", [False, True])
def test_an_encoders_token_ids_are_used(path: Path, windows: bool) -> None:
    encoder = FakeEncoder(DIM, gives_ids=True, windows=windows)
    docs = corpus(120, words=12) + [
        record(i, " ".join(WORDS * (8 if windows else 5))) for i in range(120, 125)
    ]
    with Index.create(path, encoder, flat_tokens=300, commit_tokens=150, segment_tokens=400) as index:
        index.add(docs[:-3])
        index.add(docs, encode=False)
        index.encode()
        codec = index.snapshot().codec
        assert codec is not None
        assert codec.owners is not None
        assert_equals(index, {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}, encoder)
        words = {encoder.token_id(word) for word in WORDS}
        assert set(ids_of(index).tolist()) == words
        index.verify()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(3, np.int64), r"token_ids has shape \(3,\) of int64; pass \(2,\) integers"),
        (np.zeros(2), r"token_ids has shape \(2,\) of float64; pass \(2,\) integers"),
        (
            np.array([0, -2]),
            "token_ids run from -2 to 0; pass ids of a vocabulary, from 0 up, or -1 for none",
        ),
        (np.array([1 << 31, 0]), "token_ids run from 0 to 2147483648"),
    ],
)
def test_token_ids_that_cannot_be_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TokenEmbeddings(np.zeros((2, DIM), np.float32), np.array([0, 2]), 0, ids)


@pytest.mark.slow
def test_vectors_are_kept_well_however_the_corpus_arrived(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    themes = random.standard_normal((40, 32))
    x = themes[random.integers(0, 40, 4000)] + 0.5 * random.standard_normal((4000, 32))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    names = [f"d{i}" for i in range(400)]
    errors = []
    for steps in (1, 20):
        with Index.create(tmp_path / str(steps), dim=32, flat_tokens=1000) as index:
            for part in np.array_split(np.arange(400), steps):
                own = x[part[0] * 10 : part[-1] * 10 + 10]
                index.add_embeddings(
                    [names[i] for i in part], TokenEmbeddings(own, np.arange(len(part) + 1) * 10)
                )
            index.compact()
            found = contents(index)
        decoded = np.concatenate([found[name][2] for name in names])
        errors.append(float(np.square(decoded - x).sum(axis=1).mean()))
    assert max(errors) < 0.01  # of a squared length of 1


# Against a model --------------------------------------------------------------------------------------------

operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=20)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 30), max_size=8)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(operations)
def test_any_history_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("history") / "docs.index"
    encoder = FakeEncoder(DIM)
    model: dict[str, tuple[str, dict[str, Any]]] = {}
    index = Index.create(path, encoder, flat_tokens=256, commit_tokens=60, segment_tokens=300)
    reader = Index.open(path)
    with ExitStack() as stack:
        stack.callback(reader.close)
        stack.callback(lambda: index.close())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(indexing.writing.rewriting, "SMALL_SEGMENTS", 2)
        patch.setattr("indexing.writing.records.BATCH_RECORDS", 4)
        # Every word is there from the start: a codec that never saw one would code it badly, and a few tokens
        # are no reason for a centroid of their own.
        everything = record(99, " ".join(WORDS))
        index.add([everything])
        model[everything["doc_id"]] = everything["text"], everything["metadata"]
        reader.reload()
        for operation, argument in history:
            seen = contents(reader)
            if operation == "add":
                docs = [record(i, " ".join(WORDS[(v * k) % 12] for k in range(v)), v=v) for i, v in argument]
                index.add(docs)
                model |= {d["doc_id"]: (d["text"], d["metadata"]) for d in docs}
            elif operation == "delete":
                doc_ids = {f"d{i}" for i in argument}
                assert index.delete(doc_ids) == len(doc_ids & model.keys())
                model = {k: v for k, v in model.items() if k not in doc_ids}
            elif operation == "compact":
                index.compact()
                assert all(live.all() for live in index.snapshot().lives)
            else:
                index.close()
                index = Index.open(path, encoder, writable=True)
            # The reader's snapshot has not moved, though the files under it may be gone.
            again = contents(reader)
            assert {k: v[:2] for k, v in again.items()} == {k: v[:2] for k, v in seen.items()}
            assert all(np.array_equal(again[k][2], seen[k][2]) for k in seen)
            assert_equals(index, model, FakeEncoder(DIM))
            reader.reload()
            assert_equals(reader, model, FakeEncoder(DIM))
        index.verify()


# Opening ----------------------------------------------------------------------------------------------------


def test_what_is_no_encoder_says_how_to_load_one(path: Path, encoder: FakeEncoder) -> None:
    with pytest.raises(ArgumentError, match=r"encoder is 'x' \(str\); pass Encoder.load\('x'\)"):
        Index.create(path, "x")  # type: ignore[arg-type]
    assert not path.exists()
    Index.create(path, encoder).close()
    for wrong in ("x", 5):
        with pytest.raises(ArgumentError, match=f"encoder is {wrong!r} .*; pass "):
            Index.open(path, wrong, writable=True)  # type: ignore[arg-type]


def test_one_writer(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        index.add([record(0, "w1")])
        with pytest.raises(
            IndexLockedError, match=rf"docs\.index is being written by process {os.getpid()} on"
        ):
            Index.open(path, writable=True)
        with pytest.raises(IndexLockedError):
            Index.create(path, encoder)
        with Index.open(path) as reader:
            assert len(reader) == 1
    with pytest.raises(ArgumentError, match="not open for writing"):
        index.add([])
    Index.open(path, writable=True).close()


def test_create_is_refused_where_something_is(path: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    Index.create(path, encoder).close()
    with pytest.raises(
        ArgumentError, match=r"is an index already; use Index\.open\(path, writable=True\), or pass"
    ):
        Index.create(path, encoder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="file is a file; pass another path"):
        Index.create(tmp_path / "file", encoder)
    with pytest.raises(ArgumentError, match="is not empty; pass a new path"):
        Index.create(tmp_path, encoder)
    with pytest.raises(ArgumentError, match="pass an encoder, or dim="):
        Index.create(tmp_path / "new")
    with pytest.raises(ArgumentError, match="pass an encoder, or dim="):
        Index.create(tmp_path / "new", encoder, dim=8)
    with pytest.raises(ArgumentError, match="flat_tokens=0; pass flat_tokens >= 1"):
        Index.create(tmp_path / "new", encoder, flat_tokens=0)
    for size in (11, 133):
        with pytest.raises(ArgumentError, match=f"bytes_per_token={size}; pass 12 to 132, as 20, 32 or 48"):
            Index.create(tmp_path / "new", dim=8, bytes_per_token=size)
    assert not (tmp_path / "new").exists()
    with pytest.raises(
        IndexFormatError, match=r"is not an index \(it has no index\.db\); `latewood index` or"
    ):
        Index.open(tmp_path)
    with pytest.raises(IndexFormatError, match="nowhere does not exist; pass the folder of an index"):
        Index.open(tmp_path / "nowhere")


def test_another_encoder_is_refused(path: Path, encoder: FakeEncoder) -> None:
    Index.create(path, encoder).close()
    other = FakeEncoder(DIM, name="other", seed=1)
    with pytest.raises(
        EncoderMismatchError, match=r"made by encoder 'fake' .* not 'other' .* build a new index"
    ):
        Index.open(path, other, writable=True)
    Index.open(path, encoder, writable=True).close()  # the refusal has let go of the lock


@pytest.mark.parametrize("given", [{"memory": "1GB"}, {"device": "cpu"}])
def test_what_is_of_writing_is_refused_to_a_reader(path: Path, encoder: FakeEncoder, given: Any) -> None:
    Index.create(path, encoder).close()
    with pytest.raises(ArgumentError, match=r"is of writing; pass writable=True, or leave it out to read"):
        Index.open(path, **given)
    Index.open(path, encoder, writable=True, **given).close()


def test_unknown_settings_are_refused(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        value = json.dumps({**asdict(index.settings), "colour": 1})
    db = sqlite3.connect(path / "index.db")
    db.execute("UPDATE settings SET value = ? WHERE key = 'index'", [value])
    db.commit()
    db.close()
    with pytest.raises(IndexFormatError, match=r"unknown settings \['colour'\]; upgrade Latewood"):
        Index.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codec-1.faiss", "codes.faiss", "offsets.npy", "lists.npz"])
def test_damaged_files_are_named(path: Path, encoder: FakeEncoder, name: str) -> None:
    with Index.create(path, encoder, flat_tokens=300) as index:
        index.add(corpus(40))
        index.verify()
    file = next(path.rglob(name))
    good = file.read_bytes()
    changed = bytearray(good)
    changed[-9] ^= 1
    file.write_bytes(changed)
    with pytest.raises(IndexFormatError, match=rf"{name} is damaged"):  # some damage shows at opening
        Index.open(path).verify()
    file.write_bytes(good[:-1])
    with pytest.raises(
        IndexFormatError, match=rf"{name} has {len(good) - 1} bytes, {len(good)} were written"
    ):
        Index.open(path)
    file.unlink()
    with pytest.raises(IndexFormatError, match=f"{name} is missing"):
        Index.open(path)


def test_a_reader_that_meets_a_compaction_takes_the_newer_snapshot(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(path, encoder) as writer:
        writer.add(corpus(3))
        writer.delete(["d0"])
        reads = Snapshot._open_files
        calls = []

        def compacts_first(snapshot: Snapshot, previous: Snapshot | None) -> None:
            calls.append(1)
            if len(calls) == 1:
                monkeypatch.undo()
                writer.compact()
            reads(snapshot, previous)

        monkeypatch.setattr(Snapshot, "_open_files", compacts_first)
        with Index.open(path) as reader:
            assert contents(reader).keys() == {"d1", "d2"}


def test_delete_takes_a_list(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder) as index:
        index.add(corpus(3))
        with pytest.raises(ArgumentError, match="doc_ids is the string 'd1'; pass a list"):
            index.delete("d1")
        assert index.delete(["d1", "d1", "unknown"]) == 1
        assert index.delete(["d1"]) == 0
        assert contents(index).keys() == {"d0", "d2"}
        assert index.add(corpus(3)).added == 1


@pytest.mark.slow
def test_an_emptied_index_goes_on(path: Path, encoder: FakeEncoder) -> None:
    with Index.create(path, encoder, flat_tokens=300) as index:
        index.compact()
        index.add(corpus(40))
        index.delete([f"d{i}" for i in range(40)])
        index.compact()
        assert (len(index), index.n_tokens, index.snapshot().segments) == (0, 0, ())
        assert index.info()["bytes_per_token"] == 0
        index.add(corpus(2))
        assert len(index) == 2


@pytest.mark.slow
def test_a_length_given_as_it_is_by_default_encodes_nothing_again(path: Path) -> None:
    plain = Encoder.load()
    docs = [{"doc_id": f"d{i}", "text": f"text number {i}"} for i in range(3)]
    with Index.create(path, plain) as index:
        index.add(docs)
    same = Encoder.load(document_length=plain.document_length, skiplist_words=[], pool_factor=1)
    for encoder, report in (
        (same, AddReport(unchanged=3)),
        (Encoder.load(document_length=64), AddReport(replaced=3)),
    ):
        with Index.open(path, encoder, writable=True) as index:
            found = index.add(docs)
        assert (found.unchanged, found.replaced) == (report.unchanged, report.replaced)
