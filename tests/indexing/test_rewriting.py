"""What a codec is trained on."""

import numpy as np
import pytest

from encoder import TokenEmbeddings
from indexing import Index
from indexing.coding.sizes import sample_size
from indexing.writing.rewriting import ENDS, by_doc_id, sample

FIRST, INSIDE, LAST, ALONE, DEAD = np.eye(8, dtype=np.float32)[:5]


def passage(length):
    if length < 2:
        return np.tile(ALONE, (length, 1))
    return np.stack([FIRST, *[INSIDE] * (length - 2), LAST])


@pytest.mark.slow
@pytest.mark.parametrize("most", [1 << 20, 5000, 100])
def test_first_and_last_tokens_are_a_twentieth_of_the_sample(tmp_path, most):
    """Of live passages in two segments; one passage has no token, one has one, and a dead one is never drawn."""
    with Index.create(tmp_path / "x", dim=8, flat_tokens=10**6) as index:
        for part in range(2):
            rows = [passage(n) for n in (0, 1, *[300] * 40)] + [np.tile(DEAD, (3000, 1))]
            names = [f"{part}-{i}" for i in range(len(rows))]
            index.add_embeddings(names, TokenEmbeddings.from_list(rows, 8))
            index.delete(names[-1:])
        now = index.snapshot()
        segments, lives, order = now.segments, now.lives, by_doc_id(now)
        assert len(lives) == 2
        drawn, ids = sample(segments, lives, None, order, 0, most)
        again, _ = sample(segments, lives, None, order, 0, most)
    assert ids is None
    total = 2 * (1 + 40 * 300)
    n = min(sample_size(total), most)
    assert len(drawn) == (n if n < total else min(n + int(ENDS * n), most))
    np.testing.assert_array_equal(drawn, again)
    first, inside, last, alone, dead = (
        (drawn == kind).all(axis=1).sum() for kind in (FIRST, INSIDE, LAST, ALONE, DEAD)
    )
    assert dead == 0
    assert first + inside + last + alone == len(drawn)
    ends = first + last + alone
    # A twentieth is drawn, and what comes by chance among the others.
    assert ENDS * len(drawn) - 1 <= ends <= (ENDS + 0.01) * len(drawn) + 5
    assert abs(first - last) <= 0.2 * ends + 3


def test_an_index_of_one_token_passages_can_be_sampled(tmp_path):
    with Index.create(tmp_path / "x", dim=8, flat_tokens=10**6) as index:
        index.add_embeddings([str(i) for i in range(400)], TokenEmbeddings.from_list([passage(1)] * 400, 8))
        now = index.snapshot()
        segments, lives, order = now.segments, now.lives, by_doc_id(now)
        assert sample(segments, lives, None, order, 0, 1 << 20)[0].shape == (420, 8)
        assert sample(segments, lives, None, order, 0, 410)[0].shape == (410, 8)
        assert sample(segments, lives, None, order, 0, 300)[0].shape == (300, 8)
        nothing = [np.zeros_like(live) for live in lives]
        assert sample(segments, nothing, None, order, 0, 1 << 20)[0].shape == (0, 8)


def test_tokens_of_the_rarest_ids_are_all_in_the_sample(tmp_path):
    """In two segments, one of whose passages is dead: what it has does not count."""
    random = np.random.default_rng(0)
    with Index.create(tmp_path / "x", dim=8, flat_tokens=10**6) as index:
        for part in range(2):
            ids = random.integers(0, 20, 20_000)
            ids[200:20_000:100] = 1000 + np.arange(198) % 66  # three times here, and three times there
            ids[:100] = 5000 + part  # ten times ten
            ids[100:200] = 9999
            rows = np.eye(8, dtype=np.float32)[ids % 8]
            names = [f"{part}-{i}" for i in range(200)]
            index.add_embeddings(names, TokenEmbeddings(rows, np.arange(201) * 100, 0, ids))
            index.delete(names[1:2])
        now = index.snapshot()
        segments, lives, order = now.segments, now.lives, by_doc_id(now)
        vectors, drawn = sample(segments, lives, None, order, 0, 10_000)
        few_vectors, few = sample(segments, lives, None, order, 0, 2000)
    assert len(vectors) == len(drawn) <= 10_000
    np.testing.assert_array_equal(vectors, np.eye(8, dtype=np.float32)[drawn % 8])
    kinds, counts = np.unique(drawn, return_counts=True)
    known = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    assert all(known[i] >= 6 for i in range(1000, 1066))
    assert 9999 not in known
    assert known[5000] < 100
    # Where there is little room they take an eighth of it.
    assert len(few) == len(few_vectors) <= 2000
    assert 250 <= ((few >= 1000) & (few < 1066)).sum() < 300
