"""The kernels against encoder.maxsim on decoded vectors, and against plain loops."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError
from encoder.maxsim import max_sum, maxsim
from indexing import Index
from indexing.coding.centroids import BLOCK, ByteCentroids
from indexing.coding.codec import Codec
from indexing.coding.lengths import plain_scales
from indexing.coding.sizes import id_bytes
from retriever import Searcher
from retriever.kernels import (
    QueryTables,
    codes,
    compiling,
    interaction,
    probe,
    products,
    residual_maxsim,
    unite,
)
from retriever.kernels.tables import UNITS
from tests.helpers.codecs import random_codec
from tests.helpers.fakes import FakeEncoder

LENGTHS = st.lists(st.sampled_from([0, 0, 1, 1, 2, 7, 40]), min_size=1, max_size=12)


def unit(random, n, dim):
    rows = random.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make(seed, *, n_query, lengths, nlist=50, m=8, part=2, negative=False):
    """A query, a codec and stored passages of random numbers; nothing is trained.

    negative: every similarity is below zero.
    """
    random = np.random.default_rng(seed)
    codec = random_codec(random, nlist, m=m, part=part, positive=negative)
    query = unit(random, n_query, codec.dim)
    if negative:
        query = (-np.abs(query) - 0.01) @ codec.rotation.T
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(0, nlist, offsets[-1])
    ids[-1:] = nlist - 1  # its bytes are the largest
    packed = codec.pack(ids, random.integers(0, 256, (offsets[-1], m + 1)).astype(np.uint8))
    return query, codec, ids, packed, offsets


def only_centroids(centroids):
    """A codec of one sub-vector, residuals of 0, scales of 1 and no turn."""
    dim = len(centroids.low)
    residuals = np.zeros((1, 256, dim), np.float32)
    return Codec(centroids, residuals, plain_scales(), np.eye(dim, dtype=np.float32))


STEEPEST = 2.32  # of `sharpened` at a sharpness of 2


def rounding(tables, m, scale=2.0):
    """By how much a score may differ: the query's bytes, and half a step for each look-up of each query token."""
    return 1e-4 + 2e-5 * tables.n_query + scale * m / 2 * float(tables.residual_steps.sum())


def by_reference(query, codec, ids, packed, offsets, sharpness=0.0):
    vectors = codec.decode(ids, packed[:, id_bytes(codec.nlist) :])
    found = maxsim(torch.from_numpy(query), torch.from_numpy(vectors), torch.from_numpy(offsets), sharpness)
    return found.numpy()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n_query=st.integers(0, 70),
    lengths=LENGTHS,
    nlist=st.sampled_from([2, 50, 256, 257, 3000]),
    m=st.sampled_from([1, 3, 8, 16, 29, 44]),
    negative=st.booleans(),
    sharpness=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 1000),
)
def test_residual_maxsim_is_maxsim_on_decoded_vectors(n_query, lengths, nlist, m, negative, sharpness, seed):
    query, codec, _, packed, offsets = made = make(
        seed,
        n_query=n_query,
        lengths=lengths,
        nlist=nlist,
        m=m,
        negative=negative,
    )
    everything = np.arange(len(lengths))
    tables = QueryTables.of(query, codec, sharpness)
    scores = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, everything)])
    atol = rounding(tables, m) * (STEEPEST if sharpness else 1)
    np.testing.assert_allclose(scores, by_reference(*made, sharpness), atol=atol)
    if negative and n_query:
        assert (scores < 0).all()
    assert ((scores == -np.inf) == (np.array(lengths) == 0)).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n_query=st.integers(0, 70),
    lengths=LENGTHS,
    nlist=st.sampled_from([2, 50, 256, 257, 3000]),
    m=st.sampled_from([1, 8]),
    negative=st.booleans(),
    sharpness=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 1000),
)
def test_interaction_is_maxsim_on_centroids(n_query, lengths, nlist, m, negative, sharpness, seed):
    query, codec, ids, packed, offsets = make(
        seed,
        n_query=n_query,
        lengths=lengths,
        nlist=nlist,
        m=m,
        negative=negative,
    )
    tables = QueryTables.of(query, codec, sharpness)
    products, norms = (
        torch.from_numpy(codec.centroids[ids] @ codec.rotated(query).T),
        torch.from_numpy(query).norm(dim=1),
    )
    exact = max_sum(products, torch.from_numpy(offsets), norms, sharpness).numpy()
    scores = interaction(tables, codec.code_bytes, [(packed, offsets, np.arange(len(lengths)))])
    assert ((scores == -np.inf) == (np.array(lengths) == 0)).all()
    kept = np.array(lengths) > 0
    step = tables.unit * UNITS
    atol = n_query * step / 2 * (STEEPEST if sharpness else 1) + n_query * tables.unit / 2 + 1e-4
    np.testing.assert_allclose(scores[kept], exact[kept], atol=atol, rtol=0)
    assert tables.unit == 1.0 or step <= 2.1 / 255


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    n_query=st.integers(1, 40),
    lengths=LENGTHS,
    nlist=st.sampled_from([50, 300]),
    m=st.sampled_from([3, 8, 16]),
    sharpness=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 100),
)
def test_plain_kernels_give_the_same_numbers(n_query, lengths, nlist, m, sharpness, seed):
    query, codec, _, packed, offsets = make(seed, n_query=n_query, lengths=lengths, nlist=nlist, m=m)
    tables, everything = QueryTables.of(query, codec, sharpness), np.arange(len(lengths))
    for function, module_name in ((interaction, "_interaction"), (residual_maxsim, "_residual")):
        fast = function(tables, codec.code_bytes, [(packed, offsets, everything)])
        with pytest.MonkeyPatch.context() as patch:
            plain = getattr(codes, f"_plain{module_name}")
            patch.setattr(codes, "usable", lambda *kernels, plain=plain: plain)
            slow = function(tables, codec.code_bytes, [(packed, offsets, everything)])
        np.testing.assert_array_equal(fast, slow)


