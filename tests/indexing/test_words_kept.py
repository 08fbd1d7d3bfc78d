"""Words that a reader takes over from the one before are those that it would read itself."""

import random

import numpy as np
import pytest

from indexing import Index
from indexing.storage import reader as readers
from indexing.storage.fulltext import queried, quoted
from indexing.storage.reader import Reader
from tests.helpers.fakes import FakeEncoder

WORDS = [f"word{i}" for i in range(12)] + ["the", "of", "parseHTTPResponse", "日本語", "日", "naïve"]


def text(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 30)))


def assert_fresh(index, kept):
    """kept says what a reader that takes over nothing says; its words, for the first time."""
    fresh = Reader(kept.path)
    for word in WORDS:
        match = quoted(word)
        assert kept.document_frequency(match) == fresh.document_frequency(match)
        assert np.array_equal(kept.occurrences(match), fresh.occurrences(match))
        assert kept.document_frequency(match) == len(kept.occurrences(match))
    for some in (WORDS, WORDS[:2], []):
        ours, theirs = (one.lexical(queried(" ".join(some))) for one in (kept, fresh))
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    fresh.close()


def changed(index, draw, step):
    """Something of what users do, maybe nothing."""
    ids = draw.sample([f"d{i}" for i in range(40)], draw.randint(1, 5))
    kind = draw.choice(["add", "add", "delete", "metadata", "encode later", "encode", "compact", "nothing"])
    if kind == "add":
        index.add({"doc_id": i, "text": text(draw)} for i in ids)
    elif kind == "delete":
        index.delete([i for i in ids if i in index])
    elif kind == "metadata":
        known = [document for document in index.get(ids) if document is not None]
        index.add({"doc_id": d.doc_id, "text": d.text, "metadata": {"step": step}} for d in known)
    elif kind == "encode later":
        index.add(({"doc_id": i, "text": text(draw)} for i in ids), encode=False)
    elif kind == "encode":
        index.encode()
    elif kind == "compact":
        index.compact()


@pytest.mark.parametrize("seed", range(6))
def test_words_are_taken_over(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(readers, "GONE_KEPT", 20)
    draw = random.Random(seed)
    with Index.create(tmp_path / "i", FakeEncoder()) as index:
        index.add({"doc_id": f"d{i}", "text": text(draw)} for i in range(30))
        kept = Reader(tmp_path / "i" / "index.db")
        asked = 0
        for step in range(40):
            changed(index, draw, step)
            kept, before = Reader(kept.path, kept), kept
            asked += sum(known.generation < kept.state.generation for known in kept._words.words.values())
            some = [quoted(word) for word in draw.sample(WORDS, draw.randint(0, 6))]
            for match in some:  # the others are taken over once more
                assert kept.document_frequency(match) == len(kept.occurrences(match))
            before.close()
            if step % 5 == 4:
                assert_fresh(index, kept)
        assert asked > 50
        kept.close()


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    with Index.create(tmp_path / "i", FakeEncoder()) as index:
        index.add({"doc_id": f"d{i}", "text": "word1 word2"} for i in range(50))
        before = Reader(tmp_path / "i" / "index.db")
        assert len(before.occurrences('"word1"')) == 50
        index.add([{"doc_id": "d3", "text": "word2"}, {"doc_id": "new", "text": "word1 word1"}])
        now = Reader(before.path, before)
        read = []
        monkeypatch.setattr(
            now, "rows", lambda sql, given=(), rows=now.rows: read.append(found := rows(sql, given)) or found
        )
        assert now.document_frequency('"word1"') == 50
        assert sum(map(len, read)) <= 2  # the new document's, and what all texts have
        assert now.occurrences('"word1"')["times"].tolist() == [1] * 49 + [2]
        before.close()
        assert (
            len(Reader(now.path, before).occurrences('"word1"')) == 50
        )  # of one that is closed nothing is taken
        now.close()


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "POSTINGS_KEPT", 100)
    with Index.create(tmp_path / "i", FakeEncoder()) as index:
        index.add({"doc_id": f"d{i}", "text": " ".join(WORDS[: i % 12])} for i in range(120))
        now = Reader(tmp_path / "i" / "index.db")
        for word in WORDS:
            now.lexical([quoted(word)])
        assert 0 < now.memory() <= 24 * 100
        index.delete(["d1"])
        later = Reader(now.path, now)
        assert later.occurrences('"word3"').tolist() == Reader(now.path).occurrences('"word3"').tolist()
        now.close()
        index.delete(["d2"])
        latest = Reader(now.path, later)
        assert set(latest._words.words) <= {'"word3"'}  # others make room
        later.close()
        latest.close()
