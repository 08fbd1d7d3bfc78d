"""ModernBERT and its Dense head without torch: what `encoder.model.modernbert` computes, by numpy and numba.

The layout is the same: tokens of all sequences end to end, nothing padded. Matrix products are numpy's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.compiling import compiled_with
from encoder.model.config import DenseConfig, EncoderConfig

__all__ = ["LightModel"]

Floats = npt.NDArray[np.float32]
Dense = tuple[DenseConfig, Mapping[str, Floats]]

# Sums in any order, which is what vector registers need. No value here is NaN.
VECTORS = ("reassoc", "contract", "nsz", "nnan", "arcp")
kernel = compiled_with(VECTORS)

SCORES = 1 << 20  # of attention held at a time, where a sequence is long: 4 MiB
LEAST_ROWS = 64  # of queries that meet the keys of a long sequence together
DENSE_WINDOWS = 4  # up to so many windows a local layer's product is made whole
ROWS = 256  # of the MLP at a time, so that what lies between its two products stays in the cache


class LightModel:
    """weights, head: float32, named as Hugging Face does; shapes as `EncoderConfig.shapes` and `DenseConfig.shapes`."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Floats], head: Sequence[Dense]) -> None:
        self.config = config
        self.weights = weights
        self.head = list(head)
        self._no_bias = np.zeros(config.hidden_size, np.float32)
        self._tables: dict[float, tuple[Floats, Floats]] = {}

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
        x: Floats = self.weights["embeddings.tok_embeddings.weight"][tokens]  # (T, d)
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
            theta = config.global_rope_theta if everywhere else config.local_rope_theta
            heads = qkv.reshape(len(x), 3, config.num_heads, config.head_dim)
            _rotate(heads, positions, *self._rope(theta, max(lengths)))
            attend(heads, attended, runs, None if everywhere else config.local_window)
            x += self._linear(f"{at}.attn.Wo", attended.reshape(x.shape), normed)
            self._norm(f"{at}.mlp_norm", x, normed)
            for start in range(0, len(x), ROWS):
                rows = normed[start : start + ROWS]
                x[start : start + ROWS] += self._linear(
                    f"{at}.mlp.Wo", _geglu(self._linear(f"{at}.mlp.Wi", rows))
                )
        self._norm("final_norm", x, x)
        return x

    def _linear(self, name: str, x: Floats, out: Floats | None = None) -> Floats:
        result: Floats = np.matmul(x, self.weights[f"{name}.weight"].T, out=out)
        if (bias := self.weights.get(f"{name}.bias")) is not None:
            result += bias
        return result

    def _norm(self, name: str, x: Floats, out: Floats) -> None:
        bias = self.weights.get(f"{name}.bias", self._no_bias)
        _layer_norm(x, self.weights[f"{name}.weight"], bias, np.float32(self.config.norm_eps), out)

    def _rope(self, theta: float, length: int) -> tuple[Floats, Floats]:
        """cos and sin of the angles of at least so many positions: (positions, head_dim / 2) each."""
        if theta not in self._tables or len(self._tables[theta][0]) < length:
            exponent = np.arange(0, self.config.head_dim, 2, dtype=np.float32) / np.float32(
                self.config.head_dim
            )
            n_positions = 1 << (length - 1).bit_length()
            turns = np.float32(1) / np.float32(theta) ** exponent
            angles = np.arange(n_positions, dtype=np.float32)[:, None] * turns
            self._tables[theta] = np.cos(angles), np.sin(angles)
        return self._tables[theta]


