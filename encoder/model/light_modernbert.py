"""ModernBERT and its Dense head by numpy alone: what `encoder.model.modernbert` computes, where torch is not loaded.

The layout is the same: tokens of all sequences end to end, nothing padded. What lies between matrix products is done
some rows at a time, which stay in the cache while several operations of numpy pass over them.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from encoder.model.config import DenseConfig, EncoderConfig

__all__ = ["LightModel"]

Floats = npt.NDArray[np.float32]
Dense = tuple[DenseConfig, Mapping[str, Floats]]

ROWS = 256  # of the products of an MLP at a time
CACHED = 1 << 15  # numbers that several operations pass over: 128 KiB, of which a few fit into the cache
SCORES = 1 << 18  # of attention at a time, of short sequences together
LONG_ROWS = 128  # queries of one head that meet the keys of a long sequence together
DENSE_WINDOWS = 4  # up to so many windows a local layer's product is made whole


class LightModel:
    """weights, head: float32, token embeddings maybe float16, named as Hugging Face does; shapes as
    `EncoderConfig.shapes` and `DenseConfig.shapes`."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Floats], head: Sequence[Dense]) -> None:
        self.config = config
        self.weights = weights
        self.head = list(head)

    def __call__(self, ids: Sequence[Sequence[int]], n_keys: Sequence[int]) -> Floats:
        """Unit token vectors (total_tokens, dim). n_keys: how many first tokens of each sequence may be attended to."""
        x = self._backbone(ids, n_keys)
        for config, weights in self.head:
            x = _dense(x, config, weights)
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        unit: Floats = x / np.maximum(lengths, np.float32(1e-12))
        return unit

    def _backbone(self, ids: Sequence[Sequence[int]], n_keys: Sequence[int]) -> Floats:
        config = self.config
        tokens = np.concatenate([np.asarray(one, np.int64) for one in ids])
        lengths = [len(one) for one in ids]
        positions = np.concatenate([np.arange(n) for n in lengths])
        runs = [(len(list(same)), *key) for key, same in groupby(zip(lengths, n_keys, strict=True))]
        turns = {
            theta: rope_tables(positions, config.head_dim, theta)
            for theta in (config.global_rope_theta, config.local_rope_theta)
        }
        x: Floats = self.weights["embeddings.tok_embeddings.weight"][tokens]  # (T, d), a copy
        x = x.astype(np.float32, copy=False)
        self._norm("embeddings.norm", x, x)
        normed = np.empty_like(x)
        qkv = np.empty((len(x), 3 * config.hidden_size), np.float32)
        attended = np.empty((len(x), config.num_heads, config.head_dim), np.float32)
        for i in range(config.num_layers):
            at = f"layers.{i}"
            if i:
                self._norm(f"{at}.attn_norm", x, normed)
            self._linear(f"{at}.attn.Wqkv", normed if i else x, qkv)
            everywhere = config.is_global(i)
            heads = qkv.reshape(len(x), 3, config.num_heads, config.head_dim)
            rotate(heads, *turns[config.global_rope_theta if everywhere else config.local_rope_theta])
            attend(heads, attended, runs, None if everywhere else config.local_window)
            x += self._linear(f"{at}.attn.Wo", attended.reshape(x.shape), normed)
            self._norm(f"{at}.mlp_norm", x, normed)
            for start in range(0, len(x), ROWS):
                rows = slice(start, start + ROWS)
                x[rows] += self._linear(f"{at}.mlp.Wo", geglu(self._linear(f"{at}.mlp.Wi", normed[rows])))
        self._norm("final_norm", x, x)
        return x

    def _linear(self, name: str, x: Floats, out: Floats | None = None) -> Floats:
        result: Floats = np.matmul(x, self.weights[f"{name}.weight"].T, out=out)
        if (bias := self.weights.get(f"{name}.bias")) is not None:
            result += bias
        return result

    def _norm(self, name: str, x: Floats, out: Floats) -> None:
        layer_norm(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), self.config.norm_eps, out
        )


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float, out: Floats) -> None:
    """x, out: (T, d); they may be the same."""
    for rows in _blocks(*x.shape):
        y = np.subtract(x[rows], x[rows].mean(1, keepdims=True), out=out[rows])
        variance = np.einsum("ij,ij->i", y, y)[:, None] / np.float32(x.shape[1])
        y /= np.sqrt(variance + np.float32(eps))
        y *= weight
        if bias is not None:
            y += bias


