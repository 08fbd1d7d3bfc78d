"""LightEncoder against Encoder: the same vectors, tokens and fingerprint, without torch."""

import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from encoder import Encoder
from encoder.errors import ArgumentError, CheckpointError
from encoder.light import LightEncoder, NeedsTorchError, encoder_for_searching
from encoder.model import light_modernbert
from encoder.model.config import ACTIVATIONS
from encoder.threads import numpy_libraries
from tests.helpers import checkpoints

ROOT = Path(__file__).parent.parent.parent
BUNDLED_FOLDER = ROOT / "encoder" / "models" / "latewood-mini"
CLOSE = 1e-4  # in every component of a unit vector


def some_text(tokenizer, n, seed):
    words = [w for w in sorted(tokenizer.tokenizer.get_vocab()) if w.isalpha()]
    return " ".join(random.Random(seed).choices(words, k=n))


def assert_alike(light, heavy, n_texts=6, longest=60):
    assert light.fingerprint == heavy.fingerprint
    assert light.load_arguments == heavy.load_arguments
    assert (light.name, light.dim, light.document_length) == (heavy.name, heavy.dim, heavy.document_length)
    rng = random.Random(3)
    texts = ["", "a"] + [some_text(heavy.tokenizer, rng.randint(1, longest), i) for i in range(n_texts)]
    for kind in ("queries", "documents"):
        ours, theirs = (getattr(one, f"encode_{kind}")(texts) for one in (light, heavy))
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        assert ours.truncated == theirs.truncated
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
        np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=0, atol=CLOSE)


@pytest.fixture(scope="module")
def bundled():
    return LightEncoder.load(), Encoder.load()


@pytest.mark.slow
def test_the_bundled_model(bundled):
    light, heavy = bundled
    assert_alike(light, heavy, 30, 300)
    assert light.query_tokens("cardiac muscle") == heavy.query_tokens("cardiac muscle")
    assert light.document_tokens("a heart, beating") == heavy.document_tokens("a heart, beating")


@pytest.mark.parametrize("length", [700, pytest.param(8192, marks=pytest.mark.slow)])
def test_a_long_text_with_local_layers(bundled, length):
    arguments = {"document_length": length, "skiplist_words": ()}
    light, heavy = LightEncoder.load(**arguments), Encoder.load(**arguments)
    texts = [some_text(heavy.tokenizer, length, length), some_text(heavy.tokenizer, 100, 2)]
    ours, theirs = light.encode_documents(texts), heavy.encode_documents(texts)
    assert theirs.truncated == ours.truncated == 1
    assert len(ours[0]) == length
    np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=0, atol=CLOSE)


@pytest.mark.slow
def test_a_long_text_in_tiles_is_the_same(bundled, monkeypatch):
    light, heavy = bundled
    texts = [some_text(heavy.tokenizer, 170, i) for i in range(3)]
    monkeypatch.setattr(light_modernbert, "SCORES", 1)
    monkeypatch.setattr(light_modernbert, "LONG_ROWS", 30)
    ours = light.encode_documents(texts)
    np.testing.assert_allclose(ours.vectors, heavy.encode_documents(texts).vectors, rtol=0, atol=CLOSE)


@pytest.mark.slow
def test_several_threads_compute_batches_at_once_and_give_the_same(bundled, monkeypatch):
    light, _ = bundled
    texts = [some_text(light.tokenizer, 40 + i, i) for i in range(7)]
    alone = light.encode_documents(texts)
    seen, both = [], threading.Barrier(2, timeout=60)

    def computed(ids, n_keys):
        if len(seen) < 2:
            seen.append(threading.get_ident())
            both.wait()  # a second thread is at work while this one is
        return model(ids, n_keys)

    model = light.model
    monkeypatch.setattr("encoder.light.thread_count", lambda: 2)
    monkeypatch.setattr(light, "model", computed)
    together = light.encode_documents(texts, batch_tokens=64)
    assert len(set(seen)) == 2
    np.testing.assert_array_equal(together.offsets, alone.offsets)
    np.testing.assert_allclose(together.vectors, alone.vectors, rtol=0, atol=1e-5)


SHAPES = {
    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
    "one head": {"num_attention_heads": 1},
    "narrow heads": {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 40},
    "narrow window": {"local_attention": 4},
    "only global": {"global_attn_every_n_layers": 1},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_other_shapes(tmp_path, changes):
    checkpoints.modernbert(tmp_path, **changes)
    if any(name.endswith("bias") for name in changes):
        path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
        weights = load_file(path)
        assert any(name.endswith("bias") for name in weights)
        for name, array in weights.items():
            if name.endswith("bias"):  # made as zeros
                weights[name] = rng.normal(size=array.shape).astype(np.float32)
        save_file(weights, path)
    assert_alike(LightEncoder.load(tmp_path), Encoder.load(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_heads_with_bias_residual_and_activation(tmp_path, activation, residual):
    checkpoints.modernbert(tmp_path)
    width = json.loads((tmp_path / "config.json").read_text())["hidden_size"]
    rng = np.random.default_rng(0)
    parts = []
    for i, (rows, columns) in enumerate([(width, width), (24, width)], 1):
        weights = {"linear.weight": rng.normal(size=(rows, columns)), "linear.bias": rng.normal(size=rows)}
        if residual and rows != columns:
            weights["residual.weight"] = rng.normal(size=(rows, columns))
        part = tmp_path / f"{i}_Dense"
        part.mkdir()
        save_file({k: v.astype(np.float32) for k, v in weights.items()}, part / "model.safetensors")
        config = {"in_features": columns, "out_features": rows, "bias": True, "use_residual": residual}
        (part / "config.json").write_text(json.dumps(config | {"activation_function": activation}))
        parts.append((part.name, "pylate.models.Dense.Dense"))
    checkpoints.modules(tmp_path, *parts)
    assert_alike(LightEncoder.load(tmp_path), Encoder.load(tmp_path))


def test_expansion_that_nobody_sees_and_settings_asked_for(tmp_path):
    checkpoints.pylate(tmp_path, do_query_expansion=True, attend_to_expansion_tokens=False)
    arguments = {"query_length": 200, "document_length": 20, "skiplist_words": ["a"], "pool_factor": 2}
    light, heavy = LightEncoder.load(tmp_path, **arguments), Encoder.load(tmp_path, **arguments)
    assert_alike(light, heavy)
    with pytest.raises(ArgumentError, match="pool_factor=2: a vector stands for several tokens"):
        light.document_tokens("a b")


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_numbers_that_numpy_has(tmp_path, kind):
    checkpoints.pylate(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: array.astype(kind) for name, array in load_file(path).items()}, path)
    assert_alike(LightEncoder.load(tmp_path), Encoder.load(tmp_path))


def test_gelu_is_right_to_float32():
    x = np.linspace(-30, 30, 100_001, dtype=np.float32)
    ours = light_modernbert.gelu(x)
    exact = [value * 0.5 * (1 + math.erf(value / 2**0.5)) for value in x.tolist()]
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6)


# What only torch computes ----------------------------------------------------------------------------------


def bfloat16(folder):
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path)