@settings(max_examples=30, deadline=None)
@given(
    n_query=st.sampled_from([1, 9, 33]),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    plain=st.booleans(),
    seed=st.integers(0, 100),
)
def test_several_segments_are_scored_as_one_after_another(n_query, counts, plain, seed):
    query, codec, *_ = make(seed, n_query=n_query, lengths=[1])
    tables, random = QueryTables.of(query, codec), np.random.default_rng(seed)
    parts = []
    for i, count in enumerate(counts):
        _, _, _, packed, offsets = make(
            seed + i, n_query=1, lengths=random.integers(0, 9, count + 1).tolist()
        )
        parts.append((packed, offsets, random.permutation(count + 1)[:count]))
    for function, name in ((interaction, "_plain_interaction"), (residual_maxsim, "_plain_residual")):
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(codes, "usable", lambda *kernels, name=name: getattr(codes, name))
            together = function(tables, codec.code_bytes, parts)
        alone = [function(tables, codec.code_bytes, [part]) for part in parts]
        np.testing.assert_array_equal(together, np.concatenate(alone))


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_lists_of_several_segments(counts, seed):
    random = np.random.default_rng(seed)
    segments, wanted = [], []
    for count in counts:
        lists = [np.flatnonzero(random.random(count) < 0.4) for _ in range(8)]
        ends = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
        segments.append((ends, np.concatenate(lists).astype(np.int32)))
        wanted.append(random.random(count) < 0.8)
    probed = np.stack([random.permutation(8)[:3] for _ in range(4)])
    scores = -np.sort(-random.standard_normal((4, 3)), axis=1).astype(np.float32)
    passages, totals = unite(segments, probed, scores, wanted)
    alone = [unite([segment], probed, scores, [live]) for segment, live in zip(segments, wanted, strict=True)]
    for found, ([expected], _) in zip(passages, alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(totals, np.concatenate([own for _, own in alone]), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    n_query=st.integers(1, 40),
    nlist=st.sampled_from([2, 15, 16, 17, 300]),
    dim=st.sampled_from([1, 3, 16, 128, 1000]),
    seed=st.integers(0, 1000),
)
def test_products_of_bytes_are_those_of_the_centroids(n_query, nlist, dim, seed):
    random = np.random.default_rng(seed)
    query, wide = unit(random, n_query, dim), 10.0 ** random.integers(-3, 3, dim)
    centroids = ByteCentroids.of((unit(random, nlist, dim) * wide).astype(np.float32))
    query = query * np.float32(random.choice([1e-3, 1.0, 50.0]))  # weighted query tokens
    tables = QueryTables.of(query, only_centroids(centroids))
    exact = centroids.floats().astype(np.float64) @ query.T
    size = np.abs(query).max() * np.abs(centroids.span).max() + np.abs(exact).max()
    np.testing.assert_allclose(tables.centroids[:, :n_query], exact, atol=3e-5 * size * np.sqrt(dim))
    for block, most in enumerate(tables.most):
        np.testing.assert_array_equal(most, tables.centroids[block * BLOCK :][:BLOCK].max(axis=0))
    assert tables.floor == pytest.approx(tables.centroids[:, :n_query].min(axis=0).sum(dtype=float), rel=1e-6)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(blocks=st.integers(1, 5), pairs=st.integers(1, 70), lanes=st.integers(1, 4), seed=st.integers(0, 100))
def test_plain_products_and_levels_give_the_same_numbers(blocks, pairs, lanes, seed):
    random = np.random.default_rng(seed)
    rows, columns = blocks * BLOCK, lanes * products.FLOAT_LANES
    stored = random.integers(-128, 128, (blocks, pairs, BLOCK, 2)).astype(np.int8)
    asked = random.integers(-32767, 32768, (lanes, pairs, products.FLOAT_LANES, 2)).astype(np.int16)
    unit_, bias = random.random((2, columns), dtype=np.float32)
    made = []
    for kernel in (products._products, products._plain_products):
        outs = [
            np.empty(shape, np.float32) for shape in ((rows, columns), (blocks, columns), (blocks, columns))
        ]
        line = (compiling.frozen(unit_ * 1e-6), compiling.frozen(bias))
        kernel(compiling.frozen(stored), compiling.frozen(asked), line, tuple(outs))
        made.append(outs)
    for fast, plain in zip(*made, strict=True):
        np.testing.assert_array_equal(fast, plain)
    scores, low = made[0][0], made[0][0].min(axis=0)
    up = np.float32(255 / max((scores.max(axis=0) - low).max(), 1e-9))
    for width in (8, 16, 32):
        levels = np.zeros((2, -(-columns // width), rows, width), np.uint8)
        for kernel, out in zip((products._levels, products._plain_levels), levels, strict=True):
            kernel(compiling.frozen(scores), compiling.frozen(low), up, out)
        np.testing.assert_array_equal(*levels)
        assert levels[0].max() == 255


def test_three_byte_centroid_ids():
    made = query, codec, _, packed, offsets = make(0, n_query=9, lengths=[3, 0, 50], nlist=70_000, m=2)
    assert packed.shape[1] == 6
    tables = QueryTables.of(query, codec)
    scores = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, np.arange(3))])
    np.testing.assert_allclose(scores, by_reference(*made), atol=rounding(tables, 2))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    n_query=st.sampled_from([1, 31, 33, 256, 300]),
    lengths=st.lists(st.sampled_from([0, 1, 65, 1000, 8192]), min_size=1, max_size=3),
    m=st.sampled_from([8, 16, 32]),
    negative=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_shapes_of_long_queries_and_documents(n_query, lengths, m, negative, seed):
    """Both passes, at every number of lanes and code width that is in use, over a filtered set of passages."""
    query, codec, ids, packed, offsets = made = make(
        seed, n_query=n_query, lengths=lengths, nlist=300, m=m, negative=negative
    )
    tables = QueryTables.of(query, codec)
    wanted = np.flatnonzero(np.random.default_rng(seed).random(len(lengths)) < 0.7)
    scores = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, wanted)])
    # float32 sums of 300 terms
    np.testing.assert_allclose(scores, by_reference(*made)[wanted], atol=rounding(tables, m), rtol=1e-5)
    exact = max_sum(
        torch.from_numpy(codec.centroids[ids] @ codec.rotated(query).T), torch.from_numpy(offsets)
    ).numpy()[wanted]
    kept = np.isfinite(exact)
    ranked = interaction(tables, codec.code_bytes, [(packed, offsets, wanted)])
    np.testing.assert_allclose(
        ranked[kept], exact[kept], atol=n_query * tables.unit * UNITS / 2 + 1e-3, rtol=0
    )
    assert (ranked[~kept] == -np.inf).all()


