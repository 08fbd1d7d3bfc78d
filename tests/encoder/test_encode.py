"""Encoder.load and encoding, with the bundled model: the real weights that a user gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encoder import Encoder
from encoder.checkpoints.places import BUNDLED_FOLDER
from encoder.errors import ArgumentError, CheckpointError
from encoder.maxsim import maxsim
from tests.helpers.checkpoints import pylate

TEXTS = [
    "A list of the prime numbers below one hundred.",
    "",
    "def read(path):\n    with open(path) as file:\n        return file.read()\n" * 12,
    "heart attack",
]


@pytest.fixture(scope="module")
def bundled():
    return Encoder.load()


def test_unit_vectors_in_the_order_given(bundled):
    out = bundled.encode_documents(TEXTS)
    assert out.vectors.shape == (out.offsets[-1], 128)
    assert out.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=1), 1.0, atol=1e-5)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(out[i], bundled.encode_documents([text])[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_batch_composition_changes_no_vector(bundled, batch_tokens):
    whole = bundled.encode_documents(TEXTS * 3)
    np.testing.assert_allclose(
        bundled.encode_documents(TEXTS * 3, batch_tokens=batch_tokens).vectors, whole.vectors, atol=1e-5
    )


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_neither_neighbours_nor_order_change_a_vector(bundled, data):
    """Any texts, in any order, in any batches: each text's vectors are what they are alone, to 1e-5."""
    alone = [bundled.encode_documents([text])[0] for text in TEXTS]
    chosen = data.draw(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6))
    budget = data.draw(st.integers(1, 1000))
    out = bundled.encode_documents([TEXTS[i] for i in chosen], batch_tokens=budget)
    for i, vectors in zip(chosen, out, strict=True):
        np.testing.assert_allclose(vectors, alone[i], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_blocks_that_are_tokenised_ahead_keep_order_and_counts(monkeypatch):
    encoder = Encoder.load(document_length=32)
    texts = [f"text number {i} " * (i % 15) for i in range(23)]
    whole = encoder.encode_documents(texts)
    monkeypatch.setattr("encoder.batches.BLOCK_TEXTS", 5)
    out = encoder.encode_documents(texts)
    np.testing.assert_array_equal(out.offsets, whole.offsets)
    np.testing.assert_allclose(out.vectors, whole.vectors, rtol=0, atol=1e-5)
    assert out.truncated == whole.truncated > 0


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=60), max_size=4))
@example(
    ["", " \t\n ", "\x00\x01\x7f\u202e", "\ud800 lone \udfff", "a" * 1_000_000, "word " * 200_000, "last"]
)
def test_any_text_has_its_vectors_in_its_place(bundled, texts):
    """Nothing, whitespace, control characters, lone surrogates, a megabyte: never a crash, order kept."""
    documents, queries = bundled.encode_documents(texts), bundled.encode_queries(texts)
    for out in (documents, queries):
        assert len(out) == len(texts)
        assert (out.lengths >= 2).all()  # CLS and SEP at the least
        assert np.isfinite(out.vectors).all()
    if texts:
        np.testing.assert_allclose(documents[-1], bundled.encode_documents([texts[-1]])[0], rtol=0, atol=1e-5)


def test_meaning_beats_words(bundled):
    """The model is trained: a paraphrase without a common word scores above an unrelated text."""
    passages = bundled.encode_documents(
        ["The physician examined the patient.", "The committee approved the annual budget."]
    )
    query = bundled.encode_queries(["a doctor checks someone who is sick"])[0]
    scores = maxsim(*(torch.from_numpy(x) for x in (query, passages.vectors, passages.offsets)))
    assert scores[0] > scores[1] + 0.2


@pytest.mark.slow
def test_longer_documents_are_cut_and_counted():
    encoder = Encoder.load(document_length=16)
    out = encoder.encode_documents(["one two three", "word " * 100, "x " * 14, "x " * 15])
    assert out.truncated == 2
    assert out.lengths.tolist() == [5, 16, 16, 16]
    longer = Encoder.load(document_length=1024).encode_documents(["word " * 1000])
    assert (longer.truncated, longer.lengths.tolist()) == (0, [1002])


