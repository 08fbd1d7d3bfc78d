"""Documents inside the index: windows, texts first, replacement in one commit, and a model in plain Python."""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.writing.rewriting
from encoder.errors import ArgumentError, IndexFormatError
from indexing import AddReport, Index, Snapshot
from indexing.reading.windows import Windows
from retriever import Hits, Scoring, Searcher
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, bm25, fusion, passages, record, stored

PLAIN = Scoring(idf=False, sharpness=0.0)
LENGTH = 6  # words that the encoder of these tests reads
QUERY = "w1 w5 w7"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs.index"


@pytest.fixture
def encoder() -> FakeEncoder:
    return new_encoder()


def new_encoder() -> FakeEncoder:
    return FakeEncoder(DIM, document_length=LENGTH, windows=True)


def words(n: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, n))


# Against a model --------------------------------------------------------------------------------------------

numbers = st.integers(0, 9)
documents = st.lists(st.tuples(numbers, st.integers(0, 20), st.integers(0, 3)), max_size=6)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), documents),
        st.tuples(st.just("add later"), documents),
        st.tuples(st.just("own vectors"), documents),
        st.tuples(st.just("delete"), st.lists(numbers, max_size=4)),
        st.tuples(st.just("delete by filter"), st.integers(0, 3)),
        st.tuples(st.just("rename"), st.permutations(range(10)).map(lambda order: order[:4])),
        st.tuples(st.just("metadata"), st.lists(numbers, max_size=4)),
        st.tuples(st.just("encode"), st.none() | st.lists(numbers, max_size=4)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("hold"), st.none()),
    ),
    max_size=10,
)
Parts = list[tuple[tuple[int, int], npt.NDArray[np.float32]]]


