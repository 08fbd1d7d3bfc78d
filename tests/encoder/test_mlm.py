"""Pre-training at toy size: learning, exact resume, phases, masking, tiling, averages."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import encoder.training.mlm as mlm
from encoder import Encoder
from encoder.checkpoints.folder import read_json
from encoder.errors import ArgumentError, CheckpointError, CorpusError
from encoder.model.config import EncoderConfig
from encoder.model.heads import MaskedLanguageModel
from encoder.training.configs import MlmConfig
from encoder.training.mlm import mask_tokens, mlm_loss, open_model, plain_tokenizer, train_mlm
from encoder.training.tiling import average_checkpoints, tile_model, tile_tensor
from retriever.cli import app
from tests.helpers.toy_language import N_WORDS, save_tokenizer, write_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlm")
    save_tokenizer(folder / "tokenizer.json")
    write_corpus(folder / "texts.jsonl.gz")
    return folder


def config(place, **changes):
    values = {
        "tokenizer": str(place / "tokenizer.json"), "hidden_size": 64, "intermediate_size": 64, "layers": 2, "heads": 2,
        "length": 64, "batch_size": 8,
        "save_every": 100, "micro_batch": 8, "steps": 200, "warmup": 20, "decay": 100, "lr": 5e-3,
    }  # fmt: skip
    return MlmConfig(**{**values, **changes})


LEFT = 0.6  # the part of the held-out loss that may be left after 200 steps


@pytest.mark.slow
def test_layers_computed_anew_train_the_same_model(place, tmp_path):
    """Two steps with and without."""
    sources, losses = [(place / "texts.jsonl.gz", 1.0)], {}
    for anew in (False, True):
        out = tmp_path / str(anew)
        settings = config(place, steps=2, warmup=0, decay=0, save_every=1, recompute=anew)
        losses[anew] = train_mlm(sources, out / "out", out / "run", settings)["held_out_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)
    assert open_model(config(place, recompute=True))[0].model.recompute


@pytest.fixture(scope="module")
def trained(place):
    sources = [(place / "texts.jsonl.gz", 1.0)]
    result = train_mlm(sources, place / "out", place / "run", config(place, checkpoint_every=50))
    return place, result


@pytest.mark.slow
def test_hidden_words_are_learnt_and_bins_are_full(trained):
    _, result = trained
    assert result["held_out_loss_before"] == pytest.approx(np.log(64), abs=0.5)  # 45 tokens, rows to 64
    assert result["held_out_loss"] < LEFT * result["held_out_loss_before"], result
    assert result["filled"] >= 0.99


@pytest.mark.slow
def test_a_loss_with_its_sign_flipped_fails_that_test(place, tmp_path, monkeypatch):
    monkeypatch.setattr(mlm, "mlm_loss", lambda *a: -mlm_loss(*a))
    sources = [(place / "texts.jsonl.gz", 1.0)]
    result = train_mlm(sources, tmp_path / "o", tmp_path / "r", config(place, steps=60, decay=0))
    assert -result["held_out_loss"] > -result["held_out_loss_before"]


def losses(run):
    """(step, loss) of every line of the log, repeated steps included."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(place, tmp_path, monkeypatch):
    """Killed between two saves: the steps done twice have the same losses, and the weights are the same."""
    sources = [(place / "texts.jsonl.gz", 0.5)]  # some epochs within the 40 steps
    settings = config(
        place, steps=40, decay=10, batch_size_start=2, batch_warmup=30, micro_batch=3, save_every=10
    )
    train_mlm(sources, tmp_path / "whole", tmp_path / "run1", settings)

    with monkeypatch.context() as patch:
        calls = [0]

        def dies(*arguments):
            calls[0] += 1
            if calls[0] > 55:
                raise KeyboardInterrupt
            return mlm_loss(*arguments)

        patch.setattr(mlm, "mlm_loss", dies)
        with pytest.raises(KeyboardInterrupt):
            train_mlm(sources, tmp_path / "o", tmp_path / "run2", settings)
    done = len(losses(tmp_path / "run2"))
    assert done % 10, "killed between saves"
    train_mlm(sources, tmp_path / "resumed", tmp_path / "run2", settings)
    whole, resumed = dict(losses(tmp_path / "run1")), losses(tmp_path / "run2")
    assert len(resumed) == 40 + done % 10
    assert all(loss == whole[step] for step, loss in resumed)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_the_phases(trained, tmp_path):
    """Extension after pre-training: longer texts, another theta, the same weights and moments to begin with."""
    place, result = trained
    sources = [(place / "texts.jsonl.gz", 1.0)]
    second = config(
        place, tokenizer="", model=str(place / "run"), length=256, global_rope_theta=160_000.0, steps=2, warmup=0,
        decay=0, lr=1e-9, batch_size=2, save_every=1,
    )  # fmt: skip
    extended = train_mlm(sources, tmp_path / "out", tmp_path / "run", second)
    assert extended["held_out_loss_before"] < LEFT * result["held_out_loss_before"]
    raw = read_json(tmp_path / "out" / "config.json")
    assert (raw["global_rope_theta"], raw["local_rope_theta"], raw["max_position_embeddings"]) == (
        160_000,
        10_000,
        256,
    )
    assert read_json(place / "out" / "config.json")["global_rope_theta"] == 10_000
    steps = {
        v.item() for k, v in load_file(tmp_path / "run" / "state.safetensors").items() if k.endswith(".step")
    }
    assert steps == {202.0}
    same = replace(second, length=64, global_rope_theta=0.0, steps=1)
    begun = train_mlm(sources, tmp_path / "o", tmp_path / "run4", same)
    assert begun["held_out_loss_before"] == pytest.approx(result["held_out_loss"], rel=1e-4)
    # A saved folder begins the next phase too, with a fresh optimiser.
    third = replace(second, model=str(tmp_path / "out"), global_rope_theta=0.0)
    assert open_model(third)[0].config.global_rope_theta == 160_000
    train_mlm(sources, tmp_path / "o", tmp_path / "run3", third)
    state = load_file(tmp_path / "run3" / "state.safetensors")
    assert {v.item() for k, v in state.items() if k.endswith(".step")} == {2.0}