@pytest.mark.slow
def test_token_ids_are_those_whose_vectors_are_kept(bundled):
    encoder = Encoder.load(document_length=16, skiplist_words=["the", "."])
    texts = ["the oak. the old oak", "", "word " * 100, "."]
    out = encoder.encode_documents(texts)
    names = [encoder.tokenizer.tokenizer.id_to_token(i) for i in out.token_ids.tolist()]
    assert names == [token.text for text in texts for token in encoder.document_tokens(text)]
    assert "the" not in names
    assert names.count("oak") == 2
    queries = bundled.encode_queries(texts)
    names = [bundled.tokenizer.tokenizer.id_to_token(i) for i in queries.token_ids.tolist()]
    assert names == [token.text for text in texts for token in bundled.query_tokens(text)]
    assert bundled.encode_documents([]).token_ids.shape == (0,)


def test_document_length_max_is_what_the_positions_allow(tmp_path):
    pylate(tmp_path)
    encoder = Encoder.load(tmp_path, document_length="max")
    assert encoder.document_length == 512
    assert encoder.load_arguments["document_length"] == 512
    out = encoder.encode_documents(["oak " * 600, "oak"])
    assert (out.lengths[0], out.truncated) == (512, 1)


@pytest.mark.parametrize("own", [True, False])
def test_expansion_by_argument_is_the_queries_affair_alone(tmp_path, own):
    pylate(tmp_path, do_query_expansion=own, query_length=16)
    plain = Encoder.load(tmp_path)
    with_it = Encoder.load(tmp_path, do_query_expansion=True)
    without = Encoder.load(tmp_path, do_query_expansion=False)
    assert len(with_it.encode_queries(["oak"])[0]) == 16
    assert len(without.encode_queries(["oak"])[0]) < 16
    assert plain.fingerprint == with_it.fingerprint == without.fingerprint
    np.testing.assert_array_equal(
        with_it.encode_documents(["old oak"]).vectors, without.encode_documents(["old oak"]).vectors
    )
    again = Encoder.load(**without.load_arguments)
    assert len(again.encode_queries(["oak"])[0]) < 16


@pytest.mark.slow
def test_load_arguments_load_the_same_encoder():
    encoder = Encoder.load(document_length=64, skiplist_words=["the", "."])
    again = Encoder.load(**json.loads(json.dumps(encoder.load_arguments)))
    assert again.fingerprint == encoder.fingerprint
    assert again.document_length == 64
    text = ["The cat and the dog."]
    np.testing.assert_array_equal(
        again.encode_documents(text).vectors, encoder.encode_documents(text).vectors
    )
    assert (
        len(encoder.encode_documents(text).vectors) == len(Encoder.load().encode_documents(text).vectors) - 3
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["documents", "queries"])
def test_any_iterable_of_texts_is_encoded(bundled, kind):
    encode = getattr(bundled, f"encode_{kind}")
    expected = encode(TEXTS)
    for texts in (
        (text for text in TEXTS),
        tuple(TEXTS),
        dict.fromkeys(TEXTS),
        np.array(TEXTS, dtype=object),
    ):
        out = encode(texts if not isinstance(texts, dict) else texts.keys())
        np.testing.assert_array_equal(out.vectors, expected.vectors)
        np.testing.assert_array_equal(out.offsets, expected.offsets)
    assert len(encode(iter([]))) == 0


@pytest.mark.slow
def test_skiplist_words_and_lengths_of_any_kind_are_taken(bundled):
    encoder = Encoder.load(
        skiplist_words=(word for word in ("the", ".")),
        document_length=np.int64(64),
        query_length=np.int32(24),
        pool_factor=np.int64(2),
    )
    assert encoder.tokenizer.settings.skiplist_words == ("the", ".")
    assert json.loads(json.dumps(encoder.load_arguments)) == encoder.load_arguments
    assert bundled.with_query_length(np.int64(20)).query_length == 20