class Model:
    """What an index must hold: doc_id → [what decides its vectors, text, metadata, passages or None], in order."""

    def __init__(self) -> None:
        self.encoder = new_encoder()
        self.windows = Windows(self.encoder.tokenizer, LENGTH, 0)
        self.documents: dict[str, list[Any]] = {}

    def parts(self, text: str) -> Parts:
        spans = Windows.chosen(self.encoder.tokenizer, "auto").spans(text)  # type: ignore[union-attr]
        return [((a, b), self.vectors(text[a:b])) for a, b in spans]

    def vectors(self, text: str) -> npt.NDArray[np.float32]:
        return np.array([self.encoder.word(word) for word in text.split()], np.float32).reshape(-1, DIM)

    def put(self, doc: dict[str, Any], key: str, parts: Parts | None) -> None:
        old = self.documents.get(doc["doc_id"])
        if old is not None and old[0] == key:
            old[2] = doc["metadata"]
        else:
            self.documents.pop(doc["doc_id"], None)
            self.documents[doc["doc_id"]] = [key, doc["text"], doc["metadata"], parts]

    def encode(self, doc_ids: list[str] | None = None) -> None:
        for doc_id, document in self.documents.items():
            if document[3] is None and (doc_ids is None or doc_id in doc_ids):
                document[3] = self.parts(document[1])

    def late(self, decoded: dict[str, Parts]) -> dict[tuple[str, tuple[int, int]], float]:
        """Brute-force MaxSim with each passage, on the vectors as they are stored."""
        query = self.vectors(QUERY)
        return {
            (doc_id, span): float((query @ vectors.T).max(axis=1).sum()) if len(vectors) else -np.inf
            for doc_id, own in decoded.items()
            for span, vectors in own
        }

    def lexical(self) -> list[tuple[str, float]]:
        texts = {doc_id: document[1] for doc_id, document in self.documents.items()}
        found = bm25(QUERY, {doc_id: text for doc_id, text in texts.items() if text is not None})
        return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def apply(index: Index, model: Model, operation: str, argument: Any) -> None:
    known = model.documents
    if operation in ("add", "add later"):
        later = operation == "add later"
        docs = [record(i, words(n, seed), n=seed) for i, n, seed in argument]
        index.add(docs, encode=not later)
        for doc in docs:
            model.put(doc, f"text {doc['text']}", None)
        if not later:
            model.encode()
    elif operation == "own vectors":
        docs = [record(i, words(n, seed + 5) if seed else None, n=seed) for i, n, seed in argument]  # type: ignore
        own = [words(n // 2, seed + 9) for _, n, seed in argument]
        index.add_embeddings(
            [doc["doc_id"] for doc in docs],
            [model.vectors(text) for text in own],
            [doc["text"] for doc in docs],
            [doc["metadata"] for doc in docs],
        )
        for doc, text in zip(docs, own, strict=True):
            span = 0, len(doc["text"] or "")
            model.put(doc, f"own {text} {doc['text']}", [(span, model.vectors(text))])
    elif operation in ("delete", "delete by filter"):
        if operation == "delete":
            gone = {f"d{i}" for i in argument} & known.keys()
            assert index.delete([f"d{i}" for i in argument]) == len(gone)
        else:
            gone = {doc_id for doc_id, doc in known.items() if doc[2].get("n") == argument}
            assert index.delete(filter=f"n = {argument}") == len(gone)
        model.documents = {k: v for k, v in known.items() if k not in gone}
    elif operation == "rename":
        names = [f"d{i}" for i in argument]
        renamed = {old: new for old, new in zip(names, [*names[1:], names[0]], strict=True) if old in known}
        assert index.rename(renamed) == len(renamed)
        model.documents = {renamed.get(k, k): v for k, v in known.items()}
    elif operation == "metadata":
        metadata = {f"d{i}": {"n": i % 4, "é": [i]} for i in argument if f"d{i}" in known}
        changed = sum(known[k][2] != v for k, v in metadata.items())
        assert index.update_metadata(metadata) == changed
        for doc_id, value in metadata.items():
            known[doc_id][2] = value
    elif operation == "encode":
        named = None if argument is None else [f"d{i}" for i in argument]
        index.encode(named)
        model.encode(named)
    elif operation == "compact":
        index.compact()
        assert all(live.all() for live in index.snapshot().lives)


def check(index: Index, searcher: Searcher, model: Model) -> None:
    known = model.documents
    assert list(index.ids()) == list(known)
    assert [(d.doc_id, d.text, d.metadata) for d in index] == [(k, *v[1:3]) for k, v in known.items()]
    names = [f"d{i}" for i in range(10)]
    assert [d and (d.text, d.metadata) for d in index.get(names)] == [
        tuple(known[name][1:3]) if name in known else None for name in names
    ]
    assert index.n_unencoded == sum(doc[3] is None for doc in known.values())
    decoded = passages(index)
    assert decoded.keys() == {doc_id for doc_id, doc in known.items() if doc[3] is not None}
    for doc_id, own in decoded.items():
        assert [span for span, _ in own] == [span for span, _ in known[doc_id][3]]
        for (_, found), (_, expected) in zip(own, known[doc_id][3], strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-2)
    with index.snapshot() as now:
        for n in range(4):
            selected = now.select(f"n = {n}")
            assert selected.documents is not None
            expected = {doc_id for doc_id, doc in known.items() if doc[2].get("n") == n}
            assert set(now.doc_ids(selected.documents.tolist()).values()) == expected
    assert_searches(searcher, model, decoded)


def in_order(scored: Iterable[tuple[str, float]]) -> list[str]:
    """Best first. Sums of the same scores in another order may differ in their last digits: those are equal."""
    return [doc_id for doc_id, _ in sorted(scored, key=lambda pair: (-float(f"{pair[1]:.9g}"), pair[0]))]


def assert_searches(searcher: Searcher, model: Model, decoded: dict[str, Parts]) -> None:
    lexical = searcher.search(QUERY, k=50, mode="lexical")
    expected = model.lexical()
    assert in_order((hit.doc_id, hit.score) for hit in lexical) == in_order(expected)
    np.testing.assert_allclose([hit.score for hit in lexical], [s for _, s in expected], rtol=1e-6)
    if not decoded:
        if model.documents:
            with pytest.raises(ArgumentError, match=r"run index\.encode\(\)"):
                searcher.search(QUERY, mode="late")
        return
    scores = model.late(decoded)
    by_passage = searcher.search(QUERY, k=200, by="passage")
    assert len(by_passage) == len(scores)
    owned: dict[str, list[float]] = {}
    for (doc_id, _), score in scores.items():
        owned.setdefault(doc_id, []).append(score)
    found: dict[str, list[float]] = {}
    for hit in by_passage:
        found.setdefault(hit.doc_id, []).append(hit.score)
        if hit.passage is not None:
            assert hit.score == pytest.approx(scores[hit.doc_id, hit.passage.span], abs=1e-3)
    for doc_id, own in owned.items():
        np.testing.assert_allclose(found[doc_id], sorted(own, reverse=True), atol=1e-3)
    late = searcher.search(QUERY, k=50, mode="late")
    assert late.unencoded == len(model.documents) - len(decoded)
    assert sorted(hit.doc_id for hit in late) == sorted(owned)
    for hits in (late, by_passage):
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    for hit in late:
        assert hit.score == pytest.approx(max(owned[hit.doc_id]), abs=1e-3)
        if hit.passage is not None:
            assert scores[hit.doc_id, hit.passage.span] == pytest.approx(hit.score, abs=1e-3)
    # Where little is looked at, a search still comes back with k documents, none twice, none better than it is.
    few = searcher.search(QUERY, k=2, mode="late", nprobe=1, ncandidates=2, nrerank=2)
    assert len({hit.doc_id for hit in few}) == len(few) == min(2, len(decoded))
    assert all(hit.score <= max(owned[hit.doc_id]) + 1e-3 for hit in few)
    for n in range(4):
        some = searcher.search(QUERY, k=50, mode="late", filter=f"n = {n}")
        assert [h.doc_id for h in some] == [h.doc_id for h in late if h.metadata.get("n") == n]
    hybrid = searcher.search(QUERY, k=50, mode="hybrid")
    assert_fused(hybrid, {hit.doc_id: hit.score for hit in late}, dict(expected))


def assert_fused(hybrid: Hits, late: dict[str, float], lexical: dict[str, float]) -> None:
    """Of what is not encoded, the n-th by words counts as near as the n-th by late."""
    nearest = sorted((score for score in late.values() if np.isfinite(score)), reverse=True)
    if not nearest:
        return
    ranks = sorted(lexical.values(), reverse=True)
    counted = {doc_id: max(score, nearest[-1]) for doc_id, score in late.items()} | {
        doc_id: nearest[min(sum(other > score * (1 + 1e-9) for other in ranks), len(nearest) - 1)]
        for doc_id, score in lexical.items()
        if doc_id not in late
    }
    scores = fusion(counted, lexical, QUERY)
    assert sorted(hit.doc_id for hit in hybrid) == sorted(scores)
    np.testing.assert_allclose(
        [hit.score for hit in hybrid], sorted(scores.values(), reverse=True), rtol=1e-6
    )
    for hit in hybrid:
        assert hit.score == pytest.approx(scores[hit.doc_id], rel=1e-6)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(operations, st.sampled_from([256, 10**6]))
def test_any_history_equals_a_model(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]], flat_tokens: int
) -> None:
    path = tmp_path_factory.mktemp("history") / "docs.index"
    model, encoder = Model(), new_encoder()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(os, "fsync", lambda descriptor: None)  # no power cut here, and many commits
        patch.setattr(indexing.writing.rewriting, "SMALL_SEGMENTS", 2)
        patch.setattr("indexing.writing.records.BATCH_RECORDS", 4)
        limits: dict[str, Any] = {"flat_tokens": flat_tokens, "commit_tokens": 40, "segment_tokens": 400}
        index = Index.create(path, encoder, **limits)
        stack.callback(lambda: index.close())
        # Enough for a codec, of every word: one that never saw a word would code it badly.
        first = [record(20 + i, " ".join(WORDS[i:] + WORDS[:i]), n=9) for i in range(11)]
        first.append(record(31, " ".join(WORDS * 12), n=9))
        index.add(first)
        for doc in first:
            model.put(doc, f"text {doc['text']}", model.parts(doc["text"]))
        searcher = stack.enter_context(Searcher.open(path, encoder, scoring=PLAIN))
        held: list[tuple[Snapshot, Any]] = []
        for operation, argument in history:
            if operation == "reopen":
                index.close()
                index = Index.open(path, encoder, writable=True)
            elif operation == "hold":
                held.append((stack.enter_context(index.snapshot()), stored(index)))
            else:
                apply(index, model, operation, argument)
            searcher.reload()
            check(index, searcher, model)
            for snapshot, state in held:
                assert stored(snapshot) == state
        index.verify()