def test_masking_is_30_percent_in_80_10_10(place):
    tokenizer = plain_tokenizer(place / "tokenizer.json")
    random = np.random.default_rng(0)
    ids = random.integers(5, 5 + N_WORDS, 100_000)
    ids[::50], ids[49::50] = 2, 3
    inputs, labels = mask_tokens(ids, tokenizer, 0.3, random)
    chosen = labels != -100
    assert not chosen[::50].any()
    assert not chosen[49::50].any()
    assert (labels[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()
    words = len(ids) * 48 / 50
    masked, same = inputs[chosen] == 4, inputs[chosen] == ids[chosen]
    assert chosen.sum() / words == pytest.approx(0.3, abs=0.01)
    # A random token is the mask or the token itself once in 45.
    assert masked.mean() == pytest.approx(0.8 + 0.1 / 45, abs=0.01)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 45, abs=0.01)
    other = inputs[chosen][~masked & ~same]
    assert len(np.unique(other)) == 44


def test_checkpoints_and_their_average(trained, tmp_path):
    place, _ = trained
    folders = sorted((place / "run" / "checkpoints").iterdir())
    assert [f.name for f in folders] == [f"step-{s:08d}" for s in (50, 100, 150, 200)]
    result = CliRunner().invoke(
        app, ["train", "average", *map(str, folders[1:]), "--out", str(tmp_path / "mean")]
    )
    assert result.exit_code == 0, result.output
    parts = [load_file(f / "model.safetensors") for f in folders[1:]]
    for key, value in load_file(tmp_path / "mean" / "model.safetensors").items():
        torch.testing.assert_close(value, torch.stack([p[key] for p in parts]).mean(0))
    assert Encoder.load(tmp_path / "mean", document_length=32).n_parameters > 0
    (tmp_path / "other").mkdir()
    small = MlmConfig(
        tokenizer=str(place / "tokenizer.json"),
        hidden_size=32,
        intermediate_size=32,
        layers=1,
        heads=2,
        length=64,
    )
    model, tokenizer = open_model(small)
    mlm.save_heads(tmp_path / "other", model, tokenizer, {})
    with pytest.raises(ArgumentError, match="different shapes"):
        average_checkpoints([folders[0], tmp_path / "other"], tmp_path / "x")
    with pytest.raises(ArgumentError, match=r"no model\.safetensors"):
        average_checkpoints([folders[0], tmp_path], tmp_path / "x")
    (tmp_path / "other" / "1_Dense").mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, tmp_path / "other" / "1_Dense" / "model.safetensors")
    kinds = r"1_Dense/model\.safetensors, model\.safetensors.*; average models of one kind"
    for pair in ([folders[0], tmp_path / "other"], [tmp_path / "other", folders[0]]):
        with pytest.raises(ArgumentError, match=kinds):
            average_checkpoints(pair, tmp_path / "x")
    with pytest.raises(ArgumentError, match="is one of the models"):
        average_checkpoints(folders[:2], folders[0])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"cut/model\.safetensors cannot be read"):
        average_checkpoints([folders[0], tmp_path / "cut"], tmp_path / "x")


