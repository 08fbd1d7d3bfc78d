"""Residual MaxSim as a Triton kernel, one program a passage. Tested under Triton's interpreter."""

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor

from encoder.errors import MissingDependencyError

__all__ = ["residual_maxsim"]

BLOCK_TOKENS, BLOCK_QUERY = 64, 32

AVAILABLE = importlib.util.find_spec("triton") is not None
if AVAILABLE:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def _residual_maxsim(
        centroids: Any,
        residuals: Any,
        scales: Any,
        ids: Any,
        codes: Any,
        offsets: Any,
        passages: Any,
        norms: Any,
        out: Any,
        n_query: Any,
        m: Any,
        code_bytes: Any,
        sharpness: Any,
        whole: Any,
        slope: Any,
        sharp: tl.constexpr,
        block_tokens: tl.constexpr,
        block_query: tl.constexpr,
    ) -> None:
        program = tl.program_id(0)
        passage = tl.load(passages + program)
        start, stop = tl.load(offsets + passage), tl.load(offsets + passage + 1)
        total = 0.0
        for first in range(0, n_query, block_query):
            lanes = first + tl.arange(0, block_query)
            asked = lanes < n_query
            best = tl.full((block_query,), float("-inf"), tl.float32)
            for at in range(start, stop, block_tokens):
                tokens = at + tl.arange(0, block_tokens)
                there = tokens < stop
                both = there[:, None] & asked[None, :]
                centroid = tl.load(ids + tokens, mask=there, other=0).to(tl.int64)
                score = tl.load(
                    centroids + centroid[:, None] * n_query + lanes[None, :], mask=both, other=0.0
                )
                for part in range(m):
                    code = tl.load(codes + tokens * code_bytes + part, mask=there, other=0).to(tl.int64)
                    row = (part * 256 + code[:, None]) * n_query
                    score += tl.load(residuals + row + lanes[None, :], mask=both, other=0.0)
                last = tl.load(codes + tokens * code_bytes + code_bytes - 1, mask=there, other=0).to(tl.int64)
                score *= tl.load(scales + last)[:, None]
                score = tl.where(both, score, float("-inf"))
                best = tl.maximum(best, tl.max(score, axis=0))
            if sharp:  # encoder.maxsim.sharpened
                norm = tl.load(norms + lanes, mask=asked, other=1.0)
                cosine = best / tl.maximum(norm, 1e-30)
                within = tl.minimum(cosine, 1.0)
                grown = (tl.exp(sharpness * within) - 1.0) / whole
                best = norm * (grown + (cosine - within) * slope)
            total += tl.sum(tl.where(asked, best, 0.0), axis=0)
        total = tl.where(stop > start, total, float("-inf"))
        tl.store(out + program, total)


def residual_maxsim(
    centroids: Tensor,
    residuals: Tensor,
    scales: Tensor,
    ids: Tensor,
    codes: Tensor,
    offsets: Tensor,
    passages: Tensor,
    norms: Tensor,
    sharpness: float = 0.0,
) -> Tensor:
    """As torch_codes.residual_scores. Raises MissingDependencyError without triton."""
    if not AVAILABLE:
        raise MissingDependencyError("triton is not installed; run: pip install triton")
    whole = math.expm1(sharpness) if sharpness else 1.0
    out = torch.empty(len(passages), dtype=torch.float32, device=ids.device)
    if len(passages):
        _residual_maxsim[(len(passages),)](
            centroids.contiguous(),
            residuals.contiguous(),
            scales,
            ids,
            codes,
            offsets,
            passages,
            norms.contiguous(),
            out,
            centroids.shape[1],
            residuals.shape[0],
            codes.shape[1],
            float(sharpness),
            whole,
            sharpness * (1 + 1 / whole),
            sharp=sharpness > 0,
            block_tokens=BLOCK_TOKENS,
            block_query=BLOCK_QUERY,
        )
    return out