def rope_tables(positions: npt.NDArray[np.int64], head_dim: int, theta: float) -> tuple[Floats, Floats]:
    """cos and sin of every token's angles: (T, 1, 1, head_dim / 2) each."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    turns = np.float32(1) / np.float32(theta) ** exponent
    angles = (np.arange(positions.max() + 1, dtype=np.float32)[:, None] * turns)[:, None, None]
    return np.cos(angles)[positions], np.sin(angles)[positions]


def rotate(qkv: Floats, cos: Floats, sin: Floats) -> None:
    """Rotary embedding (Su et al. 2021) of queries and keys, where they lie; pairs are (i, i + D / 2).
    qkv: (T, 3, H, D)."""
    n, _, heads, head_dim = qkv.shape
    for rows in _blocks(n, 2 * heads * head_dim):
        first, second = np.split(qkv[rows, :2], 2, axis=-1)  # (rows, 2, H, D / 2), views
        c, s = cos[rows], sin[rows]
        turned = first * c
        turned -= second * s
        second *= c
        second += first * s
        first[:] = turned


def attend(qkv: Floats, out: Floats, runs: Sequence[tuple[int, int, int]], window: int | None) -> None:
    """softmax(Q K^T / sqrt(D)) V within each sequence, as `encoder.model.attention.varlen_attention`.

    qkv: (total_tokens, 3, heads, head_dim); queries are scaled where they lie. out: (total_tokens, heads, head_dim).
    runs: (count, length, n_keys) of neighbouring sequences that are alike. window: a token sees |i - j| <= window;
    None for all of its sequence.
    """
    _, _, heads, head_dim = qkv.shape
    qkv[:, 0] *= np.float32(1 / math.sqrt(head_dim))
    start = 0
    for count, length, n_keys in runs:
        sight = length if window is None else window
        sighted = min(length, n_keys + sight)  # beyond the last key's window nothing is in sight
        whole = length <= DENSE_WINDOWS * sight and heads * length * n_keys <= 4 * SCORES
        if whole:
            step, parts = length, [slice(None)]
        elif window is not None:
            step, parts = window, [slice(None)]
        else:
            step, parts = LONG_ROWS, [slice(h, h + 1) for h in range(heads)]
        together = max(1, min(count, SCORES // (heads * length * n_keys))) if whole else 1
        for at in range(0, count, together):
            size = min(together, count - at)
            stop = start + size * length
            rows = qkv[start:stop].reshape(size, length, 3, heads, head_dim)
            result = out[start:stop].reshape(size, length, heads, head_dim).transpose(0, 2, 1, 3)
            result[:, :, sighted:] = 0
            for part in parts:
                q, k, v = rows[:, :, :, part].transpose(2, 0, 3, 1, 4)  # (n, H, L, D) each
                for first in range(0, sighted, step):
                    last = min(first + step, sighted)
                    near, far = max(0, first - sight), min(n_keys, last + sight)
                    scores = np.matmul(q[:, :, first:last], k[:, :, near:far].swapaxes(2, 3))
                    if max(last - near, far - first) > sight + 1:
                        scores += _band(last - first, far - near, first - near, sight)
                    _weigh(scores, v[:, :, near:far], result[:, part, first:last])
            start = stop


def _weigh(scores: Floats, values: Floats, out: Floats) -> None:
    """softmax(scores) @ values; scores are lost. (n, H, rows, keys), (n, H, keys, D) → (n, H, rows, D)."""
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    np.divide(np.matmul(scores, values), scores.sum(-1, keepdims=True), out=out)


@functools.lru_cache(64)
def _band(rows: int, keys: int, offset: int, sight: int) -> Floats:
    """Additive mask (rows, keys): row r, which stands at key r + offset, sees the keys at most `sight` away."""
    apart = np.arange(rows)[:, None] + offset - np.arange(keys)
    return np.where(np.abs(apart) <= sight, np.float32(0), np.float32(-np.inf))


def geglu(x: Floats) -> Floats:
    """(n, 2 width): the first half is activated by GELU, the second gates it. Returns (n, width)."""
    n, width = x.shape[0], x.shape[1] // 2
    out = np.empty((n, width), np.float32)
    for rows in _blocks(n, width):
        np.multiply(gelu(x[rows, :width]), x[rows, width:], out=out[rows])
    return out


# erf(z) = z P(z^2) / Q(z^2) for |z| <= 4, beyond which it is 1: Eigen's coefficients, the highest power first; right to
# about a unit in the last place of float32.
P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def gelu(x: Floats) -> Floats:
    """x (1 + erf(x / sqrt(2))) / 2."""
    z = x * np.float32(math.sqrt(0.5))
    np.clip(z, np.float32(-4), np.float32(4), out=z)
    square = z * z
    result = _polynomial(P, square)
    result *= z
    result /= _polynomial(Q, square)
    result += np.float32(1)
    result *= x
    result *= np.float32(0.5)
    return result


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    total: Floats = x * np.float32(coefficients[0])
    for coefficient in coefficients[1:-1]:
        total += np.float32(coefficient)
        total *= x
    total += np.float32(coefficients[-1])
    return total


def _blocks(n: int, width: int) -> list[slice]:
    """Rows of an (n, width) array that stay in the cache together."""
    rows = max(1, CACHED // width)
    return [slice(start, start + rows) for start in range(0, n, rows)]


# The head ---------------------------------------------------------------------------------------------------


def _sigmoid(x: Floats) -> Floats:
    out: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return out


# By DenseConfig.activation.
ACTIVATE: dict[str, Callable[[Floats], Floats]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "GELU": gelu,
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
}


def _dense(x: Floats, config: DenseConfig, weights: Mapping[str, Floats]) -> Floats:
    """As `encoder.model.late_interaction.Dense`."""
    linear: Floats = x @ weights["linear.weight"].T
    if config.bias:
        linear += weights["linear.bias"]
    out = ACTIVATE[config.activation](linear)
    if config.use_residual:
        out = out + (x @ weights["residual.weight"].T if "residual.weight" in weights else x)
    return out