def attend(qkv: Floats, out: Floats, runs: Sequence[tuple[int, int, int]], window: int | None) -> None:
    """softmax(Q K^T / sqrt(D)) V within each sequence, as `encoder.model.attention.varlen_attention`.

    qkv: (total_tokens, 3, heads, head_dim). out: (total_tokens, heads, head_dim). runs: (count, length, n_keys) of
    neighbouring sequences that are alike. window: a token sees |i - j| <= window; None for all of its sequence.
    """
    _, _, heads, head_dim = qkv.shape
    scale = np.float32(1 / math.sqrt(head_dim))
    start = 0
    for count, length, n_keys in runs:
        stop = start + count * length
        rows = qkv[start:stop].reshape(count, length, 3, heads, head_dim)
        q, k, v = rows.transpose(2, 0, 3, 1, 4)  # (n, H, L, D) each
        result = out[start:stop].reshape(count, length, heads, head_dim).transpose(0, 2, 1, 3)
        sight = length if window is None else window
        if length <= DENSE_WINDOWS * sight and count * heads * length * n_keys <= SCORES:
            step = length
        elif window is None:
            step = max(LEAST_ROWS, SCORES // (count * heads * n_keys))
        else:
            step = window
        sighted = min(length, n_keys + sight)  # beyond the last key's window nothing is in sight
        result[:, :, sighted:] = 0
        for first in range(0, sighted, step):
            last = min(first + step, sighted)
            near, far = max(0, first - sight), min(n_keys, last + sight)
            scores = np.matmul(q[:, :, first:last], k[:, :, near:far].swapaxes(2, 3))  # (n, H, rows, keys)
            _softmax(scores.reshape(-1, last - first, far - near), first - near, sight, scale)
            np.matmul(scores, v[:, :, near:far], out=result[:, :, first:last])
        start = stop


# Kernels ----------------------------------------------------------------------------------------------------


@kernel
def _layer_norm(x: Floats, weight: Floats, bias: Floats, eps: Any, out: Floats) -> None:
    n, width = x.shape
    for t in range(n):
        total = np.float32(0)
        for i in range(width):
            total += x[t, i]
        mean = total / np.float32(width)
        squares = np.float32(0)
        for i in range(width):
            squares += (x[t, i] - mean) * (x[t, i] - mean)
        scale = np.float32(1) / np.sqrt(squares / np.float32(width) + eps)
        for i in range(width):
            out[t, i] = (x[t, i] - mean) * scale * weight[i] + bias[i]


@kernel
def _rotate(qkv: Floats, positions: npt.NDArray[np.int64], cos: Floats, sin: Floats) -> None:
    """Rotary embedding (Su et al. 2021) of queries and keys, where they lie; pairs are (i, i + D / 2)."""
    n, _, heads, head_dim = qkv.shape
    half = head_dim // 2
    for t in range(n):
        c, s = cos[positions[t]], sin[positions[t]]
        for part in range(2):
            for head in range(heads):
                row = qkv[t, part, head]
                for i in range(half):
                    first, second = row[i], row[half + i]
                    row[i] = first * c[i] - second * s[i]
                    row[half + i] = second * c[i] + first * s[i]


@kernel
def _exp(x: Any) -> Any:
    """e^x for x <= 0, to about a unit in the last place (Cephes' expf), in a form that fills vector registers."""
    x = max(x, np.float32(-87))  # below it the result is no normal number
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * r * r + r + np.float32(1)) * power


@kernel
def _softmax(scores: Floats, offset: int, window: int, scale: Any) -> None:
    """In place, of each row's keys in sight; the others get 0. Row i stands at key i + offset."""
    n, rows, keys = scores.shape
    for a in range(n):
        for i in range(rows):
            first, last = max(0, i + offset - window), min(keys, i + offset + window + 1)
            row = scores[a, i]
            most = np.float32(-3e38)
            for j in range(first, last):
                most = row[j] if row[j] > most else most
            total = np.float32(0)
            for j in range(first, last):
                value = _exp((row[j] - most) * scale)
                row[j] = value
                total += value
            share = np.float32(1) / total
            for j in range(first, last):
                row[j] *= share
            row[:first] = 0
            row[last:] = 0


@kernel
def _geglu(x: Floats) -> Floats:
    """(n, 2 width): the first half is activated by GELU, the second gates it. Returns (n, width).

    erf is Eigen's rational approximation, right to about a unit in the last place of float32.
    """
    n, width = x.shape[0], x.shape[1] // 2
    out = np.empty((n, width), np.float32)
    for t in range(n):
        for i in range(width):
            a = x[t, i]
            z = min(max(a * np.float32(0.70710678), np.float32(-4)), np.float32(4))
            s = z * z
            p = np.float32(-2.72614225801306e-10)
            p = p * s + np.float32(2.77068142495902e-08)
            p = p * s + np.float32(-2.10102402082508e-06)
            p = p * s + np.float32(-5.69250639462346e-05)
            p = p * s + np.float32(-7.34990630326855e-04)
            p = p * s + np.float32(-2.95459980854025e-03)
            p = p * s + np.float32(-1.60960333262415e-02)
            q = np.float32(-1.45660718464996e-05)
            q = q * s + np.float32(-2.13374055278905e-04)
            q = q * s + np.float32(-1.68282697438203e-03)
            q = q * s + np.float32(-7.37332916720468e-03)
            q = q * s + np.float32(-1.42647390514189e-02)
            out[t, i] = np.float32(0.5) * a * (np.float32(1) + z * p / q) * x[t, width + i]
    return out


# The head -------------------------------------------------------------------------------------------------


def _dense(x: Floats, config: DenseConfig, weights: Mapping[str, Floats]) -> Floats:
    """As `encoder.model.late_interaction.Dense`."""
    linear: Floats = x @ weights["linear.weight"].T
    if config.bias:
        linear += weights["linear.bias"]
    out = ACTIVATE[config.activation](linear)
    if config.use_residual:
        out = out + (x @ weights["residual.weight"].T if "residual.weight" in weights else x)
    return out


def _sigmoid(x: Floats) -> Floats:
    out: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return out


# By DenseConfig.activation.
ACTIVATE: dict[str, Callable[[Floats], Floats]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "GELU": lambda x: _geglu(np.concatenate([x, np.ones_like(x)], axis=1)),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
}
