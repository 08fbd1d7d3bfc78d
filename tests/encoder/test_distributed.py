"""Data parallel: two processes on one machine, by gloo, train what one process trains."""

import contextlib
import json
import multiprocessing
import os
import socket

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import encoder.training.classify as classify
import encoder.training.distill as distillation
import encoder.training.mlm as mlm
import encoder.training.objective as objective
from encoder.checkpoints.loading import Checkpoint, save_checkpoint
from encoder.model.late_interaction import LateInteractionModel
from encoder.training.classify import train_classifier
from encoder.training.configs import ClassifyConfig, DistillConfig, MlmConfig, RetrievalConfig
from encoder.training.distill import distill
from encoder.training.distributed import process_group, rank
from encoder.training.losses import contrastive_loss
from encoder.training.mlm import train_mlm
from encoder.training.retrieval import train_retrieval
from tests.helpers.toy_language import N_WORDS, SPECIALS, save_tokenizer, text, write_corpus


def train(number, world, port, place, name):
    """What each process runs; torchrun sets the same variables."""
    os.environ.update(RANK=str(number), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    # float32: in bfloat16 another order of summing would show.
    for module in (mlm, classify, objective, distillation):
        module.fast_matmul = lambda device: contextlib.nullcontext()
    config = MlmConfig(
        tokenizer=str(place / "tokenizer.json"), hidden_size=32, intermediate_size=32, layers=2, heads=2,
        length=64, batch_size=6, micro_batch=2,
        batch_size_start=3, batch_warmup=4, steps=8, warmup=2, lr=1e-3,
    )  # fmt: skip
    labels = ClassifyConfig(model=str(place / "init"), epochs=2, batch_size=5, lr=1e-3, length=32)
    texts = [(place / "texts.jsonl.gz", 1.0)]
    with process_group():
        train_mlm(texts, place / f"{name}-mlm", place / f"{name}-run", config)
        data = place / "labels.jsonl"
        train_classifier(data, data, place / f"{name}-labels", place / f"{name}-run2", labels)
        retrieve(place, name)
        student = DistillConfig(
            teacher=str(place / "teacher"), hidden_size=32, intermediate_size=32, layers=2, heads=2, half=False, dim=16,
            chunk_lengths=(8, 32), batch_tokens=256, steps=8, warmup=2, document_length=32, query_length=16,
        )  # fmt: skip
        out = place / f"{name}-distill"
        distill(texts, out, place / f"{name}-run5", student)


def retrieve(place, name):
    """One vector a text, evaluated and stopped early; late interaction in pieces with a teacher, stopped by an error
    and resumed."""
    pairs = [(place / "pairs.jsonl", 1.0)]
    common = {
        "model": str(place / "late"), "steps": 8, "batch_size": 7, "query_length": 16, "document_lengths": (16, 32),
        "temperature": 0.1, "lr": 1e-3, "embedding_lr": 1e-3, "warmup": 2,
    }  # fmt: skip
    evaluations = iter([0.5, 0.4])

    def evaluate(checkpoint):
        assert rank() == 0
        return {"nDCG@10": next(evaluations)}

    config = RetrievalConfig(**common, similarity="pooled", eval_every=3, patience=1)
    out, run = place / f"{name}-dense", place / f"{name}-run3"
    found = train_retrieval(pairs, out, run, config, evaluate=evaluate)
    assert found["nDCG@10"] == 0.5

    config = RetrievalConfig(
        **common, chunk_tokens=100, n_negatives=2, teacher=str(place / "teacher"), token_weight=1.0,
        teacher_kl_weight=0.3, save_every=2,
    )  # fmt: skip
    out, run = place / f"{name}-colbert", place / f"{name}-run4"
    calls = iter(range(1000))

    def dies(*arguments):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return contrastive_loss(*arguments)

    objective.contrastive_loss = dies
    with pytest.raises(KeyboardInterrupt):
        train_retrieval(pairs, out, run, config)
    objective.contrastive_loss = contrastive_loss
    train_retrieval(pairs, out, run, config)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    save_tokenizer(tmp_path / "tokenizer.json")
    write_corpus(tmp_path / "texts.jsonl.gz", 300)
    (tmp_path / "labels.jsonl").write_text(
        "".join(f'{{"text": "w{i} w{i + 1}", "label": {i % 2}}}\n' for i in range(23))
    )
    rows = [
        {"query": text(i, 3), "pos": text(i, 5 + i % 20), "negs": [text(i + 7, 9), text(i + 3, 30)]}
        for i in range(80)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = MlmConfig(
        tokenizer=str(tmp_path / "tokenizer.json"),
        hidden_size=32,
        intermediate_size=32,
        layers=2,
        heads=2,
        length=64,
    )
    model, tokenizer = mlm.open_model(start)
    mlm.save_heads(tmp_path / "init", model, tokenizer, {})
    save_checkpoint(tmp_path / "late", Checkpoint(LateInteractionModel(model.model, []), tokenizer))
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(SPECIALS) + N_WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=128, initializer_range=0.3,
        )
    ).save_pretrained(tmp_path / "teacher")  # fmt: skip
    save_tokenizer(tmp_path / "teacher" / "tokenizer.json")
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
    for kind in ("mlm", "labels", "dense", "colbert", "distill"):
        one, two = (load_file(tmp_path / f"{name}-{kind}" / "model.safetensors") for name in ("one", "two"))
        first = load_file(tmp_path / "init" / "model.safetensors")
        names = {key: key if key in first else f"model.{key}" for key in one}
        known = {k: first[n] for k, n in names.items() if n in first and first[n].shape == one[k].shape}
        assert max((one[k] - value).abs().max() for k, value in known.items()) > 1e-3, kind  # it did train
        apart = {key: float((two[key] - value).abs().max()) for key, value in one.items()}
        assert max(apart.values()) < 1e-5, (kind, apart)