def test_long_queries_and_long_passages():
    made = query, codec, _, packed, offsets = make(1, n_query=300, lengths=[8192, 1], nlist=1000, m=32)
    tables = QueryTables.of(query, codec)
    scores = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, np.arange(2))])
    np.testing.assert_allclose(scores, by_reference(*made), atol=rounding(tables, 32))


def test_passages_are_scored_in_the_order_asked():
    made = query, codec, _, packed, offsets = make(2, n_query=5, lengths=[4, 9, 1, 30])
    tables = QueryTables.of(query, codec)
    asked = np.array([3, 0, 2])
    np.testing.assert_allclose(
        residual_maxsim(tables, codec.code_bytes, [(packed, offsets, asked)]),
        by_reference(*made)[asked],
        atol=rounding(tables, 8),
    )
    assert residual_maxsim(tables, codec.code_bytes, [(packed, offsets, asked[:0])]).shape == (0,)


@pytest.mark.slow
def test_look_ups_in_steps_stay_near_the_exact_ones():
    """The bound above is of the worst case; rounding errors cancel."""
    made = query, codec, _, packed, offsets = make(5, n_query=8, lengths=[50] * 20, m=16, part=8)
    tables = QueryTables.of(query, codec)
    scores = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, np.arange(20))])
    np.testing.assert_allclose(scores, by_reference(*made), atol=1e-3)
    assert np.abs(tables.residuals.astype(int)).max(axis=2).sum(axis=1).max() <= 32767


