"""StableAdamW and the schedules against plain references."""

import numpy as np
import pytest
import torch

from encoder.errors import ArgumentError
from encoder.training.optimiser import StableAdamW, batch_size_at, stable_adamw, trapezoid


def reference(parameter, gradients, rates, peak, decay, eps=1e-6, b1=0.9, b2=0.98, clip=True):
    """Algorithm 2 of arXiv 2304.13013 in float64, with Adam's usual bias corrections; decay relative to the peak."""
    p, m, v = parameter.astype(np.float64), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        rms = np.sqrt(np.mean(g * g / np.maximum(v_hat, eps * eps)))
        eta = rate / max(1.0, rms) if clip else rate
        p = p - eta / peak * decay * p - eta * m_hat / (np.sqrt(v_hat) + eps)
    return p


def test_stable_adamw_equals_the_algorithm():
    random = np.random.default_rng(0)
    start = random.normal(size=(4, 5))
    gradients = [random.normal(size=(4, 5)) * (50.0 if t in (6, 11) else 1.0) for t in range(15)]
    rates = [0.1 * min(1.0, (t + 1) / 5) for t in range(15)]
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimiser = StableAdamW([parameter], lr=0.1, weight_decay=0.01)
    optimiser.param_groups[0]["initial_lr"] = 0.1
    for gradient, rate in zip(gradients, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
    expected = reference(start, gradients, rates, 0.1, 0.01)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9)
    # The two outbursts were clipped, or this test would not tell.
    unclipped = reference(start, gradients, rates, 0.1, 0.01, clip=False)
    assert np.abs(unclipped - expected).max() > 1e-2


def test_without_outbursts_it_is_adamw():
    """Gradients of one size in every step: RMS 1, nothing to clip."""
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    own = StableAdamW([parameters[0]], lr=0.01, betas=(0.9, 0.98), eps=1e-6)
    theirs = torch.optim.AdamW([parameters[1]], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    for t in range(10):
        sign = torch.tensor([1.0, -1.0, (-1.0) ** t], dtype=torch.float64)
        for parameter, optimiser in zip(parameters, (own, theirs), strict=True):
            parameter.grad = 0.5 * sign
            optimiser.step()
    torch.testing.assert_close(parameters[0], parameters[1], atol=1e-9, rtol=0)


def test_weights_gradients_and_moments_stay_in_float32_where_products_are_in_bfloat16(monkeypatch):
    from encoder.training import teacher
    from encoder.training.loop import adamw

    monkeypatch.setattr(teacher, "_fast_in_half", lambda device: True)
    model = torch.nn.Linear(8, 8)
    optimiser = adamw(model, lr=0.1, embedding_lr=0.1)
    assert optimiser.defaults["fused"] is True
    with teacher.fast_matmul("cpu"):
        out = model(torch.ones(2, 8))
        assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    optimiser.step()
    for p in model.parameters():
        assert {p.dtype, p.grad.dtype, optimiser.state[p]["exp_avg"].dtype} == {torch.float32}


def test_a_gpu_too_old_for_bfloat16_trains_in_float32_and_says_so_once(monkeypatch):
    from encoder.training import teacher

    monkeypatch.setattr(teacher, "default_precision", lambda device: "fp16")
    teacher._fast_in_half.cache_clear()
    with pytest.warns(RuntimeWarning, match="cuda:3 is too old for bf16; it trains in float32"):
        assert not teacher._fast_in_half(torch.device("cuda:3"))
    assert not teacher._fast_in_half(torch.device("cuda:3"))  # a warning is an error here
    teacher._fast_in_half.cache_clear()


def test_no_decay_on_norms():
    groups = stable_adamw(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)), lr=1.0, weight_decay=0.1
    )
    decays = {p.ndim: g["weight_decay"] for g in groups.param_groups for p in g["params"]}
    assert decays == {2: 0.1, 1: 0.0}


def test_trapezoid():
    rates = [trapezoid(s, total=20, warmup=4, decay=9) for s in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    expected = [0.001 + 0.999 * (1 - (i / 9) ** 0.5) for i in range(1, 10)]
    assert rates[11:] == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0.001)
    assert [trapezoid(s, 3, 0, 0) for s in range(3)] == [1.0] * 3


def test_batch_size_warmup():
    sizes = [batch_size_at(s, 2, 5, 12) for s in range(15)]
    assert sizes == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 6
    # The paper's base: as many steps at each size, up to rounding.
    counts = np.bincount([batch_size_at(s, 768, 4608, 10_000) for s in range(10_000)])[768:]
    assert counts.min() >= 2
    assert counts.max() <= 3
    with pytest.raises(ArgumentError, match="batch_size_start=9 exceeds batch_size=5"):
        batch_size_at(0, 9, 5, 10)