def test_tiling_equals_a_loop():
    small = torch.arange(12.0).view(3, 4)
    large = tile_tensor(small, (8, 7))
    for i in range(8):
        for j in range(7):
            assert large[i, j] == small[(i - 2) % 3, (j - 1) % 4]
    assert torch.equal(large[2:5, 1:5], small)  # in the middle, whole
    with pytest.raises(ArgumentError, match="must be larger"):
        tile_tensor(small, (2, 4))


@pytest.mark.slow
def test_a_large_model_from_a_small_one(trained, place, tmp_path):
    small = MaskedLanguageModel(EncoderConfig(64, 32, 48, 22, 2))
    small.initialise(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, layer in enumerate(small.model.layers):
            layer.mlp_norm.weight.fill_(i)
    large = MaskedLanguageModel(EncoderConfig(64, 64, 80, 28, 4))
    large.initialise(generator=torch.Generator().manual_seed(1))
    tile_model(large, small)
    layers = [int(layer.mlp_norm.weight[0]) for layer in large.model.layers]
    assert layers == [round(i * 22 / 28) for i in range(28)]
    assert sorted(set(layers)) == list(range(22))  # every layer of the small one is there
    big, own = large.model.layers[5], small.model.layers[4]
    q, k, v = big.attn.Wqkv.weight.split(64)
    for part, expected in zip((q, k, v), own.attn.Wqkv.weight.split(32), strict=True):
        torch.testing.assert_close(part[16:48, 16:48], expected)
    for part, expected in zip(big.mlp.Wi.weight.split(80), own.mlp.Wi.weight.split(48), strict=True):
        torch.testing.assert_close(part[16:64, 16:48], expected)
    embeddings = large.model.embeddings.tok_embeddings.weight
    torch.testing.assert_close(embeddings[:, 16:48], small.model.embeddings.tok_embeddings.weight)

    # As an option: a trained model tiled to twice its width begins better than at random.
    wide = config(
        place, hidden_size=128, intermediate_size=128, layers=4, heads=4, tile_from=str(place / "out")
    )
    random = replace(wide, tile_from="")
    sources = [(place / "texts.jsonl.gz", 1.0)]
    found = [
        train_mlm(
            sources,
            tmp_path / f"o{i}",
            tmp_path / f"r{i}",
            replace(c, steps=1, warmup=0, decay=0, batch_size=1),
        )
        for i, c in enumerate((wide, random))
    ]
    assert np.isfinite(found[0]["held_out_loss"])
    assert found[0]["held_out_loss_before"] != found[1]["held_out_loss_before"]


@pytest.mark.slow
def test_the_command(place, tmp_path):
    arguments = [
        "train", "mlm", f"{place / 'texts.jsonl.gz'}:0.9", "--out", tmp_path / "out", "--run", tmp_path / "run",
        "--tokenizer", place, "--size", "tiny", "--hidden-size", 32, "--layers", 2, "--heads", 2, "--steps", 3,
        "--warmup", 1, "--length", 32, "--batch-size", 4,
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "% full" in result.output
    raw = read_json(tmp_path / "out" / "config.json")
    assert (raw["hidden_size"], raw["num_hidden_layers"], raw["intermediate_size"]) == (32, 2, 384)
    result = CliRunner().invoke(app, [str(a) for a in [*arguments, "--size", "huge"]])
    assert "size='huge'" in str(result.exception)


def test_bad_input_is_one_clear_line(place, tmp_path):
    sources = [(place / "texts.jsonl.gz", 1.0)]
    for changes, message in (
        ({"tokenizer": ""}, "pass either model"),
        ({"model": "x"}, "pass either model"),
        ({"mask_rate": 1.0}, r"mask_rate=1\.0"),
        ({"warmup": 150}, "exceed steps=200"),
        ({"batch_size_start": 20}, "exceeds batch_size=8"),
        ({"length": 2}, "length=2; pass length >= 8"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train_mlm(sources, tmp_path / "o", tmp_path / message[:9], config(place, **changes))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        open_model(config(place, tokenizer=str(tmp_path)))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(CorpusError, match="no text in"):
        train_mlm([(tmp_path / "empty.jsonl", 1.0)], tmp_path / "o", tmp_path / "empty", config(place))
