"""The two passes over stored codes: centroid interaction in bytes, MaxSim in floats.

Both run once over a passage's tokens with one vector register of query lanes. numba leaves such a loop scalar
(43 million tokens/s where this does 900 for centroid interaction), so the loops over tokens are LLVM
intrinsics; where they cannot be compiled, the same in plain numba gives the same numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from retriever.kernels.compiling import compiled, frozen, in_parts
from retriever.kernels.tables import QueryTables

__all__ = ["interaction", "residual_maxsim"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Kernel = Callable[..., None]

I8, I16, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(64), ir.FloatType()


def interaction(tables: QueryTables, codes: Bytes, m: int, offsets: Ints, passages: Ints) -> Floats:
    """MaxSim with every token replaced by its centroid, from the levels of the tables: (n,) float32.

    codes: (n_tokens, id_bytes + m). offsets: (n_passages + 1,). passages: (n,) which of them.
    Within n_query * step / 2 of the sum of exact centroid scores; -inf for a passage without tokens.
    """
    kernel = _kernel(_interaction, _plain_interaction)
    return _run(kernel, (frozen(tables.levels),), tables, codes, m, offsets, passages, tables.floor, tables.step)


def residual_maxsim(tables: QueryTables, codes: Bytes, m: int, offsets: Ints, passages: Ints) -> Floats:
    """Exact MaxSim on the decoded vectors, which are not made: (n,) float32; arguments as `interaction`.

    A token's score is its centroid's plus, for each byte of its residual code, a look-up (Jégou et al. 2011).
    """
    kernel = _kernel(_residual, _plain_residual)
    given = (frozen(tables.centroids), frozen(tables.residuals))
    return _run(kernel, given, tables, codes, m, offsets, passages, 0.0, 1.0)


def _run(
    kernel: Kernel,
    given: tuple[npt.NDArray[Any], ...],
    tables: QueryTables,
    codes: Bytes,
    m: int,
    offsets: Ints,
    passages: Ints,
    floor: float,
    step: float,
) -> Floats:
    codes, offsets, passages = frozen(codes), frozen(offsets), frozen(passages)
    out = np.zeros(len(passages), dtype=np.float32)
    lengths = offsets[passages + 1] - offsets[passages]

    def work(part: slice) -> None:
        kernel(*given, codes, codes.shape[1] - m, offsets, passages[part], floor, step, out[part])

    in_parts(work, lengths * (tables.levels.shape[0] if step != 1.0 else tables.residuals.shape[0]))
    return out
