"""Encoder.load and encoding, with the bundled model: the real weights that a user gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder import Encoder, maxsim
from encoder.checkpoint import BUNDLED_FOLDER
from encoder.errors import ArgumentError, CheckpointError

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


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_batch_composition_changes_no_vector(bundled, batch_tokens):
    whole = bundled.encode_documents(TEXTS * 3)
    np.testing.assert_allclose(
        bundled.encode_documents(TEXTS * 3, batch_tokens=batch_tokens).vectors, whole.vectors, atol=1e-5
    )


def test_meaning_beats_words(bundled):
    """The model is trained: a paraphrase without a common word scores above an unrelated text."""
    passages = bundled.encode_documents(
        ["The physician examined the patient.", "The committee approved the annual budget."]
    )
    query = bundled.encode_queries(["a doctor checks someone who is sick"])[0]
    scores = maxsim(*(torch.from_numpy(x) for x in (query, passages.vectors, passages.offsets)))
    assert scores[0] > scores[1] + 0.2


def test_longer_documents_are_cut_and_counted():
    encoder = Encoder.load(document_length=16)
    out = encoder.encode_documents(["one two three", "word " * 100, "x " * 14, "x " * 15])
    assert out.truncated == 2
    assert out.lengths.tolist() == [5, 16, 16, 16]
    longer = Encoder.load(document_length=1024).encode_documents(["word " * 1000])
    assert (longer.truncated, longer.lengths.tolist()) == (0, [1002])


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
        (lambda e: e.encode_documents("text"), "one string"),
        (lambda e: e.encode_queries(["a", 3]), "text 1 is int"),
        (lambda e: e.encode_queries(["a"], batch_tokens=0), "batch_tokens=0"),
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
