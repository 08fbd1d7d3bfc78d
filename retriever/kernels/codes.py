"""The two passes over stored codes: centroid interaction in bytes, MaxSim in 16 bits and floats.

Both go once over a passage's tokens, with the query's tokens side by side in a vector register. numba leaves
such a loop scalar (43 million tokens/s where this does 900), so the loops over tokens are LLVM intrinsics.
Where those cannot be compiled, the same loops in plain numba give the same numbers.

Codes and offsets come from mapped files, which may be damaged: numbers out of range are clamped, as a wrong
score can be lived with and a read outside of memory cannot.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]

from retriever.kernels.compiling import cgutils, compiled, frozen, in_parts, intrinsic, types, usable
from retriever.kernels.tables import BYTE_LANES, RESIDUAL_LANES, QueryTables

__all__ = ["interaction", "residual_maxsim"]

Bytes = npt.NDArray[np.uint8]
# Of a segment: codes (n_tokens, id_bytes + code_bytes), offsets (n_passages + 1,), and which passages (n,).
Part: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Sums = npt.NDArray[np.int32]
Kernel = Callable[..., None]
# levels, gains; and centroids, residuals, residual_steps, scales, norms, sharpness as a curve: of QueryTables
LevelTables: TypeAlias = tuple[Bytes, Sums]
ResidualTables: TypeAlias = tuple[Floats, npt.NDArray[np.int16], Floats, Floats, Floats, Floats]
Rows: TypeAlias = tuple[Ints, int, int, Ints]  # addresses, stride, width of a centroid's id, counts
PlainRows: TypeAlias = tuple[Bytes, int, Ints, Ints]  # codes, width of a centroid's id, firsts, counts

EMPTY = -1  # the sum of levels of a passage without tokens
INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()


def interaction(tables: QueryTables, code_bytes: int, parts: Sequence[Part]) -> Floats:
    """MaxSim with every token replaced by its centroid, from the levels of the tables: (n,) float32, the parts'
    passages one after another.

    Within half a step a query token of the sum of exact centroid scores; -inf for a passage without tokens.
    """
    kernels = (_interaction, _plain_interaction, _example_levels)
    given = (frozen(tables.levels), frozen(tables.gains))
    sums = _each(kernels, given, code_bytes, parts, np.int32, len(tables.levels) * 4)
    scores = (sums * tables.unit + tables.floor).astype(np.float32)
    scores[sums == EMPTY] = -np.inf
    return scores


def residual_maxsim(tables: QueryTables, code_bytes: int, parts: Sequence[Part]) -> Floats:
    """MaxSim on the vectors that the codes decode to, without decoding: (n,) float32; as `interaction`.

    A token's score is its centroid's plus a look-up for each byte of its residual code (Jégou et al. 2011), times
    the gain of the row's last byte, and all times its scale. The look-ups are in 16 bits, so a query token's score is
    within m steps of the exact one (`QueryTables.residual_steps`), times gain and scale.
    """
    kernels = (_residual, _plain_residual, _example_residuals)
    given = (
        tables.centroids,
        tables.residuals,
        tables.residual_steps,
        tables.scales,
        tables.norms,
        _curve(tables.sharpness),
    )
    cost = len(tables.residuals) * code_bytes
    return _each(kernels, tuple(frozen(a) for a in given), code_bytes, parts, np.float32, cost)


def _curve(sharpness: float) -> Floats:
    """What `_counted` needs: the sharpness, 1 / (e^s - 1), and the slope at a cosine of 1."""
    if sharpness == 0:
        return np.zeros(3, np.float32)
    whole = math.expm1(sharpness)
    return np.array([sharpness, 1 / whole, sharpness * (1 + 1 / whole)], dtype=np.float32)


def _each(
    kernels: tuple[Kernel, Kernel, Callable[[], tuple[Any, ...]]],
    given: tuple[npt.NDArray[Any], ...],
    code_bytes: int,
    parts: Sequence[Part],
    kind: Any,
    cost: int,
) -> npt.NDArray[Any]:
    """The kernel's number for every passage. kernels: as `usable` takes them. cost: of a token, in nanoseconds or so.

    The fast kernel takes all parts at once, by the addresses of their rows: an index of 66 segments would otherwise
    wait for Python longer than for the kernel.
    """
    parts = [part for part in parts if len(part[2])]
    out = np.empty(sum(len(passages) for _, _, passages in parts), dtype=kind)
    if not len(out):
        return out
    firsts, counts = [], []
    for codes, offsets, passages in parts:  # np.clip takes ten times as long for few
        start = np.minimum(np.maximum(offsets[passages], 0), len(codes))
        firsts.append(start)
        counts.append(np.minimum(np.maximum(offsets[passages + 1], start), len(codes)) - start)
    kernel = usable(*kernels)
    if kernel is not kernels[0]:
        ends = np.cumsum([0, *map(len, counts)])
        for i, (codes, _, _) in enumerate(parts):
            width = codes.shape[1] - code_bytes
            rows = (frozen(codes), width, frozen(firsts[i]), frozen(counts[i]))
            kernel(given, rows, out[ends[i] : ends[i + 1]])
        return out
    stride = parts[0][0].shape[1]
    places = [codes.ctypes.data + first * stride for (codes, _, _), first in zip(parts, firsts, strict=True)]
    addresses, many = frozen(np.concatenate(places)), frozen(np.concatenate(counts))

    def work(part: slice) -> None:
        kernel(given, (addresses[part], stride, stride - code_bytes, many[part]), out[part])

    in_parts(work, many * cost)
    return out


def _example_levels() -> tuple[Any, ...]:
    levels = frozen(np.zeros((1, 2, max(BYTE_LANES)), np.uint8))
    gains = frozen(np.zeros((1, max(BYTE_LANES), 256), np.int32))
    return (levels, gains), _no_rows(), np.zeros(0, np.int32)


def _example_residuals() -> tuple[Any, ...]:
    lanes = max(RESIDUAL_LANES)
    centroids = frozen(np.zeros((2, lanes), np.float32))
    residuals = frozen(np.zeros((1, 1, 256, lanes), np.int16))
    steps, scales = frozen(np.ones(lanes, np.float32)), frozen(np.ones((256, 2), np.float32))
    curve = frozen(np.zeros(3, np.float32))
    return (centroids, residuals, steps, scales, steps, curve), _no_rows(), np.zeros(0, np.float32)


def _no_rows() -> Rows:
    none = frozen(np.zeros(0, np.int64))
    return none, 2, 1, none


# Intrinsics: the argument is a tuple of addresses and counts ---------------------------------------------


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _centroid_id(builder: Any, row: Any, width: Any, nlist: Any) -> Any:
    """The little-endian number in the first `width` (1 to 3) bytes of a row, which has one more at least."""
    low = builder.zext(builder.load(_pointer(builder, row, INT16), align=1), INT64)
    last = builder.add(row, builder.sub(width, INT64(1)))  # the third byte, if there is one
    high = builder.zext(builder.load(_pointer(builder, last, INT8)), INT64)
    low_mask = builder.select(builder.icmp_signed("==", width, INT64(1)), INT64(0xFF), INT64(0xFFFF))
    high_mask = builder.select(builder.icmp_signed("==", width, INT64(3)), INT64(0xFF0000), INT64(0))
    number = builder.or_(builder.and_(low, low_mask), builder.and_(builder.shl(high, INT64(16)), high_mask))
    greatest = builder.sub(nlist, INT64(1))
    return builder.select(builder.icmp_signed("<", number, greatest), number, greatest)


def _max_levels(width_in_lanes: int) -> Any:
    def emit(typing: Any, numbers: Any) -> Any:
        """best[:lanes] = the byte-wise maximum of levels[centroid] over n code rows; zeros for none."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            levels, nlist, rows, n, stride, width, best = cgutils.unpack_tuple(builder, *arguments)
            lanes = ir.VectorType(INT8, width_in_lanes)
            umax = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(lanes, [lanes, lanes]), f"llvm.umax.v{width_in_lanes}i8"
            )
            most = cgutils.alloca_once_value(builder, ir.Constant(lanes, [0] * width_in_lanes))
            with cgutils.for_range(builder, n) as loop:
                row = builder.add(rows, builder.mul(loop.index, stride))
                centroid = _centroid_id(builder, row, width, nlist)
                at = builder.add(levels, builder.mul(centroid, INT64(width_in_lanes)))
                here = builder.load(_pointer(builder, at, lanes), align=1)
                builder.store(builder.call(umax, [builder.load(most), here]), most)
            builder.store(builder.load(most), _pointer(builder, best, lanes), align=1)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 7)), generate

    return intrinsic(emit)


