import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.errors import ArgumentError
from encoder.model.packing import length_sorted_batches, pack


@given(lengths=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 100))
def test_batches_hold_every_index_once_within_the_budget(lengths, budget):
    batches = list(length_sorted_batches(lengths, budget))
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget
    flat = [lengths[i] for b in batches for i in b]
    assert flat == sorted(flat, reverse=True)


def test_pack_lays_sequences_end_to_end():
    batch = pack([[7, 8, 9], [5], [6, 4]])
    assert batch.input_ids.tolist() == [7, 8, 9, 5, 6, 4]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.n_keys == batch.lengths == (3, 1, 2)


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_to_encode_is_refused(sequences):
    with pytest.raises(ArgumentError, match="cannot be packed"):
        pack(sequences)
