from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.errors import ArgumentError
from encoder.maxsim import maxsim


def plain_maxsim(query, passages):
    """The definition, in loops."""
    scores = []
    for passage in passages:
        total = 0.0 if len(passage) else -np.inf
        for q in query:
            total += max((float(np.dot(q, d)) for d in passage), default=-np.inf)
        scores.append(total)
    return scores


@given(
    lengths=st.lists(st.integers(0, 5), max_size=6),
    n_query=st.integers(0, 4),
    sign=st.sampled_from([-1.0, 1.0, 0.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(lengths, n_query, sign, seed):
    """sign -1: every similarity negative, where a zero in place of -inf would win; 0: both signs."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((sum(lengths), 8)).astype(np.float32)
    query = random.standard_normal((n_query, 8)).astype(np.float32)
    if sign:
        rows, query = np.abs(rows), sign * np.abs(query)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    passages = [rows[a:b] for a, b in pairwise(offsets)]
    ours = maxsim(torch.from_numpy(query), torch.from_numpy(rows), torch.from_numpy(offsets))
    np.testing.assert_allclose(ours.numpy(), plain_maxsim(query, passages), atol=1e-5)


def test_gradient_reaches_the_best_token_only():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], requires_grad=True)
    maxsim(torch.tensor([[1.0, 0.0]]), vectors, torch.tensor([0, 2, 3])).sum().backward()
    assert vectors.grad.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]


def test_refuses_another_dimension():
    with pytest.raises(ArgumentError, match="one dim"):
        maxsim(torch.zeros(1, 3), torch.zeros(1, 4), torch.tensor([0, 1]))
