"""A query's tokens with all centroids, in bytes: the products, their levels, and the best of each block.

A centroid is a row of bytes, a query token one of 16-bit numbers, and a product a sum of integers: what processors
have an instruction for (VPDPWSSD, PMADDWD, SMLAL) that LLVM finds in the loops below. Four times as fast as float32
by BLAS, and the centroids are read as a quarter of the bytes. Where the loops cannot be compiled, plain numba gives
the same numbers.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]

from indexing.coding.centroids import BLOCK, ByteCentroids
from retriever.kernels.compiling import cgutils, compiled, frozen, in_parts, intrinsic, types, usable

__all__ = ["FLOAT_LANES", "extremes", "fill_levels", "multiply"]

FLOAT_LANES = 8  # one AVX2 register; blocks of 16 or 32 take no less time a lane and pad short queries more
MOST_SUM = (1 << 31) // 128 - (1 << 16)  # of a query token's numbers: times a byte it must fit into 32 bits
INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()

Floats = npt.NDArray[np.float32]
# Of n blocks of centroids: products (n * BLOCK, lanes), and the most and the least of each block (n, lanes).
Products: TypeAlias = tuple[Floats, Floats, Floats]


def multiply(query: Floats, centroids: ByteCentroids, products: Products) -> None:
    """query: (lanes, dim), lanes a multiple of FLOAT_LANES. Fills the products, within 2e-5 of the largest, by the
    rounding of the query to 16 bits."""
    blocks, step = centroids.blocks, centroids.span / np.float32(255)
    lanes, dim = query.shape
    scaled = np.zeros((lanes, 2 * blocks.shape[1]), np.float32)
    np.multiply(query, step, out=scaled[:, :dim])
    size = np.abs(scaled)
    unit = np.maximum(size.max(axis=1) / np.float32(32767), size.sum(axis=1) / np.float32(MOST_SUM))
    unit[unit == 0] = 1
    numbers = np.rint(scaled / unit[:, None]).astype(np.int16)
    # (lane blocks, dim / 2, FLOAT_LANES, 2), as the centroids
    numbers = np.ascontiguousarray(
        numbers.reshape(-1, FLOAT_LANES, numbers.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    )
    line = (frozen(unit), frozen(query @ (centroids.low + np.float32(128.5) * step)))
    kernel = usable(_products, _plain_products, _example_products)
    scores, most, least = products

    def work(part: slice) -> None:
        rows = scores[part.start * BLOCK : part.stop * BLOCK]
        kernel(frozen(blocks[part]), frozen(numbers), line, (rows, most[part], least[part]))

    in_parts(work, np.full(len(blocks), BLOCK * dim * lanes // 128))


def extremes(most: Floats, least: Floats) -> tuple[Floats, Floats]:
    """The least and the most of each lane over all blocks: (n, lanes) each → (lanes,) each."""
    low, high = np.full((2, most.shape[1]), np.inf, np.float32)
    high[:] = -np.inf
    _extremes(frozen(most), frozen(least), low, high)
    return low, high


def fill_levels(scores: Floats, low: Floats, up: np.float32, levels: npt.NDArray[np.uint8]) -> None:
    """levels[block, c, lane] = (scores[c, lane] - low[lane]) * up, rounded; 0 to 255 by the caller's low and up.

    scores: (n, lanes), low: (lanes,), levels: (blocks, n, lanes of a block), of which those beyond `lanes` stay.
    """
    usable(_levels, _plain_levels, _example_of_levels)(frozen(scores), frozen(low), up, levels)


# Intrinsics: the argument is a tuple of addresses and counts ---------------------------------------------


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _shuffled(builder: Any, left: Any, right: Any, lanes: Any) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def _interleaved(builder: Any, left: Any, right: Any) -> Any:
    n = left.type.count
    return _shuffled(builder, left, right, [k for i in range(n) for k in (i, n + i)])


def _part(builder: Any, whole: Any, start: int, n: int) -> Any:
    return _shuffled(builder, whole, ir.Constant(whole.type, ir.Undefined), list(range(start, start + n)))


def _splat(builder: Any, value: Any, n: int) -> Any:
    kind = ir.VectorType(value.type, n)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return _shuffled(builder, one, ir.Constant(kind, ir.Undefined), [0] * n)


def _emit_block_products(typing: Any, given: Any) -> Any:
    """BLOCK centroids with FLOAT_LANES query tokens: out[c] of `stride` bytes, and most and least of the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, numbers, pairs, unit, bias, out, stride, most, least = cgutils.unpack_tuple(
            builder, *arguments
        )
        sums = ir.VectorType(INT32, BLOCK)
        wide = ir.VectorType(INT32, 2 * BLOCK)
        totals = [
            cgutils.alloca_once_value(builder, ir.Constant(sums, [0] * BLOCK)) for _ in range(FLOAT_LANES)
        ]
        even, odd = list(range(0, 2 * BLOCK, 2)), list(range(1, 2 * BLOCK, 2))
        with cgutils.for_range(builder, pairs) as loop:
            at = builder.add(block, builder.mul(loop.index, INT64(2 * BLOCK)))
            own = builder.load(_pointer(builder, at, ir.VectorType(INT8, 2 * BLOCK)), align=1)
            own = builder.sext(own, wide)
            at = builder.add(numbers, builder.mul(loop.index, INT64(4 * FLOAT_LANES)))
            for lane, total in enumerate(totals):
                both = builder.load(_pointer(builder, builder.add(at, INT64(4 * lane)), INT32), align=4)
                asked = builder.bitcast(_splat(builder, both, BLOCK), ir.VectorType(INT16, 2 * BLOCK))
                product = builder.mul(own, builder.sext(asked, wide))
                pair = builder.add(
                    _shuffled(builder, product, product, even), _shuffled(builder, product, product, odd)
                )
                builder.store(builder.add(builder.load(total), pair), total)
        columns = []
        for lane, total in enumerate(totals):
            scale, shift = (
                _splat(
                    builder,
                    builder.load(_pointer(builder, builder.add(x, INT64(4 * lane)), FLOAT), align=4),
                    BLOCK,
                )
                for x in (unit, bias)
            )
            value = builder.sitofp(builder.load(total), ir.VectorType(FLOAT, BLOCK))
            columns.append(builder.fadd(builder.fmul(value, scale), shift))
        while len(columns) > 1:  # transposed: lanes 0 and 4, then 0 2 4 6, then all, side by side
            half = len(columns) // 2
            columns = [_interleaved(builder, columns[i], columns[i + half]) for i in range(half)]
        rows = columns[0]
        lanes = ir.VectorType(FLOAT, FLOAT_LANES)
        for c in range(BLOCK):
            row = _part(builder, rows, c * FLOAT_LANES, FLOAT_LANES)
            at = builder.add(out, builder.mul(INT64(c), stride))
            builder.store(row, _pointer(builder, at, lanes), align=4)
        for sign, where in ((">", most), ("<", least)):
            best = rows
            while best.type.count > FLOAT_LANES:
                half = best.type.count // 2
                left, right = _part(builder, best, 0, half), _part(builder, best, half, half)
                best = builder.select(builder.fcmp_ordered(sign, left, right), left, right)
            builder.store(best, _pointer(builder, where, lanes), align=4)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, 9)), generate


