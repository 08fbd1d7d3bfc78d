"""Distillation at toy size: a random BERT teaches a tiny student. The teacher is made by the test."""

import gzip
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

import encoder.training.distill as distillation
from encoder import Encoder
from encoder.errors import ArgumentError, CorpusError
from encoder.model.packing import pack
from encoder.training.configs import DistillConfig
from encoder.training.data import Chunks, read_texts
from encoder.training.distill import distill
from encoder.training.loop import warmup_linear
from encoder.training.losses import token_cosine_loss
from encoder.training.teacher import Teacher, principal_directions
from retriever.cli import app

WORDS = [f"word{i}" for i in range(60)]


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl.gz"
    random = np.random.default_rng(0)
    with gzip.open(path, "wt") as file:
        for _ in range(300):
            words = " ".join(random.choice(WORDS, random.integers(3, 40)))
            file.write(json.dumps({"query": words[:20], "pos": words}) + "\n")
    return path


def tiny(teacher_dir, **changes):
    values = {
        "teacher": str(teacher_dir), "hidden_size": 32, "intermediate_size": 32, "layers": 2, "heads": 2,
        "dim": 16, "chunk_lengths": (8, 16, 32), "batch_tokens": 256, "steps": 60, "warmup": 5, "document_length": 32,
        "query_length": 16, "save_every": 20,
    }  # fmt: skip
    return DistillConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def trained(teacher_dir, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = distill([(corpus, 1.0)], folder / "out", folder / "run", tiny(teacher_dir))
    return folder, result


def test_the_student_approaches_its_teacher(trained):
    _, result = trained
    assert result["held_out_cosine"] > result["held_out_cosine_before"] + 0.1


@pytest.mark.slow
def test_a_loss_with_its_sign_flipped_fails_that_test(teacher_dir, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "token_cosine_loss", lambda s, t: -token_cosine_loss(s, t))
    result = distill([(corpus, 1.0)], tmp_path / "out", tmp_path / "run", tiny(teacher_dir))
    assert result["held_out_cosine"] < result["held_out_cosine_before"]


def test_the_saved_model_loads_and_encodes(trained, teacher_dir):
    encoder = Encoder.load(trained[0] / "out")
    assert (encoder.dim, encoder.document_length, encoder.query_length) == (16, 32, 16)
    out = encoder.encode_documents(["word1 word2"])
    np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(trained, teacher_dir, corpus, tmp_path, monkeypatch):
    """Stopped after 30 of 60 steps by an error, then started again: the same weights as without a stop."""
    calls = [0]

    def stops(student, teacher):
        calls[0] += 1
        if calls[0] == 31:
            raise KeyboardInterrupt
        return token_cosine_loss(student, teacher)

    config = tiny(teacher_dir)
    monkeypatch.setattr(distillation, "token_cosine_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        distill([(corpus, 1.0)], tmp_path / "out", tmp_path / "run", config)
    monkeypatch.setattr(distillation, "token_cosine_loss", token_cosine_loss)
    distill([(corpus, 1.0)], tmp_path / "out", tmp_path / "run", config)
    assert Encoder.load(tmp_path / "out").fingerprint == Encoder.load(trained[0] / "out").fingerprint


def test_a_run_folder_of_other_settings_is_refused(trained, teacher_dir, corpus):
    folder, _ = trained
    with pytest.raises(ArgumentError, match="seed=0, now 1"):
        distill([(corpus, 1.0)], folder / "out2", folder / "run", tiny(teacher_dir, seed=1))


def test_the_command(teacher_dir, corpus, tmp_path):
    arguments = [
        "train", "distill", f"{corpus}:0.5", "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run"),
        "--teacher", str(teacher_dir), "--steps", "2", "--batch-tokens", "256", "--hidden-size", "32",
        "--layers", "1", "--heads", "2", "--dim", "8",
    ]  # fmt: skip
    # The default chunk lengths go beyond this teacher's 64 positions: said in one line, before any work.
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ArgumentError)
    assert "64 positions" in str(result.exception)


def test_teacher_equals_transformers(teacher_dir):
    teacher = Teacher(teacher_dir)
    sequences = [[2, 7, 8, 9, 3], [2, 10, 3]]
    rows = teacher(pack(sequences)).split([5, 3])
    for ids, own in zip(sequences, rows, strict=True):
        with torch.no_grad():
            hidden = teacher.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(own, torch.nn.functional.normalize(hidden, dim=-1), atol=1e-5, rtol=0)
    singles = teacher.single_token_vectors()
    torch.testing.assert_close(singles[10], rows[1][1], atol=1e-5, rtol=0)


def test_principal_directions_keep_dot_products():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(500, 4, generator=generator) @ torch.randn(4, 20, generator=generator)
    directions = principal_directions(low, 4)
    torch.testing.assert_close(directions.T @ directions, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close((low @ directions) @ (low @ directions).T, low @ low.T, atol=1e-3, rtol=1e-4)


def test_batches_depend_on_the_seed_alone_and_resume_anywhere():
    chunks = Chunks(np.arange(1000, dtype=np.uint16), np.arange(0, 1001, 10))
    first = [b.input_ids.tolist() for b, _ in zip(chunks.batches(64, seed=3), range(40), strict=False)]
    later = [
        b.input_ids.tolist() for b, _ in zip(chunks.batches(64, seed=3, start=25), range(15), strict=False)
    ]
    assert later == first[25:]
    assert first != [
        b.input_ids.tolist() for b, _ in zip(chunks.batches(64, seed=4), range(40), strict=False)
    ]
    epoch = [i for ids in first for i in ids][:1000]
    assert sorted(i for ids in first[:17] for i in ids) == sorted(range(1000)), len(epoch)


def test_schedule():
    assert [warmup_linear(s, 10, 2) for s in (0, 1, 2, 6, 10)] == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_bad_texts_are_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"pos": "fine"}\nnot json\n')
    with pytest.raises(CorpusError, match=r"x\.jsonl:2 is not JSON"):
        list(read_texts(path))
    path.write_text('{"name": "no text"}\n')
    with pytest.raises(CorpusError, match="has none of query, pos"):
        list(read_texts(path))


@pytest.mark.slow
def test_a_second_run_starts_from_the_first(trained, teacher_dir, corpus, tmp_path):
    folder, result = trained
    config = tiny(teacher_dir, start_from=str(folder / "run"), steps=1, lr=1e-9, embedding_lr=1e-9)
    second = distill([(corpus, 0.5)], tmp_path / "out", tmp_path / "run", config)
    assert second["held_out_cosine_before"] == pytest.approx(
        result["held_out_cosine"], abs=0.06
    )  # other held-out chunks
    assert second["held_out_cosine_before"] > result["held_out_cosine_before"] + 0.1
    with pytest.raises(ArgumentError, match="no folder of a distillation run"):
        distill([(corpus, 1.0)], tmp_path / "o", tmp_path / "r", tiny(teacher_dir, start_from="nowhere"))
