"""One contender of encoding.py or teacher_speed.py, in a process of its own: JSON lines in, JSON lines out.

Every contender does the same work, texts → unit token vectors in float32 numpy, on the same token ids.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Rows = list[np.ndarray]
Encode = Callable[[list[str], int, int], Rows]  # texts, document_length, texts in a padded batch


def main(contender: str, folder: str, texts_file: str) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sets = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    kind, _, precision = contender.partition(" ")
    encode = CONTENDERS[kind](folder, precision)
    print(json.dumps({"rss": peak()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        given = sets[request["set"]]
        if request.get("profile"):
            print(json.dumps({"table": profile(encode, given)}), flush=True)
            continue
        cpu, wall = time.process_time(), time.perf_counter()
        parts = [[text] for text in given["texts"]] if given.get("alone") else [given["texts"]]
        rows = [row for part in parts for row in encode(part, given["length"], request["batch"])]
        answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        answer |= {"tokens": sum(map(len, rows)), "rss": peak()}
        if "save" in request:
            np.save(request["save"], np.concatenate(rows))
        print(json.dumps(answer), flush=True)


def profile(encode: Encode, given: dict[str, Any]) -> str:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        encode(given["texts"], given["length"], 1)
    total = sum(event.self_cpu_time_total for event in record.key_averages())
    parts = sorted(record.key_averages(), key=lambda event: -event.self_cpu_time_total)[:8]
    return "\n".join(
        f"| `{event.key.removeprefix('aten::')}` | {event.count} | {event.self_cpu_time_total / 1e3:,.0f} ms "
        f"| {100 * event.self_cpu_time_total / total:.1f} % |"
        for event in parts
    )


def peak() -> int:
    """Peak resident memory of this process, bytes. On Linux ru_maxrss starts at the parent's peak: not used there."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def latewood(folder: str, precision: str) -> Encode:
    from encoder import Encoder

    # fp32 is the default on a CPU; the argument is left out so that releases without it run too.
    encoder = Encoder.load(folder, device="cpu", **({} if precision == "fp32" else {"precision": precision}))

    def encode(texts: list[str], length: int, batch: int) -> Rows:
        encoder.tokenizer.settings = replace(encoder.tokenizer.settings, document_length=length)
        return list(encoder.encode_documents(texts))

    return encode


def operations(folder: str, _: str) -> Encode:
    """Latewood with its batches one after another, as torch's threads share out each operation."""
    from encoder import encode, workers

    encode.run_jobs = lambda model, device, jobs: ((job, workers.run_job(model, device, job)) for job in jobs)
    encode.batches_at_once = lambda device: 1
    return latewood(folder, "fp32")


def processes(folder: str, _: str) -> Encode:
    """Latewood with a worker process for each thread. CPU time leaves out what the processes take."""
    from encoder import Encoder

    encoder = Encoder.load(folder, device="cpu", document_length="max", workers=torch.get_num_threads())

    def encode(texts: list[str], length: int, batch: int) -> Rows:
        return list(encoder.encode_documents(texts))

    return encode


def transformers(folder: str, _: str) -> Encode:
    """What a careful user writes: texts sorted by length, padded batches, sdpa, the padding cut off again."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    from encoder.checkpoints.loading import load_checkpoint

    tokenizer = load_checkpoint(Path(folder)).tokenizer
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
    head = sorted(Path(folder).glob("*_Dense"))
    weights = [load_file(part / "model.safetensors")["linear.weight"] for part in head]

    @torch.inference_mode()
    def encode(texts: list[str], length: int, batch: int) -> Rows:
        tokenizer.settings = replace(tokenizer.settings, document_length=length)
        ids = tokenizer.documents(texts).ids
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: Rows = [np.empty(0)] * len(ids)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            width = len(ids[chosen[0]])
            padded = torch.tensor(
                [ids[i] + [model.config.pad_token_id] * (width - len(ids[i])) for i in chosen]
            )
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in chosen])
            hidden = model(input_ids=padded, attention_mask=mask).last_hidden_state
            for weight in weights:
                hidden = F.linear(hidden, weight)
            vectors = F.normalize(hidden, dim=-1).numpy()
            for i, row in zip(chosen, vectors, strict=True):
                rows[i] = row[: len(ids[i])]
        return rows

    return encode


def sentence_transformers(folder: str, _: str) -> Encode:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(folder, device="cpu")

    def encode(texts: list[str], length: int, batch: int) -> Rows:
        model[0].document_length = length
        rows = model.encode_document(texts, batch_size=batch, convert_to_numpy=True, show_progress_bar=False)
        return list(rows)

    return encode


def bert_transformers(folder: str, _: str) -> Encode:
    """A BERT folder by BertModel: texts sorted by length, padded batches, a vector for every token."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()

    @torch.inference_mode()
    def encode(texts: list[str], length: int, batch: int) -> Rows:
        ids = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: Rows = [np.empty(0)] * len(ids)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            padded = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
            vectors = F.normalize(model(**padded).last_hidden_state, dim=-1).numpy()
            for i, row in zip(chosen, vectors, strict=True):
                rows[i] = row[: len(ids[i])]
        return rows

    return encode


def bert_sentence_transformers(folder: str, _: str) -> Encode:
    """A BERT folder by SentenceTransformer, as its users load it, but asked for the vector of every token."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")

    def encode(texts: list[str], length: int, batch: int) -> Rows:
        model.max_seq_length = length
        rows = model.encode(texts, batch_size=batch, output_value="token_embeddings", show_progress_bar=False)
        return [F.normalize(row, dim=-1).numpy() for row in rows]

    return encode


CONTENDERS: dict[str, Callable[[str, str], Encode]] = {
    "latewood": latewood,
    "operations": operations,
    "processes": processes,
    "transformers": transformers,
    "sentence-transformers": sentence_transformers,
    "bert-transformers": bert_transformers,
    "bert-sentence-transformers": bert_sentence_transformers,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
