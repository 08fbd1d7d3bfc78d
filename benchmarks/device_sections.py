"""The parts of device.py: each takes a device and amounts, and gives figures by name as they are measured."""

import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vectors import DIM, synthetic_blocks

from encoder import Encoder
from encoder.embeddings import TokenEmbeddings
from encoder.model.config import DenseConfig, EncoderConfig
from encoder.model.late_interaction import Dense, LateInteractionModel
from encoder.model.modernbert import ModernBert
from encoder.model.packing import length_sorted_batches, pack

__all__ = [
    "MissingError",
    "Sizes",
    "against_transformers",
    "base",
    "bundled",
    "chunks",
    "coding",
    "fused_kernels",
    "indexing_texts",
    "maxsim_kernel",
    "query_vectors",
    "recall",
    "search",
    "train_long",
    "train_short",
]

# Dense bf16, in TFLOP/s, as NVIDIA states them.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "B200": 2250, "L40S": 362, "L4": 121}


BASE = EncoderConfig()


class MissingError(Exception):
    """Why a figure cannot be had."""


@dataclass(frozen=True)
class Sizes:
    """texts: of about 200 tokens. tokens: that base encodes, and a codec codes. lengths: mean and longest."""

    texts: int = 20_000
    base: EncoderConfig = BASE
    tokens: int = 1_000_000
    lengths: tuple[int, int] = (512, 8192)
    searched: int = 100_000_000
    nlist: int = 65_536
    queries: int = 512
    built: int = 300_000
    repeats: int = 5

    @classmethod
    def tiny(cls) -> "Sizes":
        base = EncoderConfig(
            vocab_size=500, hidden_size=64, intermediate_size=96, num_layers=3, num_heads=2, pad_id=0
        )
        return cls(12, base, 3000, (32, 128), 30_000, 256, 64, 6000, 1)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The best of some runs, after one that is not counted, in seconds."""
    seconds = []
    for _ in range(repeats + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def only_on_a_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        raise MissingError(f"{device} is no GPU")


def fused_kernels(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    only_on_a_gpu(device)
    from encoder.model.fused import PLAIN, passes_on

    made = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.inference_mode():
        x = (3 * torch.randn(999, 768, generator=made)).to(device, torch.bfloat16)
        angles = 100 * torch.randn(999, 32, generator=made).to(device)
        qkv = torch.randn(999, 3, 12, 64, generator=made).to(device, torch.bfloat16)
        weight = 1 + torch.randn(768, generator=made).to(device, torch.bfloat16) / 9
        passes = passes_on(x)
        if passes is PLAIN:
            raise MissingError("Triton builds no kernels here")
        cases: list[tuple[str, list[Any]]] = [
            ("geglu", [x]),
            ("add_norm", [x, x.flip(0), weight, None, 1e-5]),
            ("rotate", [qkv, angles.cos(), angles.sin()]),
        ]
        for name, given in cases:
            copies = [[a.clone() if isinstance(a, Tensor) else a for a in given] for _ in range(2)]
            exact = [a.float() if isinstance(a, Tensor) else a for a in given]
            rows = [both(getattr(passes, name)(*copies[0])), both(getattr(PLAIN, name)(*copies[1]))]
            best = both(getattr(PLAIN, name)(*exact))
            errors = [
                [float((a.float() - b).abs().max()) for a, b in zip(own, best, strict=True)] for own in rows
            ]
            worst = max(worst, *(a / max(b, 1e-6) for a, b in zip(*errors, strict=True)))
    yield "fused kernels: error, in parts of torch's own", worst


def maxsim_kernel(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    only_on_a_gpu(device)
    from retriever.kernels import torch_codes

    if torch_codes._kernel(device) is torch_codes._by_torch:
        raise MissingError("Triton builds no kernels here")
    snapshot = made_snapshot(replace(sizes, searched=200_000, nlist=1024))
    from retriever.ranking.device import DeviceIndex

    index, plan, queries = DeviceIndex(snapshot, device), full_plan(snapshot), made_queries(4)
    by_kernel = [index.scores(query, plan) for query in queries]
    kept = torch_codes._kernel
    torch_codes._kernel = lambda _: torch_codes._by_torch  # type: ignore[assignment]
    try:
        by_torch = [index.scores(query, plan) for query in queries]
    finally:
        torch_codes._kernel = kept
    differences = [float(np.abs(a - b).max()) for a, b in zip(by_kernel, by_torch, strict=True)]
    yield "MaxSim kernel: largest difference from torch", max(differences)


def both(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def bundled(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    encoder, texts = Encoder.load(device=device), made_texts(sizes.texts)
    most = 4096 if encoder.on_device is None else encoder.on_device.batch_tokens
    batches = made_batches([200] * max(1, sizes.tokens // 200), most, device, 400)
    yield (
        "bundled model alone",
        sizes.tokens / timed(lambda: run(encoder.model, batches), device, sizes.repeats),
    )
    tokens = sum(map(len, encoder.tokenizer.documents(texts).ids))
    seconds = timed(lambda: encoder.encode_documents(texts), device, sizes.repeats)
    yield "bundled model, texts to vectors", tokens / seconds


def query_vectors(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    encoder, texts = Encoder.load(device=device), made_texts(50)
    asked, alone, seconds = [text[:80] for text in texts], [], []
    encoder.encode_queries(asked[:1])
    for query in asked:
        started = time.perf_counter()
        alone.append(encoder.encode_queries([query]).vectors)
        seconds.append(time.perf_counter() - started)
    yield "a query's vectors, median", 1000 * statistics.median(seconds)
    if encoder.on_device is not None:
        together = encoder.encode_queries(asked).vectors
        difference = np.abs(np.concatenate(alone) - together).max()
        yield "a query alone: largest difference from a batch", float(difference)


def base(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    lengths = mixed(sizes)
    model = base_model(sizes.base).to(device, half(device)).eval()
    batches = made_batches(lengths, 32_768, device, sizes.base.vocab_size)
    speed = sum(lengths) / timed(lambda: run(model, batches), device, sizes.repeats)
    yield "base, mixed lengths", speed
    only_on_a_gpu(device)
    name = torch.cuda.get_device_name(device)
    peaks = [peak for part, peak in PEAKS.items() if part in name]
    if not peaks:
        raise MissingError(f"nobody has stated the peak of {name} here")
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    yield "base, share of the bf16 peak", speed * 2 * linear / (peaks[0] * 1e12)


def against_transformers(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    if importlib.util.find_spec("transformers") is None:
        raise MissingError("transformers is not installed")
    ours = base_model(sizes.base).to(device, half(device)).eval()
    theirs = transformers_model(sizes.base, device, half(device))
    cases = [("mixed lengths", mixed(sizes), 32_768), ("the longest", [sizes.lengths[1]] * 4, 10**9)]
    for name, lengths, most in cases:
        batches, padded = made_batches(lengths, most, device, 400), padded_batches(lengths, most, device)
        seconds = timed(lambda batches=batches: run(ours, batches), device, sizes.repeats)
        yield (
            f"base, times transformers at {name}",
            timed(lambda padded=padded: run_padded(theirs, padded), device, sizes.repeats) / seconds,
        )


def mixed(sizes: Sizes) -> list[int]:
    """Lengths around a mean."""
    mean, longest = sizes.lengths
    drawn = np.random.default_rng(0).normal(mean, mean / 2, sizes.tokens // mean)
    return np.clip(drawn, 16, longest).astype(int).tolist()


def half(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def made_texts(n: int) -> list[str]:
    random = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(random.choice(syllables, 2)) for _ in range(3000)]
    return [" ".join(random.choice(words, size)) for size in random.integers(20, 160, n)]


def base_model(config: EncoderConfig) -> LateInteractionModel:
    backbone = ModernBert(config)
    backbone.initialise(generator=torch.Generator().manual_seed(0))
    return LateInteractionModel(backbone, [Dense(DenseConfig(config.hidden_size, DIM))])


def made_batches(lengths: list[int], most: int, device: torch.device, vocabulary: int) -> list[Any]:
    random = np.random.default_rng(0)
    return [
        pack([random.integers(3, vocabulary, lengths[i]).tolist() for i in own]).to(device)
        for own in length_sorted_batches(lengths, most)
    ]


def padded_batches(lengths: list[int], most: int, device: torch.device) -> list[Tensor]:
    """Sorted by length, of about as many tokens; masks of 1 where there is a token."""
    found = []
    for own in length_sorted_batches(lengths, most):
        longest = max(lengths[i] for i in own)
        found.append(
            (torch.arange(longest) < torch.tensor([lengths[i] for i in own])[:, None]).long().to(device)
        )
    return found


@torch.inference_mode()
def run(model: LateInteractionModel, batches: list[Any]) -> None:
    for batch in batches:
        model(batch)


@torch.inference_mode()
def run_padded(model: Any, masks: list[Tensor]) -> None:
    for mask in masks:
        model(input_ids=7 * mask, attention_mask=mask)


def transformers_model(config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    theirs = ModernBertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        pad_token_id=0,
        bos_token_id=1,
        cls_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        attn_implementation="flash_attention_2" if flash else "sdpa",
    )
    return ModernBertModel(theirs).to(device, dtype).eval()


def coding(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    from indexing.coding.codec import Codec

    vectors = np.concatenate([block.reshape(-1, DIM) for block in synthetic_blocks(sizes.tokens)])
    token_ids = np.random.default_rng(0).zipf(1.3, len(vectors)).clip(max=20_000).astype(np.int32)
    sample = slice(0, min(len(vectors), 1 << 19))
    nlist = min(32_768, len(vectors) // 16)
    started = time.perf_counter()
    codec = Codec.train(vectors[sample], nlist, 16, 0, token_ids[sample], device)
    yield "training a codec", time.perf_counter() - started
    halves = vectors.astype(np.float16)
    yield (
        "coding vectors",
        len(halves) / timed(lambda: codec.encode(halves, token_ids), device, sizes.repeats),
    )


def indexing_texts(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    from indexing import Index

    encoder, texts = Encoder.load(device=device), made_texts(sizes.texts)
    seconds = timed(lambda: encoder.encode_documents(texts), device, 1)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        with Index.create(Path(place) / "x", encoder, device=device, flat_tokens=sizes.tokens // 4) as index:
            index.add({"doc_id": str(i), "text": text} for i, text in enumerate(texts))
        yield "indexing, share of the encoder's speed", seconds / (time.perf_counter() - started)


def search(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    from retriever.ranking.device import DeviceIndex

    snapshot = made_snapshot(sizes)
    index, plan, queries = DeviceIndex(snapshot, device), full_plan(snapshot), made_queries(sizes.queries)
    yield "tokens searched", float(snapshot.segments[0].n_tokens)
    index.search(queries[0], plan, False)
    seconds = []
    for query in queries[:50]:
        started = time.perf_counter()
        index.search(query, plan, False)
        seconds.append(time.perf_counter() - started)
    yield "a query alone, median", 1000 * statistics.median(seconds)
    many = timed(lambda: index.search_many(queries, plan, False), device, 1)
    yield "many at a time", len(queries) / many


def recall(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    from indexing import Index
    from retriever import Searcher

    with tempfile.TemporaryDirectory() as place:
        blocks = np.concatenate([block.reshape(-1, DIM) for block in synthetic_blocks(sizes.built)])
        offsets = np.arange(0, len(blocks) + 1, 30)
        n = len(offsets) - 1
        with Index.create(Path(place) / "x", dim=DIM, flat_tokens=1000) as made:
            made.add_embeddings(map(str, range(n)), TokenEmbeddings(blocks[: offsets[-1]], offsets))
        asked = [blocks[start : start + 8] for start in range(0, 50 * 31, 31)]
        with (
            Searcher.open(Path(place) / "x") as here,
            Searcher.open(Path(place) / "x", device=device) as there,
        ):
            shares = []
            for query in asked:
                every = {"ncandidates": n, "nrerank": n}  # the processor prunes else
                expected = {h.doc_id for h in here.search_embeddings(query, **every)}
                found = {h.doc_id for h in there.search_embeddings(query)}
                shares.append(len(expected & found) / len(expected))
    yield "recall@10 of the processor's exact ten", statistics.mean(shares)


class MadeSegment:
    """A segment of random codes, as DeviceIndex reads one."""

    kind = "compressed"

    def __init__(self, n_tokens: int, nlist: int) -> None:
        random = np.random.default_rng(0)
        self.offsets = np.append(np.arange(0, n_tokens, 300), n_tokens)
        self.n_tokens, self.owners = n_tokens, np.arange(len(self.offsets) - 1)
        self._ids = random.integers(0, nlist, n_tokens, np.int32)
        self.residual_codes = random.integers(0, 256, (n_tokens, 17), np.uint8)

    def centroid_ids(self) -> Any:
        return self._ids


def made_snapshot(sizes: Sizes) -> Any:
    from indexing.coding.centroids import ByteCentroids
    from indexing.coding.codec import Codec

    random = np.random.default_rng(0)
    centroids = random.standard_normal((sizes.nlist, DIM), np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    residuals = 0.03 * random.standard_normal((16, 256, DIM // 16), np.float32)
    scales = np.ones((256, 2), np.float32)
    codec = Codec(ByteCentroids.of(centroids), residuals, scales, np.eye(DIM, dtype=np.float32))
    segment = MadeSegment(sizes.searched, sizes.nlist)
    lives = [np.ones(len(segment.owners), np.bool_)]
    return SimpleNamespace(
        codec=codec,
        segments=[segment],
        starts=np.array([0]),
        lives=lives,
        folder="made",
        settings=SimpleNamespace(dim=DIM),
    )


def full_plan(snapshot: Any) -> Any:
    from indexing.storage.snapshot import Selection
    from retriever import SearchOptions
    from retriever.ranking.ranker import Plan

    return Plan(SearchOptions(k=10), 10, None, Selection(snapshot.lives), 2.5)


def made_queries(n: int) -> list[Any]:
    queries = np.random.default_rng(1).standard_normal((n, 32, DIM), np.float32)
    return list(queries / np.linalg.norm(queries, axis=2, keepdims=True))


def train_short(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    return train(device, sizes, "512 tokens", [sizes.lengths[0]] * 16)


def train_long(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    return train(device, sizes, "the longest", [sizes.lengths[1]])


def train(device: torch.device, sizes: Sizes, name: str, lengths: list[int]) -> Iterator[tuple[str, float]]:
    from encoder.training.loop import adamw
    from encoder.training.teacher import fast_matmul

    model = base_model(sizes.base).to(device).train()
    optimiser = adamw(model, lr=1e-5, embedding_lr=1e-5)
    [batch] = made_batches(lengths, 10**9, device, 400)

    def step() -> None:
        with fast_matmul(device):
            loss = model(batch).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield f"base at {name}", sum(lengths) / timed(step, device, sizes.repeats)
    only_on_a_gpu(device)
    yield f"base at {name}, memory", torch.cuda.max_memory_allocated(device) / 2**30


def chunks(device: torch.device, sizes: Sizes) -> Iterator[tuple[str, float]]:
    """A batch of `train colbert` cut by the memory there is (GradCache)."""
    from encoder.checkpoints.places import BUNDLED
    from encoder.training.configs import RetrievalConfig
    from encoder.training.retrieval import train_retrieval

    texts = made_texts(256)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "pairs.jsonl"
        rows = [{"query": text[:40], "pos": text} for text in texts]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = RetrievalConfig(model=BUNDLED, steps=2, batch_size=16, save_every=2, n_negatives=0)
        folder = Path(place)
        found = train_retrieval([(source, 1.0)], folder / "model", folder / "run", config, device=device)
    yield "train colbert, two steps: held-out loss", found["held_out_loss"]