@pytest.mark.parametrize("own", [[], ["the", ","]])
def test_a_value_given_is_the_same_as_by_default(tmp_path, own):
    """By load_arguments an index knows whether a text has to be encoded again."""
    pylate(tmp_path, document_length=180, skiplist_words=own)
    plain = Encoder.load(tmp_path).load_arguments
    assert (plain["document_length"], plain["skiplist_words"]) == (180, sorted(own))
    assert Encoder.load(tmp_path, document_length=180).load_arguments == plain
    assert Encoder.load(tmp_path, skiplist_words=own[::-1] * 2).load_arguments == plain
    assert Encoder.load(tmp_path, pool_factor=1, document_length=180).load_arguments == plain
    assert Encoder.load(tmp_path, document_length=60).load_arguments != plain
    longest = Encoder.load(tmp_path, document_length="max")
    assert longest.load_arguments == Encoder.load(tmp_path, document_length=512).load_arguments


@pytest.mark.slow
def test_fingerprint_follows_weights_and_not_lengths(bundled, tmp_path):
    assert Encoder.load(document_length=99).fingerprint == bundled.fingerprint
    bundled.save(tmp_path)
    other = Encoder.load(tmp_path)
    assert other.fingerprint == bundled.fingerprint
    with torch.no_grad():
        other.model.head[0].linear.weight[0, 0] += 1e-3
    other.save(tmp_path)
    assert Encoder.load(tmp_path).fingerprint != bundled.fingerprint


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.encode_documents("text"), "texts is the string 'text'"),
        (lambda e: e.encode_documents({"a": "text"}), "texts is dict"),
        (lambda e: e.encode_documents(None), "texts is NoneType"),
        (lambda e: e.encode_queries(["a", 3]), r"texts\[1\] is 3 \(int\)"),
        (lambda e: e.encode_queries(t for t in ["a", b"b"]), r"texts\[1\] is b'b' \(bytes\)"),
        (lambda e: e.encode_queries(["a"], batch_tokens=0), "batch_tokens=0"),
        (lambda e: e.encode_queries(["a"], batch_tokens=1e4), "batch_tokens=10000.0 is float"),
        (lambda e: e.query_tokens(None), r"text\[0\] is None"),
        (lambda e: e.document_tokens(["a"]), r"text\[0\] is \['a'\]"),
        (lambda e: e.with_query_length("32"), "query_length='32' is str"),
        (lambda e: Encoder.load(skiplist_words="the"), "skiplist_words is the string 'the'"),
        (lambda e: Encoder.load(skiplist_words=["the", 1]), r"skiplist_words\[1\] is 1"),
        (lambda e: Encoder.load(query_length=32.0), "query_length=32.0 is float"),
        (lambda e: Encoder.load(document_length="most"), "document_length='most' is str"),
        (lambda e: Encoder.load(device="cpu", workers=2.0), "workers=2.0 is float"),
        (lambda e: Encoder.load(device="cuda:97"), "device='cuda:97' cannot be used"),
        (lambda e: Encoder.load(device="gpu", workers=2), "device='gpu' cannot be used"),
        (lambda e: Encoder.load(document_length=100_000), "exceeds the model's"),
        (lambda e: Encoder.load(document_length=2), "document_length=2"),
    ],
)
def test_mistakes_are_refused(bundled, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(bundled)


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(CheckpointError, match="no folder"):
        Encoder.load("/nowhere/at/all")


def test_no_texts_give_no_vectors(bundled):
    out = bundled.encode_documents([])
    assert (len(out), out.vectors.shape) == (0, (0, 128))


def test_bundled_model_is_small_and_safe():
    files = [p for p in BUNDLED_FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 25e6
    assert {p.suffix for p in files} <= {".json", ".safetensors", ".md"}
    assert (Path(BUNDLED_FOLDER) / "README.md").is_file()