@settings(max_examples=30, deadline=None)
@given(n_query=st.integers(1, 70), nlist=st.sampled_from([2, 300]), seed=st.integers(0, 100))
def test_levels_keep_the_order_of_scores(n_query, nlist, seed):
    query, codec, *_ = make(seed, n_query=n_query, lengths=[1], nlist=nlist)
    tables = QueryTables.of(query, codec)
    for lane, scores in enumerate(tables.centroids[:, :n_query].T):
        width = tables.levels.shape[2]
        levels = tables.levels[lane // width, :, lane % width].astype(int)
        assert (np.diff(levels[np.argsort(scores)]) >= 0).all()
    assert tables.levels.max() == 255


def test_centroids_all_alike_have_one_level():
    codec = only_centroids(ByteCentroids.of(np.ones((4, 2), np.float32)))
    tables = QueryTables.of(np.ones((3, 2), np.float32), codec)
    scores = interaction(tables, 2, [(np.zeros((2, 3), np.uint8), np.array([0, 1, 2]), np.arange(2))])
    np.testing.assert_allclose(scores, [6.0, 6.0])


def test_threads_change_nothing(monkeypatch):
    lengths = [int(n) for n in np.random.default_rng(3).integers(0, 30, 200)]
    made = query, codec, _, packed, offsets = make(3, n_query=40, lengths=lengths)
    tables, everything = QueryTables.of(query, codec), np.arange(len(lengths))
    expected = residual_maxsim(tables, codec.code_bytes, [(packed, offsets, everything)])
    ranked = interaction(tables, codec.code_bytes, [(packed, offsets, everything)])
    monkeypatch.setattr(compiling, "SERIAL_STEPS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    def search(_):
        return (
            residual_maxsim(tables, codec.code_bytes, [(packed, offsets, everything)]),
            interaction(tables, codec.code_bytes, [(packed, offsets, everything)]),
        )

    with ThreadPoolExecutor(8) as pool:
        for scores, levels in pool.map(search, range(32)):
            np.testing.assert_array_equal(scores, expected)
            np.testing.assert_array_equal(levels, ranked)
    np.testing.assert_allclose(expected, by_reference(*made), atol=rounding(tables, 8))


@settings(max_examples=50, deadline=None)
@given(
    n_query=st.integers(0, 40),
    nprobe=st.integers(1, 60),
    nlist=st.sampled_from([2, 50, 500]),
    alike=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_probe_finds_the_best_centroids(n_query, nprobe, nlist, alike, seed):
    query, codec, *_ = make(seed, n_query=n_query, lengths=[1], nlist=nlist)
    if alike:
        twice = ByteCentroids.of(np.repeat(codec.centroids[::2], 2, axis=0)[:nlist])
        codec = Codec(twice, codec.pq_centroids, codec.scales, codec.rotation)
    nprobe = min(nprobe, nlist)
    tables = QueryTables.of(query, codec)
    lists, scores = probe(tables, nprobe)
    by_token = tables.centroids[:, :n_query].T
    np.testing.assert_array_equal(scores, -np.sort(-by_token, axis=1)[:, :nprobe])
    np.testing.assert_array_equal(scores, np.take_along_axis(by_token, lists, axis=1))
    assert all(len(set(row)) == nprobe for row in lists.tolist())


@settings(max_examples=50, deadline=None)
@given(
    n_query=st.integers(1, 5),
    nprobe=st.integers(1, 6),
    n_passages=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_union_of_lists(n_query, nprobe, n_passages, seed):
    random = np.random.default_rng(seed)
    nlist = 8
    lists = [np.flatnonzero(random.random(n_passages) < 0.3) for _ in range(nlist)]
    list_offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    wanted = random.random(n_passages) < 0.7
    probed = np.stack([random.permutation(nlist)[:nprobe] for _ in range(n_query)])
    scores = -np.sort(-random.standard_normal((n_query, nprobe)), axis=1).astype(np.float32)
    expected = {}
    for p in np.flatnonzero(wanted):
        best = [
            [s for s, c in zip(row, some, strict=True) if p in lists[c]]
            for row, some in zip(scores, probed, strict=True)
        ]
        if any(best):
            expected[p] = sum(max(found, default=row[-1]) for found, row in zip(best, scores, strict=True))
    pids = np.concatenate(lists).astype(np.int32)
    [passages], totals = unite([(list_offsets, pids)], probed, scores, [wanted])
    assert passages.tolist() == list(expected)
    np.testing.assert_allclose(totals, list(expected.values()), atol=1e-5)


def test_damaged_codes_and_lists_read_nothing_outside():
    query, codec, _, packed, _ = make(4, n_query=5, lengths=[4, 9], nlist=300)
    tables = QueryTables.of(query, codec)
    packed[:] = 255
    for ends in ([0, 4, 13], [0, 4, 10**12], [-(10**12), 4, 13], [10**12, 0, 10**13]):
        for kernel in (interaction, residual_maxsim):
            assert not np.isnan(
                kernel(tables, codec.code_bytes, [(packed, np.array(ends), np.arange(2))])
            ).any()
    damaged = (np.array([0, 4, 10**12, -5]), np.array([0, -7, 10**9, 1], np.int32))
    lists, scores, wanted = np.array([[0, 1, 2]]), np.zeros((1, 3), np.float32), np.ones(2, np.bool_)
    [passages], _ = unite([damaged], lists, scores, [wanted])
    assert passages.tolist() == [0, 1]


def test_plain_kernels_stand_in_where_the_vector_ones_do_not_compile():
    def broken(*arguments):
        raise RuntimeError("LLVM says no\nand much more")

    with pytest.warns(RuntimeWarning, match=r"could not be compiled \(LLVM says no\)"):
        kernel = compiling.usable(broken, codes._plain_interaction, codes._example_levels)
    assert kernel is codes._plain_interaction
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pair in (
            (codes._interaction, codes._plain_interaction, codes._example_levels),
            (codes._residual, codes._plain_residual, codes._example_residuals),
            (products._products, products._plain_products, products._example_products),
            (products._levels, products._plain_levels, products._example_of_levels),
        ):
            assert compiling.usable(*pair) is pair[0]


def test_a_function_that_cannot_be_cached_is_compiled_all_the_same():
    """As where neither the package's folder nor the user's cache can be written."""
    names = {}
    exec(compile("def add(x):\n    return x + 1\n", "<nowhere>", "exec"), names)
    assert compiling.compiled(names["add"])(1) == 2


@pytest.mark.slow
def test_recall_vs_exact_is_what_a_comparison_finds(tmp_path):
    encoder = FakeEncoder(dim=16)
    random = np.random.default_rng(0)
    words = [[f"w{i}" for i in random.integers(0, 300, 12)] for _ in range(300)]
    with Index.create(tmp_path / "x", encoder, flat_tokens=1000) as index:
        index.add({"doc_id": str(i), "text": " ".join(some)} for i, some in enumerate(words))
    queries = {str(i): " ".join(some[:4]) for i, some in enumerate(words[:20])}
    with Searcher.open(tmp_path / "x", encoder) as searcher:
        nlist = searcher.snapshot.codec.nlist
        assert searcher.recall_vs_exact(queries, k=10, nprobe=nlist, nrerank=300).search == 1.0
        few = {"nprobe": 1, "ncandidates": 10, "nrerank": 10}
        recalls = []
        for query in queries.values():
            exact = searcher.search(query, k=10, nprobe=nlist, nrerank=300, mode="late")
            found = searcher.search(query, k=10, mode="late", **few)
            recalls.append(np.mean([hit.score >= exact[-1].score for hit in found]))
        assert searcher.recall_vs_exact(queries, k=10, **few).search == pytest.approx(np.mean(recalls))
        assert np.mean(recalls) < 1
        with pytest.raises(ArgumentError, match="queries is empty"):
            searcher.recall_vs_exact({})
