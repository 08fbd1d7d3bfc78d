"""Residual MaxSim as a Triton kernel, a program a passage and query. Its tests: docs/internals/search.md."""

import importlib.util
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from encoder.errors import MissingDependencyError

if TYPE_CHECKING:
    from retriever.kernels.torch_codes import Codes, Scan, Tables

__all__ = ["residual_maxsim"]

ROW = 16  # floats; Triton reads rows of a multiple of it in wide loads

AVAILABLE = importlib.util.find_spec("triton") is not None
if AVAILABLE:
    import triton
    import triton.language as tl

    BLOCK_TOKENS, BLOCK_QUERY = tl.constexpr(64), tl.constexpr(32)

    # Triton evaluates annotations of parameters, and fails on names such as Any: they have none. Those but `out` are
    # tuples; worth: or None; curve: sharpness, e^s - 1 and the slope at a cosine of 1, or None.
    @triton.jit
    def _residual_maxsim(tables, stored, asked_for, out, sizes, curve):  # type: ignore[no-untyped-def]
        centroids, residuals, scales, norms = tables
        ids, codes, offsets = stored
        passages, worth = asked_for
        n_query, width, m, code_bytes, n_passages = sizes
        program, query = tl.program_id(0), tl.program_id(1).to(tl.int64)
        passage = tl.load(passages + program)
        start, stop = tl.load(offsets + passage), tl.load(offsets + passage + 1)
        place = query * n_passages + program
        if worth is not None:  # what is not has no tokens to be scored
            stop = tl.where(tl.load(worth + place) != 0, stop, start)
        column = query * n_query
        total = 0.0
        for first in range(0, n_query, BLOCK_QUERY):
            lanes = first + tl.arange(0, BLOCK_QUERY)
            asked = lanes < n_query
            best = tl.full((BLOCK_QUERY,), float("-inf"), tl.float32)
            for at in range(start, stop, BLOCK_TOKENS):
                tokens = at + tl.arange(0, BLOCK_TOKENS)
                there = tokens < stop
                both = there[:, None] & asked[None, :]
                centroid = tl.load(ids + tokens, mask=there, other=0).to(tl.int64)
                score = tl.load(
                    centroids + centroid[:, None] * width + column + lanes[None, :], mask=both, other=0.0
                )
                residual = tl.zeros((BLOCK_TOKENS, BLOCK_QUERY), tl.float32)
                for part in range(m):
                    code = tl.load(codes + tokens * code_bytes + part, mask=there, other=0).to(tl.int64)
                    row = (part * 256 + code[:, None]) * width + column
                    residual += tl.load(residuals + row + lanes[None, :], mask=both, other=0.0)
                last = tl.load(codes + tokens * code_bytes + code_bytes - 1, mask=there, other=0).to(tl.int64)
                score += residual * tl.load(scales + 2 * last + 1)[:, None]
                score *= tl.load(scales + 2 * last)[:, None]
                score = tl.where(both, score, float("-inf"))
                best = tl.maximum(best, tl.max(score, axis=0))
            if curve is not None:  # encoder.maxsim.sharpened
                sharpness, whole, slope = curve
                norm = tl.load(norms + column + lanes, mask=asked, other=1.0)
                cosine = best / tl.maximum(norm, 1e-30)
                within = tl.minimum(cosine, 1.0)
                grown = (tl.exp(sharpness * within) - 1.0) / whole
                best = norm * (grown + (cosine - within) * slope)
            total += tl.sum(tl.where(asked, best, 0.0), axis=0)
        total = tl.where(stop > start, total, float("-inf"))
        tl.store(out + place, total)


def residual_maxsim(tables: "Tables", stored: "Codes", scan: "Scan", worth: Tensor | None = None) -> Tensor:
    """As torch_codes.residual_scores. Raises MissingDependencyError without triton 3.3."""
    if not (AVAILABLE and hasattr(tl, "tuple")):  # older releases take no tuples as arguments
        raise MissingDependencyError("triton 3.3 or newer is not installed; run: pip install 'triton>=3.3'")
    sharpness, curve = tables.sharpness, None
    if sharpness:
        whole = math.expm1(sharpness)
        curve = (float(sharpness), whole, sharpness * (1 + 1 / whole))
    ids, batch = stored.ids, len(tables.norms)
    out = torch.empty(batch, len(scan), dtype=torch.float32, device=ids.device)
    # Query tokens of zeros add 0 to a score, and rows of whole vectors are read in a quarter of the loads.
    spare = -tables.norms.shape[1] % ROW
    centroids, residuals, norms = (
        F.pad(table, (0, spare)).contiguous() for table in (tables.centroids, tables.residuals, tables.norms)
    )
    n_query = norms.shape[1]
    sizes = (n_query, batch * n_query, len(residuals), stored.codes.shape[1], len(scan))
    # Triton launches on torch's current device, whichever the tensors are on.
    with torch.cuda.device(ids.device) if ids.is_cuda else nullcontext():
        if out.numel():
            _residual_maxsim[(len(scan), batch)](
                (centroids, residuals, tables.scales.contiguous(), norms),
                tuple(stored),
                (scan.passages, None if worth is None else worth.contiguous().view(torch.uint8)),
                out,
                sizes,
                curve,
                enable_fp_fusion=True,  # said, for releases of Triton differ in what they take unsaid
            )
    return out
