"""Data parallel: two processes on one machine, by gloo, train what one process trains."""

import contextlib
import multiprocessing
import os
import socket

import torch
from safetensors.torch import load_file

import encoder.training.classify as classify
import encoder.training.mlm as mlm
from encoder.training.classify import ClassifyConfig, train_classifier
from encoder.training.distributed import process_group
from encoder.training.mlm import MlmConfig, train_mlm
from tests.toy_language import save_tokenizer, write_corpus


def train(rank, world, port, place, name):
    """What each process runs; torchrun sets the same variables."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    # float32: in bfloat16 another order of summing would show.
    mlm.fast_matmul = classify.fast_matmul = lambda device: contextlib.nullcontext()
    config = MlmConfig(
        tokenizer=str(place / "tokenizer.json"), shape=(32, 32, 2, 2), length=64, batch_size=6, micro_batch=2,
        batch_size_start=3, batch_warmup=4, steps=8, warmup=2, lr=1e-3,
    )  # fmt: skip
    labels = ClassifyConfig(model=str(place / "init"), epochs=2, batch_size=5, lr=1e-3, length=32)
    with process_group():
        train_mlm([(place / "texts.jsonl.gz", 1.0)], place / f"{name}-mlm", place / f"{name}-run", config)
        data = place / "labels.jsonl"
        train_classifier(data, data, place / f"{name}-labels", place / f"{name}-run2", labels)


def test_two_processes_equal_one(tmp_path):
    save_tokenizer(tmp_path / "tokenizer.json")
    write_corpus(tmp_path / "texts.jsonl.gz", 300)
    (tmp_path / "labels.jsonl").write_text(
        "".join(f'{{"text": "w{i} w{i + 1}", "label": {i % 2}}}\n' for i in range(23))
    )
    start = MlmConfig(tokenizer=str(tmp_path / "tokenizer.json"), shape=(32, 32, 2, 2), length=64)
    mlm.save_heads(tmp_path / "init", *mlm.open_model(start), {})
    spawn = multiprocessing.get_context("spawn")
    with socket.socket() as probes:
        probes.bind(("127.0.0.1", 0))
        port = probes.getsockname()[1]
    processes = [spawn.Process(target=train, args=(r, 2, port, tmp_path, "two")) for r in range(2)]
    alone = spawn.Process(target=train, args=(0, 1, port + 1, tmp_path, "one"))
    for process in [*processes, alone]:
        process.start()
    for process in [*processes, alone]:
        process.join(300)
        assert process.exitcode == 0
    for kind in ("mlm", "labels"):
        one, two = (load_file(tmp_path / f"{name}-{kind}" / "model.safetensors") for name in ("one", "two"))
        first = load_file(tmp_path / "init" / "model.safetensors")
        moved = max((one[k] - first[k]).abs().max() for k in one.keys() & first.keys())
        assert moved > 1e-3  # it did train
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)