# Texts first, long texts, names that look like windows -------------------------------------------------------


@pytest.mark.slow
def test_the_last_tenth_of_a_long_text_is_found_first(path: Path) -> None:
    """40,000 words, each a token, read 512 at a time, among 200 documents; with nothing but add."""
    encoder = FakeEncoder(32, document_length=512, windows=True)
    random = np.random.default_rng(0)
    vocabulary = [f"word{i}" for i in range(500)]
    long = list(random.choice(vocabulary, 40_000))
    sentence = "quiet zebras crossed the frozen river at dawn"
    long[38_000:38_000] = sentence.split()
    text = " ".join(long)
    docs = [{"doc_id": f"d{i}", "text": " ".join(random.choice(vocabulary, 30))} for i in range(199)]
    with Index.create(path, encoder) as index:
        report = index.add([*docs[:100], {"doc_id": "long", "text": text}, *docs[100:]])
        assert (report.added, report.truncated, len(index)) == (200, 0, 200)
        assert index.n_passages == report.passages > 199 + 40_000 // 512
        assert index["long"].text == text
    with Searcher.open(path, encoder) as searcher:
        hits = searcher.search(sentence, k=200)
        assert hits[0].doc_id == "long"
        passage = hits[0].passage
        assert passage is not None
        start, end = passage.span
        assert sentence in text[start:end] == passage.text
        assert start > 0.85 * len(text)
        assert len({hit.doc_id for hit in hits}) == len(hits) == 200


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=4), st.permutations(["a", "a#0", "a#1", "a#2"]))
def test_names_that_look_like_windows_are_names(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], order: list[str]
) -> None:
    texts = {
        doc_id: " ".join([f"only{i}", *WORDS * 3][: n + 1])
        for i, (doc_id, n) in enumerate(zip(["a", "a#0", "a#1", "a#2"], lengths, strict=True))
    }
    encoder = new_encoder()
    with Index.create(tmp_path_factory.mktemp("names") / "x", encoder) as index:
        index.add({"doc_id": doc_id, "text": text} for doc_id, text in texts.items())
        assert list(index.ids()) == list(texts)
        for doc_id in order:
            with Searcher(index, encoder, scoring=PLAIN) as searcher:
                for i, (other, text) in enumerate(texts.items()):
                    for mode in ("late", "lexical", "hybrid"):
                        hits = searcher.search(f"only{i}", k=4, mode=mode)
                        assert len({hit.doc_id for hit in hits}) == len(hits)
                        assert (other in {hit.doc_id for hit in hits}) <= (other in index)
                        if other in index:
                            assert (hits[0].doc_id, hits[0].text) == (other, text)
            assert index.delete([doc_id]) == 1
            assert doc_id not in index
            remaining = order[order.index(doc_id) + 1 :]
            assert set(index.ids()) == set(remaining)
            assert passages(index).keys() == set(remaining)
            with pytest.raises(KeyError, match=f"'{doc_id}'"):
                index[doc_id]


