"""Texts → batches of tokens → token vectors in the order of the texts, whatever computes a batch. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_integer, as_strings
from encoder.embeddings import TokenEmbeddings
from encoder.model.packing import length_sorted_batches
from encoder.pooling import pool_tokens
from encoder.progress import Progress, Told
from encoder.tokenizer import TokenizedTexts

__all__ = ["BATCH_TOKENS", "Batching", "Job", "Vectors", "encode_texts", "vectors_of"]

BATCH_TOKENS = 4096  # a budget of tokens, not of texts: memory and speed follow tokens
BLOCK_TEXTS = 512  # tokenised at a time, while the block before them is encoded
MOST_TEXTS = 4096
SHORT = 32  # tokens of a text, for which a block fills a batch

Vectors = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Job:
    """A batch of tokenised texts. places: whose they are; kept: see TokenizedTexts; pool_factor: 1 for none."""

    places: list[int]
    ids: list[list[int]]
    n_keys: list[int]
    kept: list[npt.NDArray[np.bool_]] | None
    pool_factor: int

    def token_ids(self) -> list[npt.NDArray[np.int32]]:
        """The vocabulary's number of each token that keeps its vector, by text."""
        ids = [np.array(own, np.int32) for own in self.ids]
        return ids if self.kept is None else [own[kept] for own, kept in zip(ids, self.kept, strict=True)]


@dataclass(frozen=True)
class Batching:
    """batch_tokens: at most so many in a batch. at_once: batches worked on at a time. dim: of the vectors."""

    batch_tokens: int
    at_once: int
    pool_factor: int
    dim: int
    progress: Told | None


def vectors_of(rows: npt.NDArray[np.float32], job: Job) -> Vectors:
    """The vectors of each text of a batch, (n_tokens, dim), of all its tokens' vectors, end to end."""
    vectors = np.split(rows, np.cumsum([len(i) for i in job.ids])[:-1])
    if job.kept is not None:
        vectors = [v[k] for v, k in zip(vectors, job.kept, strict=True)]
    if job.pool_factor > 1:
        vectors = [pool_tokens(v, job.pool_factor) for v in vectors]
    return vectors


def encode_texts(
    tokenise: Callable[[Sequence[str]], TokenizedTexts],
    texts: Iterable[str],
    batching: Batching,
    run: Callable[[Iterator[Job]], Iterator[tuple[Job, Vectors]]],
) -> TokenEmbeddings:
    """run: jobs → each with its vectors."""
    texts = as_strings(texts, "texts")
    batch_tokens = as_integer(batching.batch_tokens, "batch_tokens", least=1)
    vectors: Vectors = [np.empty((0, batching.dim), np.float32)] * len(texts)
    # A pooled vector stands for several tokens, so that none is given.
    token_ids = [np.empty(0, np.int32)] * len(texts) if batching.pool_factor == 1 else None
    truncated = 0

    def jobs() -> Iterator[Job]:
        nonlocal truncated
        # On a GPU a batch takes more texts; lengths are sorted within a block.
        block_texts = max(BLOCK_TEXTS, min(batch_tokens // SHORT, MOST_TEXTS))
        for start, block in _tokenised(tokenise, texts, block_texts):
            truncated += block.truncated
            n_tokens = [len(ids) for ids in block.ids]
            # So that there is a batch for each thread where the texts are few.
            budget = min(batch_tokens, sum(n_tokens) // batching.at_once + max(n_tokens))
            yield from _jobs(block, start, budget, batching.pool_factor)

    with Progress[str](phase="encoding", unit="text", told=batching.progress, total=len(texts)) as bar:
        for job, found in run(jobs()):
            for i, rows in zip(job.places, found, strict=True):
                vectors[i] = rows
            if token_ids is not None:
                for i, ids in zip(job.places, job.token_ids(), strict=True):
                    token_ids[i] = ids
            bar.update(len(found))
    joined = None if token_ids is None else np.concatenate([np.empty(0, np.int32), *token_ids])
    return TokenEmbeddings(*_joined(vectors, batching.dim), truncated, joined)


def _tokenised(
    tokenise: Callable[[Sequence[str]], TokenizedTexts], texts: Sequence[str], block_texts: int
) -> Iterator[tuple[int, TokenizedTexts]]:
    """Blocks of texts with where they start, each tokenised while its caller works on the one before."""
    starts = range(0, len(texts), block_texts)
    if len(starts) <= 1:
        yield from ((start, tokenise(texts)) for start in starts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as thread:
        ahead = thread.submit(tokenise, texts[:block_texts])
        for start in starts:
            block = ahead.result()
            ahead = thread.submit(tokenise, texts[start + block_texts : start + 2 * block_texts])
            yield start, block


def _jobs(texts: TokenizedTexts, start: int, batch_tokens: int, pool_factor: int) -> Iterator[Job]:
    """Batches of a block that begins with text `start`."""
    for batch in length_sorted_batches([len(i) for i in texts.ids], batch_tokens):
        yield Job(
            places=[start + i for i in batch],
            ids=[texts.ids[i] for i in batch],
            n_keys=[texts.n_keys[i] for i in batch],
            kept=None if texts.kept is None else [np.array(texts.kept[i], dtype=bool) for i in batch],
            pool_factor=pool_factor,
        )


def _joined(vectors: Vectors, dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """One array a text, end to end; `vectors` is emptied on the way, so that memory holds them about once."""
    offsets = np.zeros(len(vectors) + 1, dtype=np.int64)
    np.cumsum([len(rows) for rows in vectors], out=offsets[1:])
    out = np.empty((int(offsets[-1]), dim), dtype=np.float32)
    for i in range(len(vectors)):
        out[offsets[i] : offsets[i + 1]] = vectors[i]
        vectors[i] = out[:0]
    return out, offsets