def pickled(folder):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "why"), [(bfloat16, "BF16"), (pickled, "pytorch_model.bin is no safetensors file")]
)
def test_what_numpy_cannot_read_is_left_to_torch_and_said_once(tmp_path, caplog, change, why):
    checkpoints.pylate(tmp_path)
    change(tmp_path)
    with pytest.raises(NeedsTorchError, match=why):
        LightEncoder.load(tmp_path)
    with caplog.at_level(logging.WARNING, "latewood"):
        for _ in range(2):
            encoder = encoder_for_searching({"name": str(tmp_path)})
            assert isinstance(encoder, Encoder)
    assert len(caplog.messages) == 1
    assert why in caplog.messages[0]


def test_another_family_is_left_to_torch(tmp_path):
    checkpoints.pylate(tmp_path, checkpoints.bert)
    with pytest.raises(NeedsTorchError, match="model_type='bert'"):
        LightEncoder.load(tmp_path)
    assert isinstance(encoder_for_searching({"name": str(tmp_path)}), Encoder)


@pytest.mark.slow
def test_a_device_means_torch():
    assert isinstance(encoder_for_searching({"name": "bundled"}, "cpu"), Encoder)
    assert isinstance(encoder_for_searching({"name": "bundled"}), LightEncoder)


def nan(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0] = np.nan
    save_file(weights, path)


def lacking(folder):
    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "final_norm" not in k}, path)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nan, "holds NaN or infinite values"),
        (lacking, "weights lack 'final_norm.weight'"),
        (cut, r"model\.safetensors cannot be read"),
        (lambda f: shutil.rmtree(f / "1_Dense"), "1_Dense' is not there"),
    ],
)
def test_bad_folders_are_refused_as_by_torch(tmp_path, change, said):
    checkpoints.pylate(tmp_path)
    change(tmp_path)
    for kind in (LightEncoder, Encoder):
        with pytest.raises(CheckpointError, match=said):
            kind.load(tmp_path)


@pytest.mark.slow
def test_lengths_beyond_the_positions_are_refused():
    for kind in (LightEncoder, Encoder):
        with pytest.raises(ArgumentError, match="document_length=9000 exceeds the model's 8192 positions"):
            kind.load(document_length=9000)


@pytest.mark.parametrize("kind", [LightEncoder, Encoder])
def test_an_argument_that_is_not_known_is_refused(kind):
    with pytest.raises(ArgumentError, match=r"query_lenght is no option of Asked; .*query_length"):
        kind.load(query_lenght=32)


@pytest.mark.slow
def test_it_imports_no_torch():
    code = (
        "import sys; from encoder.light import LightEncoder; LightEncoder.load().encode_queries(['a']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


@pytest.mark.slow
def test_encoding_takes_one_thread_of_numpy_and_gives_the_others_back(monkeypatch):
    """Several that wait for each other by spinning are many times slower beside another busy program."""
    light, during = LightEncoder.load(), []
    run = light.model.__class__.__call__

    def counts():
        return [one["num_threads"] for one in numpy_libraries().info() if one["user_api"] == "blas"]

    def noted(model, *arguments):
        during.extend(counts())
        return run(model, *arguments)

    monkeypatch.setattr(light.model.__class__, "__call__", noted)
    with threadpool_limits(2, user_api="blas"):
        light.encode_queries(["a query"])
        after = counts()
    assert during
    assert set(during) == {1}
    assert set(after) == {2}


@pytest.mark.slow
def test_weights_saved_in_float16_and_in_float32_are_known_by_one_fingerprint(tmp_path):
    """And a float32 that float16 does not hold by another."""
    found = []
    for name, kind, change in (("a", np.float16, 0), ("b", np.float32, 0), ("c", np.float32, 1e-5)):
        shutil.copytree(BUNDLED_FOLDER, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        arrays = {key: array.astype(kind) for key, array in weights.items()}
        arrays["final_norm.weight"][0] += change
        save_file(arrays, tmp_path / name / "model.safetensors")
        light = LightEncoder.load(tmp_path / name)
        assert light.fingerprint == Encoder.load(tmp_path / name).fingerprint
        found.append((light.fingerprint, light.encode_queries(["hearts and banks"]).vectors))
    assert found[0][0] == found[1][0] != found[2][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
