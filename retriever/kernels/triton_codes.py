"""Residual MaxSim as a Triton kernel, one program a passage. How it is tested: docs/search.md, "On a device"."""

import importlib.util
import math
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from encoder.errors import MissingDependencyError

__all__ = ["residual_maxsim"]

BLOCK_TOKENS, BLOCK_QUERY = 64, 32
ROW = 16  # floats; Triton reads rows of a multiple of it in wide loads

AVAILABLE = importlib.util.find_spec("triton") is not None
if AVAILABLE:
    import triton
    import triton.language as tl

    # Triton evaluates annotations of parameters, and fails on names such as Any: those that are tensors have none.
    @triton.jit  # type: ignore[untyped-decorator]
    def _residual_maxsim(  # type: ignore[no-untyped-def]
        centroids,
        residuals,
        scales,
        ids,
        codes,
        offsets,
        passages,
        norms,
        out,
        n_query,
        m,
        code_bytes,
        sharpness,
        whole,
        slope,
        sharp: tl.constexpr,
        block_tokens: tl.constexpr,
        block_query: tl.constexpr,
    ):
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
    # Query tokens of zeros add 0 to a score, and rows of whole vectors are read in a quarter of the loads.
    spare = -centroids.shape[1] % ROW
    centroids, residuals, norms = (F.pad(table, (0, spare)) for table in (centroids, residuals, norms))
    # Triton launches on torch's current device, whichever the tensors are on.
    with torch.cuda.device(ids.device) if ids.is_cuda else nullcontext():
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
                enable_fp_fusion=True,  # said, for releases of Triton differ in what they take unsaid
            )
    return out
