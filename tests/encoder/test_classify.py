"""Classification at toy size: which half of the alphabet a text is of, whether a pair agrees, how long a text is."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ModernBertForSequenceClassification
from typer.testing import CliRunner

import encoder.training.classify as classify
import encoder.training.mlm as mlm
from encoder.errors import ArgumentError, CorpusError
from encoder.training.classify import classification_loss, train_classifier
from encoder.training.configs import ClassifyConfig, MlmConfig
from encoder.training.labels import LabelledText, encode_texts, label_names, metric, read_labelled
from encoder.training.mlm import plain_tokenizer
from retriever.cli import app
from tests.helpers.toy_language import N_WORDS, save_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tokenizer(folder / "tokenizer.json")
    shape = MlmConfig(
        tokenizer=str(folder / "tokenizer.json"),
        hidden_size=32,
        intermediate_size=32,
        layers=2,
        heads=2,
        length=64,
    )
    mlm.save_heads(folder, *mlm.open_model(shape), {"classifier_pooling": "mean"})
    return folder


def words(random, low, high):
    return " ".join(f"w{i}" for i in random.integers(low, high, random.integers(3, 12)))


def halves(random):
    label = int(random.integers(2))
    return {"text": words(random, 20 * label, 20 * label + 20), "label": ["low", "high"][label]}


def pairs(random):
    a, b = random.integers(2, size=2)
    return {
        "text": words(random, 20 * a, 20 * a + 20),
        "text_pair": words(random, 20 * b, 20 * b + 20),
        "label": int(a + b),
    }


def shares(random):
    """The part of the words that are of the upper half."""
    share = float(random.random())
    chosen = [
        int(random.integers(20, N_WORDS) if random.random() < share else random.integers(20))
        for _ in range(12)
    ]
    return {"text": " ".join(f"w{i}" for i in chosen), "label": float(np.mean([i >= 20 for i in chosen]))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, make in (("halves", halves), ("pairs", pairs), ("shares", shares)):
        for split, n in (("train", 320), ("dev", 100)):
            random = np.random.default_rng(n)
            rows = [make(random) for _ in range(n)]
            (folder / f"{name}-{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def train(data, name, out, model_dir, **changes):
    values = {"epochs": 6, "batch_size": 16, "lr": 3e-3, "length": 64}
    config = ClassifyConfig(model=str(model_dir), **{**values, **changes})
    return train_classifier(
        data / f"{name}-train.jsonl", data / f"{name}-dev.jsonl", out, out / "run", config
    )


# The best dev metric that 120 steps must reach, and the part of the dev loss that they may leave.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which", "least"),
    [
        ("halves", "", 0.95),
        ("halves", "mcc", 0.9),
        ("pairs", "f1", 0.9),
        ("shares", "", 0.9),
        ("shares", "pearson", 0.9),
    ],
)
def test_labels_are_learnt(name, which, least, data, model_dir, tmp_path):
    result = train(data, name, tmp_path, model_dir, metric=which)
    assert result["metric"] >= least, result
    assert result["dev_loss"] < 0.5 * result["dev_loss_before"], result


@pytest.mark.slow
def test_a_loss_with_its_sign_flipped_fails_that_test(data, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "classification_loss", lambda *a: -classification_loss(*a))
    result = train(data, "halves", tmp_path, model_dir, epochs=2)
    assert -result["dev_loss"] > -result["dev_loss_before"]
    assert result["metric"] < 0.5


@pytest.mark.slow
def test_the_best_on_dev_is_kept(data, model_dir, tmp_path, monkeypatch):
    values = iter([0.0, 0.5, 0.9, 0.7, 0.0])  # the first and the last are of evaluations for the loss alone
    monkeypatch.setattr(classify, "metric", lambda name, regression: lambda gold, found: next(values))
    saved = []

    def save(folder, model, tokenizer, about):
        mlm.save_heads(folder, model, tokenizer, about)
        saved.append(model.classifier.weight.detach().clone())

    monkeypatch.setattr(classify, "save_heads", save)
    result = train(data, "halves", tmp_path, model_dir, epochs=3)
    assert result["metric"] == 0.9
    assert len(saved) == 2
    assert torch.equal(load_file(tmp_path / "model.safetensors")["classifier.weight"], saved[1])


@pytest.mark.slow
def test_what_is_saved(data, model_dir, tmp_path):
    train(data, "halves", tmp_path, model_dir, epochs=1)
    theirs = ModernBertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "high", 1: "low"}
    assert theirs.config.classifier_pooling == "mean"  # as the model's config.json said
    tokenizer = plain_tokenizer(tmp_path)
    rows = read_labelled(data / "halves-dev.jsonl")
    ids = encode_texts(rows, tokenizer, 64)
    with torch.no_grad():
        found = [theirs(input_ids=torch.tensor([i])).logits.argmax().item() for i in ids]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    accuracy = np.mean([theirs.config.id2label[f] == r.label for f, r in zip(found, rows, strict=True)])
    assert accuracy == pytest.approx(log[-2]["metric"], abs=0.03)  # bfloat16 while training, float32 here


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(data, model_dir, tmp_path, monkeypatch):
    whole = train(data, "pairs", tmp_path / "whole", model_dir, epochs=2)
    assert whole["metric"] > 0
    calls = [0]

    def dies(*arguments):
        calls[0] += 1
        if calls[0] == 31:
            raise KeyboardInterrupt
        return classification_loss(*arguments)

    config = ClassifyConfig(str(model_dir), epochs=2, batch_size=16, lr=3e-3, length=64, save_every=7)
    paths = [data / "pairs-train.jsonl", data / "pairs-dev.jsonl", tmp_path / "resumed", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(classify, "classification_loss", dies)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(*paths, config)
    train_classifier(*paths, config)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_metrics_on_hand_computed_cases():
    gold, found = np.array([0.0, 0, 1, 1, 1]), np.array([0.0, 1, 1, 1, 0])
    assert metric("accuracy", regression=False)(gold, found) == pytest.approx(3 / 5)
    assert metric("f1", regression=False)(gold, found) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    mcc = (2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2)
    assert metric("mcc", regression=False)(gold, found) == pytest.approx(mcc)
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 4, 9, 100])
    assert metric("spearman", regression=True)(x, y) == pytest.approx(1.0)
    assert metric("pearson", regression=True)(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert metric("", regression=True)(x, np.ones(4)) == 0.0
    with pytest.raises(ArgumentError, match="metric='mcc' is not for numbers"):
        metric("mcc", regression=True)
    with pytest.raises(ArgumentError, match="metric='bleu'"):
        metric("bleu", regression=False)


def test_the_longer_of_a_pair_is_cut(model_dir):
    tokenizer = plain_tokenizer(model_dir)
    long, short = " ".join(f"w{i}" for i in range(20)), "w30 w31"

    def of(text, pair, length):
        return encode_texts([LabelledText(text, pair, 0)], tokenizer, length)[0]

    a, b = [5 + i for i in range(20)], [35, 36]
    assert of(long, short, 64) == [2, *a, 3, *b, 3]
    assert of(long, short, 10) == [2, *a[:5], 3, *b, 3]
    assert of(short, long, 10) == [2, *b, 3, *a[:5], 3]
    assert of(long, long, 10) == [2, *a[:4], 3, *a[:3], 3]
    assert of(long, "", 10) == [2, *a[:8], 3]


@pytest.mark.slow
def test_the_command(data, model_dir, tmp_path):
    arguments = [
        "train", "classify", data / "shares-train.jsonl", "--eval", data / "shares-dev.jsonl", "--model", model_dir,
        "--out", tmp_path / "out", "--run", tmp_path / "run", "--epochs", 0.5, "--pooling", "cls",
        "--metric", "pearson", "--length", 64,
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "best pearson" in result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["classifier_pooling"] == "cls"


def test_bad_labels_are_one_clear_line(data, model_dir, tmp_path):
    def file(*labels):
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps({"text": "w1", "label": label}) + "\n" for label in labels))
        return path

    assert label_names(read_labelled(file(2, 0, 1, 10))) == [0, 1, 2, 10]
    assert label_names(read_labelled(file("b", "a"))) == ["a", "b"]
    assert label_names(read_labelled(file(1, 2.5))) is None
    for labels, message in (((1, "a"), "numbers and strings"), (("a", "a"), "needs two")):
        with pytest.raises(CorpusError, match=message):
            label_names(read_labelled(file(*labels)))
    with pytest.raises(CorpusError, match=r"x\.jsonl:1 has 'label' = True"):
        read_labelled(file(True))
    (tmp_path / "y.jsonl").write_text('{"text": "w1"}\n')
    with pytest.raises(CorpusError, match=r"y\.jsonl:1 has no 'label'"):
        read_labelled(tmp_path / "y.jsonl")
    with pytest.raises(CorpusError, match="'mid' is not in the training file"):
        train_classifier(
            data / "halves-train.jsonl",
            file("mid"),
            tmp_path / "o",
            tmp_path / "r",
            ClassifyConfig(str(model_dir)),
        )
    with pytest.raises(ArgumentError, match="length=65 exceeds the model's 64 positions"):
        train(data, "halves", tmp_path / "z", model_dir, length=65)
