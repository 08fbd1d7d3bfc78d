"""Packing and streaming: how full bins are, that nothing is lost, and going on from anywhere."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError, CorpusError
from encoder.model.packing import BestFit
from encoder.training.mlm import plain_tokenizer
from encoder.training.stream import PackedText, held_out_texts, stream_texts
from tests.helpers.toy_language import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return plain_tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def naive(sizes, length, n_open):
    """Best fit by its definition: (index of each sequence's bin), bins numbered as they are opened."""
    bins, room, places = [], {}, []
    for size in sizes:
        fits = [b for b in room if room[b] >= size]
        if fits:
            chosen = min(fits, key=lambda b: room[b])
        else:
            if len(room) == n_open:
                del room[min(room, key=lambda b: room[b])]
            chosen = len(bins)
            bins.append([])
            room[chosen] = length
        room[chosen] -= size
        places.append(chosen)
        bins[chosen].append(size)
        if room[chosen] == 0:
            del room[chosen]
    return bins


@pytest.mark.slow
@given(st.lists(st.integers(1, 20), min_size=1, max_size=200), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_best_fit_equals_its_definition(sizes, n_open):
    packer = BestFit(20, n_open)
    out = []
    for size in sizes:
        before = len(packer.bins)
        given_out = packer.add([0] * size)
        # Where a bin left for a full newcomer, the full one stays till the next call: the same bins in the end.
        assert len(packer.bins) <= n_open
        assert before <= n_open
        out += [given_out] if given_out else []
    found = sorted(sorted(map(len, b)) for b in [*out, *packer.bins])
    if all(size < 20 for size in sizes):
        assert found == sorted(map(sorted, naive(sizes, 20, n_open)))
    assert sorted(n for b in found for n in b) == sorted(sizes)
    assert all(sum(b) <= 20 for b in found)
    with pytest.raises(ArgumentError, match="21 tokens fits no bin of 20"):
        packer.add([0] * 21)


# Log-normal lengths in tokens (median, sigma): short web texts, articles, long documents, and abstracts, whose
# narrow spread is the hard case.
@pytest.mark.slow
@pytest.mark.parametrize("length", [512, 1024, 8192])
@pytest.mark.parametrize(("median", "sigma"), [(120, 1.0), (400, 1.0), (900, 1.2), (250, 0.5)])
def test_bins_are_99_percent_full(median, sigma, length, tokenizer):
    random = np.random.default_rng(0)
    text = PackedText([], tokenizer, length, seed=0)
    sizes = np.maximum(1, random.lognormal(np.log(median), sigma, 2500)).astype(int)
    bins = [b for size in sizes for b in text._pack([7] * size)]
    assert len(bins) >= 8
    filled = sum(len(s) for b in bins for s in b) / (len(bins) * length)
    assert filled >= 0.99, filled
    everything = [s for b in [*bins, *text.packer.bins] for s in b]
    assert sum(len(s) - 2 for s in everything) == sizes.sum()  # not a token lost
    assert all(s[0] == 2 and s[-1] == 3 for s in everything)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name, n in (("a", 3000), ("b", 1000)):
        random = np.random.default_rng(n)
        rows = [{"text": f"{name}{i} " + "w1 " * int(random.integers(1, 20))} for i in range(n)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [(folder / "a.jsonl", 1.0), (folder / "b.jsonl", 0.5)]


@pytest.mark.slow
def test_an_epoch_takes_every_text_once_and_mixes_sources(sources):
    names = [text.split()[0] for text in stream_texts(sources, seed=0, epoch=0)]
    assert len(names) == len(set(names))
    assert {n for n in names if n[0] == "a"} == {f"a{i}" for i in range(3000) if i % 101}
    b = [i for i, n in enumerate(names) if n[0] == "b"]
    assert len(b) == pytest.approx(495, abs=60)
    assert np.mean(b) / len(names) == pytest.approx(0.5, abs=0.05)
    assert names == [t.split()[0] for t in stream_texts(sources, seed=0, epoch=0)]
    assert names != [t.split()[0] for t in stream_texts(sources, seed=0, epoch=1)]
    held = [t.split()[0] for t in held_out_texts(sources, 5)]
    assert held == [f"{s}{i}" for s in "ab" for i in range(0, 505, 101)]


@pytest.mark.slow
def test_batches_go_on_from_anywhere(sources, tokenizer):
    def size(step):
        return 2 + step % 3

    whole = PackedText(sources, tokenizer, 64, seed=3)
    batches, states = [], []
    for batch in itertools.islice(whole.batches(size), 300):
        batches.append(batch)
        states.append(whole.state())
    assert whole.epoch > 0
    assert [len(b) for b in batches[:4]] == [2, 3, 4, 2]
    for at in (0, 7, 255):
        again = PackedText(sources, tokenizer, 64, seed=3, state=states[at])
        assert list(itertools.islice(again.batches(size, at + 1), 40)) == batches[at + 1 : at + 41]
        assert again.tokens == PackedText(sources, tokenizer, 64, seed=3, state=states[at + 40]).tokens


def test_no_text_is_an_error(tmp_path, tokenizer):
    (tmp_path / "x.jsonl").write_text('{"text": " "}\n')
    text = PackedText([(tmp_path / "x.jsonl", 1.0)], tokenizer, 64, seed=0)
    with pytest.raises(CorpusError, match=r"no text in .*x\.jsonl"):
        next(text.batches(lambda step: 1))


def test_held_out_texts_are_of_every_field(tmp_path):
    rows = [{"query": f"q{i}", "pos": f"p{i}"} for i in range(300)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = held_out_texts([(tmp_path / "x.jsonl", 1.0)], 4)
    assert {text[0] for text in held} == {"q", "p"}
    assert not set(held) & set(stream_texts([(tmp_path / "x.jsonl", 1.0)], seed=0, epoch=0))