@pytest.mark.slow
def test_texts_first_and_vectors_after_equal_both_at_once(tmp_path: Path, encoder: FakeEncoder) -> None:
    docs = [record(i, words(i, i), n=i) for i in range(30)]
    found = []
    for name in ("at once", "after"):
        with Index.create(tmp_path / name, encoder, flat_tokens=300, seed=3) as index:
            if name == "at once":
                whole = index.add(docs)
            else:
                before = len(encoder.encoded)
                assert index.add(docs, encode=False) == AddReport(added=30)
                assert (len(encoder.encoded), index.n_unencoded, index.n_passages) == (before, 30, 0)
                assert index.add(docs, encode=False) == AddReport(unchanged=30)
                some = index.encode(["d3", "d9", "zz"])
                assert (index.n_unencoded, some.tokens > 0) == (28, True)
                assert index.encode(["d3"]) == AddReport()
                rest = index.encode()
                assert some.tokens + rest.tokens == whole.tokens
                assert some.passages + rest.passages == whole.passages
                assert index.encode() == AddReport()
            assert index.n_unencoded == 0
            index.verify()
            found.append((stored(index), {k: [span for span, _ in v] for k, v in passages(index).items()}))
            for doc_id, own in passages(index).items():
                for (start, end), vectors in own:
                    text = index[doc_id].text or ""
                    expected = [encoder.word(word) for word in text[start:end].split()]
                    np.testing.assert_allclose(vectors, np.reshape(expected, (-1, DIM)), atol=5e-2)
    assert found[0] == found[1]


