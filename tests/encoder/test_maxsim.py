import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.errors import ArgumentError
from encoder.maxsim import check_sharpness, maxsim, maxsim_arrays, sharpened, sharpened_array


def counted(best, norm, sharpness):
    cosine = best / norm
    if sharpness == 0 or not math.isfinite(best):
        return best
    slope = sharpness * math.exp(sharpness) / (math.exp(sharpness) - 1)  # at 1
    grown = (math.exp(sharpness * min(cosine, 1)) - 1) / (math.exp(sharpness) - 1)
    return norm * (grown + slope * max(cosine - 1, 0))


def plain_maxsim(query, passages, sharpness=0.0):
    """The definition, in loops."""
    scores = []
    for passage in passages:
        total = 0.0 if len(passage) else -np.inf
        for q in query:
            best = max((float(np.dot(q, d)) for d in passage), default=-np.inf)
            total += counted(best, float(np.linalg.norm(q)), sharpness)
        scores.append(total)
    return scores


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(0, 5), max_size=6),
    n_query=st.integers(0, 4),
    sign=st.sampled_from([-1.0, 1.0, 0.0]),
    sharpness=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(lengths, n_query, sign, sharpness, seed):
    """sign -1: every similarity negative, where a zero in place of -inf would win; 0: both signs."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((sum(lengths), 8)).astype(np.float32)
    query = random.standard_normal((n_query, 8)).astype(np.float32)
    if sign:
        rows, query = np.abs(rows), sign * np.abs(query)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    passages = [rows[a:b] for a, b in pairwise(offsets)]
    ours = maxsim(torch.from_numpy(query), torch.from_numpy(rows), torch.from_numpy(offsets), sharpness)
    np.testing.assert_allclose(ours.numpy(), plain_maxsim(query, passages, sharpness), rtol=1e-5, atol=1e-5)


def test_sharpness_keeps_nothing_and_all_and_prefers_the_near():
    norms = torch.tensor([0.5, 2.0])
    for sharpness in (0.0, 1e-4, 2.0, 20.0):
        ends = sharpened(torch.stack([torch.zeros(2), norms]), norms, sharpness)
        torch.testing.assert_close(ends, torch.stack([torch.zeros(2), norms]))
    # One token found and one missed, or two half found: the same sum of cosines.
    one, halves = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    unit = torch.ones(2)
    assert sharpened(one, unit, 0.0).sum() == pytest.approx(float(sharpened(halves, unit, 0.0).sum()))
    assert sharpened(one, unit, 2.0).sum() > sharpened(halves, unit, 2.0).sum() + 0.1
    assert (sharpened(torch.linspace(-2, 4, 200), torch.ones(1), 2.0).diff() > 0).all()
    torch.testing.assert_close(sharpened(one, unit, 1e-4), one, atol=1e-4, rtol=0)
    assert sharpened(torch.zeros(1), torch.zeros(1), 2.0).tolist() == [0.0]  # a vector of zeros


@pytest.mark.parametrize("wrong", [-0.1, 20.5, float("nan"), float("inf"), "2", True, None])
def test_refuses_a_sharpness_that_is_none(wrong):
    with pytest.raises(ArgumentError, match="sharpness"):
        check_sharpness(wrong)


def test_gradient_reaches_the_best_token_only():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], requires_grad=True)
    maxsim(torch.tensor([[1.0, 0.0]]), vectors, torch.tensor([0, 2, 3])).sum().backward()
    assert vectors.grad.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]


def test_refuses_another_dimension():
    with pytest.raises(ArgumentError, match="one dim"):
        maxsim(torch.zeros(1, 3), torch.zeros(1, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize("sharpness", [0.0, 2.5, 20.0])
def test_numpy_counts_as_torch_does(sharpness):
    rng = np.random.default_rng(0)
    best, norms = rng.normal(size=(7, 5)).astype(np.float32) * 2, rng.random(5, np.float32)
    norms[0] = best[:, 0] = 0  # a token of weight 0
    theirs = sharpened(torch.from_numpy(best), torch.from_numpy(norms), sharpness).numpy()
    np.testing.assert_allclose(sharpened_array(best, norms, sharpness), theirs, rtol=1e-5, atol=1e-6)
    query, vectors = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 20))
    for lengths in ([0, 3, 0, 0, 16, 1, 0], [20], [0, 0], []):
        for rows in (5, 0):
            offsets = np.cumsum([0, *lengths], dtype=np.int64)
            given = query[:rows], vectors[: offsets[-1]], offsets
            theirs = maxsim(*map(torch.from_numpy, given), sharpness).numpy()
            ours = maxsim_arrays(*given, sharpness)
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