_block_products = intrinsic(_emit_block_products)


def _emit_lane_levels(typing: Any, given: Any, up: Any) -> Any:
    """FLOAT_LANES levels of n centroids."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, up = arguments
        scores, stride, n, low, levels, level_stride = cgutils.unpack_tuple(builder, given)
        lanes = ir.VectorType(FLOAT, FLOAT_LANES)
        floor = builder.load(_pointer(builder, low, lanes), align=4)
        factor = _splat(builder, up, FLOAT_LANES)
        half = ir.Constant(lanes, [0.5] * FLOAT_LANES)
        with cgutils.for_range(builder, n) as loop:
            at = builder.add(scores, builder.mul(loop.index, stride))
            value = builder.load(_pointer(builder, at, lanes), align=4)
            value = builder.fadd(builder.fmul(builder.fsub(value, floor), factor), half)
            number = builder.fptosi(value, ir.VectorType(INT32, FLOAT_LANES))
            at = builder.add(levels, builder.mul(loop.index, level_stride))
            kind = ir.VectorType(INT8, FLOAT_LANES)
            builder.store(builder.trunc(number, kind), _pointer(builder, at, kind), align=1)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, 6), types.float32), generate


_lane_levels = intrinsic(_emit_lane_levels)


# Kernels ------------------------------------------------------------------------------------------------


@compiled
def _products(
    blocks: npt.NDArray[np.int8],
    numbers: npt.NDArray[np.int16],
    line: tuple[Floats, Floats],
    products: Products,
) -> None:
    unit, bias = line
    out, most, least = products
    n, pairs = blocks.shape[0], blocks.shape[1]
    lanes = out.shape[1]
    for b in range(n):
        for first in range(0, lanes, FLOAT_LANES):
            given = (
                blocks.ctypes.data + b * pairs * BLOCK * 2,
                numbers.ctypes.data + first * pairs * 4,
                pairs,
                unit.ctypes.data + 4 * first,
                bias.ctypes.data + 4 * first,
                out.ctypes.data + 4 * (b * BLOCK * lanes + first),
                4 * lanes,
                most.ctypes.data + 4 * (b * lanes + first),
                least.ctypes.data + 4 * (b * lanes + first),
            )
            _block_products(given)


@compiled
def _plain_products(
    blocks: npt.NDArray[np.int8],
    numbers: npt.NDArray[np.int16],
    line: tuple[Floats, Floats],
    products: Products,
) -> None:
    unit, bias = line
    out, most, least = products
    n, pairs = blocks.shape[0], blocks.shape[1]
    for b in range(n):
        for q in range(out.shape[1]):
            most[b, q], least[b, q] = -np.inf, np.inf
            for c in range(BLOCK):
                total = np.int32(0)
                for p in range(pairs):
                    for half in range(2):
                        number = np.int32(numbers[q // FLOAT_LANES, p, q % FLOAT_LANES, half])
                        total += np.int32(blocks[b, p, c, half]) * number
                score = np.float32(np.float32(total) * unit[q]) + bias[q]
                out[b * BLOCK + c, q] = score
                most[b, q], least[b, q] = max(most[b, q], score), min(least[b, q], score)


@compiled
def _extremes(most: Floats, least: Floats, low: Floats, high: Floats) -> None:
    # numpy takes ten times as long for few lanes
    for b in range(most.shape[0]):
        for q in range(most.shape[1]):
            low[q] = min(low[q], least[b, q])
            high[q] = max(high[q], most[b, q])


@compiled
def _levels(scores: Floats, low: Floats, up: np.float32, levels: npt.NDArray[np.uint8]) -> None:
    n, lanes = scores.shape
    width = levels.shape[2]
    for first in range(0, lanes, FLOAT_LANES):
        own_levels = levels.ctypes.data + first // width * n * width + first % width
        own_scores, own_low = scores.ctypes.data + 4 * first, low.ctypes.data + 4 * first
        _lane_levels((own_scores, 4 * lanes, n, own_low, own_levels, width), up)


@compiled
def _plain_levels(scores: Floats, low: Floats, up: np.float32, levels: npt.NDArray[np.uint8]) -> None:
    n, lanes = scores.shape
    width = levels.shape[2]
    for c in range(n):
        for q in range(lanes):
            level = np.float32((scores[c, q] - low[q]) * up) + np.float32(0.5)
            levels[q // width, c, q % width] = np.uint8(np.int32(level))


def _example_products() -> tuple[Any, ...]:
    floats = np.zeros((1, FLOAT_LANES), np.float32)
    blocks = frozen(np.zeros((1, 1, BLOCK, 2), np.int8))
    numbers = frozen(np.zeros((1, 1, FLOAT_LANES, 2), np.int16))
    out = np.zeros((BLOCK, FLOAT_LANES), np.float32)
    return blocks, numbers, (frozen(floats[0]), frozen(floats[0])), (out, floats.copy(), floats.copy())


def _example_of_levels() -> tuple[Any, ...]:
    scores = frozen(np.zeros((1, FLOAT_LANES), np.float32))
    return scores, frozen(scores[0]), np.float32(1), np.zeros((1, 1, FLOAT_LANES), np.uint8)