@pytest.mark.slow
def test_an_encode_that_is_stopped_loses_a_commit_of_vectors_and_no_document(
    path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.writing.records.BATCH_RECORDS", 5)
    docs = [record(i, words(6, i), n=i) for i in range(60)]
    encode, calls = encoder.encode_documents, []

    def breaks(texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return encode(texts)

    with Index.create(path, encoder, commit_tokens=60) as index:
        index.add(docs, encode=False)
        monkeypatch.setattr(encoder, "encode_documents", breaks)
        with pytest.raises(KeyboardInterrupt):
            index.encode()
        made = sum(calls[:7])  # later ones may have begun
        assert made == 35
        kept = 60 - index.n_unencoded
        assert made - 60 / 7 - 5 <= kept <= made  # of a commit: 60 tokens, and the batch that fills it
        assert list(index.ids()) == [f"d{i}" for i in range(60)]
        encoder.encoded.clear()
        index.encode()
        assert len(encoder.encoded) == 60 - kept
        assert index.n_unencoded == 0
        index.verify()


def test_an_index_without_an_encoder_says_what_to_pass(path: Path) -> None:
    with Index.create(path, dim=DIM) as index:
        index.add([record(0, "w1 w2")], encode=False)
        with pytest.raises(ArgumentError, match="created with dim=8 and no encoder; use add_embeddings"):
            index.encode()
        assert index.n_unencoded == 1
        with Searcher(index) as searcher:
            assert [hit.doc_id for hit in searcher.search("w1", mode="lexical")] == ["d0"]


def test_a_folder_of_format_1_gets_one_line(path: Path, encoder: FakeEncoder) -> None:
    Index.create(path, encoder).close()
    db = sqlite3.connect(path / "index.db")
    db.execute("UPDATE settings SET value = '1' WHERE key = 'format_version'")
    db.commit()
    db.close()
    for opened in (
        lambda: Index.open(path),
        lambda: Index.open(path, encoder, writable=True),
        lambda: Searcher.open(path),
        lambda: Snapshot(path),
    ):
        with pytest.raises(IndexFormatError, match=r"built by an older version .*; index again$") as told:
            opened()
        assert "\n" not in str(told.value)