_max_levels_8, _max_levels_16, _max_levels_32 = (_max_levels(lanes) for lanes in BYTE_LANES)


def _max_residuals(n_lanes: int, known_m: int | None) -> Any:
    """known_m: the number of look-ups a token where it is known, which unrolls them; a multiple of 8. Else eight are
    unrolled, and those that are left over go one by one."""

    def emit(typing: Any, numbers: Any) -> Any:
        """best[:n_lanes] = the maximum of (centroids[centroid] + gain * steps * the sum of residuals[i, byte i]) *
        scale, gain and scale by the last byte, over n code rows."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (centroids, centroid_stride, nlist, residuals, m, steps, scales, rows, n, stride, width, best) = (
                cgutils.unpack_tuple(builder, *arguments)
            )
            lanes, whole = ir.VectorType(FLOAT, n_lanes), ir.VectorType(INT32, n_lanes)
            numbers, size = ir.VectorType(INT16, n_lanes), 2 * n_lanes
            most = cgutils.alloca_once_value(builder, ir.Constant(lanes, [float("-inf")] * n_lanes))
            total = cgutils.alloca_once(builder, numbers)
            step = builder.load(_pointer(builder, steps, lanes), align=4)

            def look_up(part: Any, byte: Any) -> None:
                entry = builder.add(builder.mul(part, INT64(256)), byte)
                at = builder.add(residuals, builder.mul(entry, INT64(size)))
                more = builder.load(_pointer(builder, at, numbers), align=2)
                builder.store(builder.add(builder.load(total), more), total)

            with cgutils.for_range(builder, n) as loop:
                row = builder.add(rows, builder.mul(loop.index, stride))
                centroid = _centroid_id(builder, row, width, nlist)
                at = builder.add(centroids, builder.mul(centroid, centroid_stride))
                own = builder.load(_pointer(builder, at, lanes), align=4)
                builder.store(ir.Constant(numbers, [0] * n_lanes), total)
                code = builder.add(row, width)

                def look_up_eight(first: Any) -> None:
                    eight = builder.load(_pointer(builder, builder.add(code, first), INT64), align=1)
                    for i in range(8):
                        byte = builder.and_(builder.lshr(eight, INT64(8 * i)), INT64(255))
                        look_up(builder.add(first, INT64(i)), byte)

                for first in range(0, known_m or 0, 8):
                    look_up_eight(INT64(first))
                if known_m is None:
                    whole_eights = builder.and_(m, INT64(-8))
                    with cgutils.for_range(builder, builder.lshr(m, INT64(3))) as eights:
                        look_up_eight(builder.shl(eights.index, INT64(3)))
                    with cgutils.for_range(builder, builder.sub(m, whole_eights)) as left:
                        part = builder.add(whole_eights, left.index)
                        byte = builder.load(_pointer(builder, builder.add(code, part), INT8))
                        look_up(part, builder.zext(byte, INT64))
                last = builder.load(_pointer(builder, builder.add(row, builder.sub(stride, INT64(1))), INT8))
                at = builder.add(scales, builder.mul(builder.zext(last, INT64), INT64(8)))
                undefined, first_lane = ir.Constant(lanes, ir.Undefined), ir.Constant(whole, [0] * n_lanes)

                def everywhere(address: Any) -> Any:
                    number = builder.load(_pointer(builder, address, FLOAT), align=4)
                    one = builder.insert_element(undefined, number, INT32(0))
                    return builder.shuffle_vector(one, undefined, first_lane)

                scale, gain = everywhere(at), everywhere(builder.add(at, INT64(4)))
                residual = builder.sitofp(builder.sext(builder.load(total), whole), lanes)
                residual = builder.fmul(builder.fmul(residual, step), gain)
                here = builder.fmul(builder.fadd(own, residual), scale)
                before = builder.load(most)
                builder.store(builder.select(builder.fcmp_ordered(">", here, before), here, before), most)
            builder.store(builder.load(most), _pointer(builder, best, lanes), align=4)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 12)), generate

    return intrinsic(emit)


_max_8_residuals_16, _max_8_residuals = _max_residuals(8, 16), _max_residuals(8, None)
_max_16_residuals_16, _max_16_residuals = _max_residuals(16, 16), _max_residuals(16, None)


# Kernels ------------------------------------------------------------------------------------------------


@compiled
def _plain_centroid_id(row: Bytes, width: int, nlist: int) -> Any:
    number: Any = 0
    for byte in range(width):
        number |= np.int64(row[byte]) << (8 * byte)
    return min(number, nlist - 1)


@compiled
def _counted(best: Any, norm: Any, curve: Floats) -> Any:
    """`encoder.maxsim.sharpened` of one number."""
    if curve[0] == 0 or norm == 0:
        return best
    cosine = best / norm
    within = min(cosine, np.float32(1))
    return norm * (np.expm1(curve[0] * within) * curve[1] + (cosine - within) * curve[2])


@compiled
def _interaction(tables: LevelTables, stored: Rows, sums: Sums) -> None:
    levels, gains = tables
    addresses, stride, width, counts = stored
    blocks, nlist, lanes = levels.shape
    best = np.empty(lanes, np.uint8)
    for i in range(len(counts)):
        n, rows = counts[i], addresses[i]
        total: Any = 0 if n > 0 else EMPTY
        for block in range(blocks if n > 0 else 0):
            at, out = levels.ctypes.data + block * nlist * lanes, best.ctypes.data
            numbers = (at, nlist, rows, n, stride, width, out)
            if lanes == 8:
                _max_levels_8(numbers)
            elif lanes == 16:
                _max_levels_16(numbers)
            else:
                _max_levels_32(numbers)
            for q in range(lanes):
                total += gains[block, q, best[q]]
        sums[i] = total


@compiled
def _plain_interaction(tables: LevelTables, stored: PlainRows, sums: Sums) -> None:
    levels, gains = tables
    codes, width, firsts, counts = stored
    blocks, nlist, lanes = levels.shape
    best = np.empty(lanes, np.uint8)
    for i in range(len(counts)):
        total: Any = 0 if counts[i] > 0 else EMPTY
        for block in range(blocks if counts[i] > 0 else 0):
            best[:] = 0
            for t in range(firsts[i], firsts[i] + counts[i]):
                centroid = _plain_centroid_id(codes[t], width, nlist)
                for q in range(lanes):
                    best[q] = max(best[q], levels[block, centroid, q])
            for q in range(lanes):
                total += gains[block, q, best[q]]
        sums[i] = total


@compiled
def _residual(tables: ResidualTables, stored: Rows, scores: Floats) -> None:
    centroids, residuals, steps, scales, norms, curve = tables
    addresses, stride, width, counts = stored
    blocks, m, entries, lanes = residuals.shape
    best = np.empty(lanes, np.float32)
    for i in range(len(counts)):
        n, rows = counts[i], addresses[i]
        total = 0.0 if n > 0 else -np.inf
        for block in range(blocks if n > 0 else 0):
            centroid_lanes = centroids.ctypes.data + block * lanes * 4
            table = residuals.ctypes.data + block * m * entries * lanes * 2
            own_steps = steps.ctypes.data + block * lanes * 4
            row_bytes, nlist = centroids.shape[1] * 4, centroids.shape[0]
            all_scales, out = scales.ctypes.data, best.ctypes.data
            given = (centroid_lanes, row_bytes, nlist, table, m, own_steps, all_scales)
            numbers = (*given, rows, n, stride, width, out)
            # One call each, or numba would have to know which: lanes by look-ups.
            if lanes == 8 and m == 16:
                _max_8_residuals_16(numbers)
            elif lanes == 8:
                _max_8_residuals(numbers)
            elif m == 16:
                _max_16_residuals_16(numbers)
            else:
                _max_16_residuals(numbers)
            for q in range(lanes):
                total += _counted(best[q], norms[block * lanes + q], curve)
        scores[i] = total


@compiled
def _plain_residual(tables: ResidualTables, stored: PlainRows, scores: Floats) -> None:
    centroids, residuals, steps, scales, norms, curve = tables
    codes, width, firsts, counts = stored
    blocks, m, _, lanes = residuals.shape
    best, sums = np.empty(lanes, np.float32), np.empty(lanes, np.int32)
    for i in range(len(counts)):
        total = 0.0 if counts[i] > 0 else -np.inf
        for block in range(blocks if counts[i] > 0 else 0):
            best[:] = -np.inf
            for t in range(firsts[i], firsts[i] + counts[i]):
                centroid = _plain_centroid_id(codes[t], width, len(centroids))
                sums[:] = 0
                scale, gain = scales[codes[t, codes.shape[1] - 1]]
                for part in range(m):
                    for q in range(lanes):
                        sums[q] += residuals[block, part, codes[t, width + part], q]
                for q in range(lanes):
                    residual = np.float32(sums[q]) * steps[block * lanes + q] * gain
                    score = centroids[centroid, block * lanes + q] + residual
                    best[q] = max(best[q], score * scale)
            for q in range(lanes):
                total += np.float64(_counted(best[q], norms[block * lanes + q], curve))
        scores[i] = total
