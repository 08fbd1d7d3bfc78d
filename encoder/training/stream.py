"""Text of any size → bins of packed tokens, in bounded memory, from any place that a run stopped at."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoder.errors import ArgumentError, CorpusError
from encoder.model.packing import BestFit
from encoder.tokenizer import LateTokenizer
from encoder.training.data import blocks, read_texts

__all__ = ["Bin", "PackedText", "held_out_texts", "stream_texts"]

Bin = list[list[int]]  # sequences of token ids, `length` tokens in all or a few less

# One text in so many is not trained on. A prime: records of two or three fields must not give the same one each time.
HELD_OUT = 101
SHUFFLE = 2048  # texts in memory, of which a random one is next
BLOCK = 256  # texts tokenised at a time
EMPTY_EPOCHS = 20


def stream_texts(sources: Sequence[tuple[Path, float]], seed: int, epoch: int) -> Iterator[str]:
    """One epoch of texts, the same for the same seed and epoch.

    sources: .jsonl or .jsonl.gz files, each with the share of its texts to take, drawn anew each epoch.
    Files are mixed in proportion to what there is of them, by bytes, so that they end together.
    """
    random = np.random.default_rng((seed, epoch))
    readers = [_training_texts(path) for path, _ in sources]
    weights = [path.stat().st_size for path, _ in sources]  # of what is read; the share is of what is taken
    shares = [share for _, share in sources]
    waiting: list[str] = []
    while readers:
        i = int(np.searchsorted(np.cumsum(weights), random.random() * sum(weights), side="right"))
        i = min(i, len(readers) - 1)
        text = next(readers[i], None)
        if text is None:
            del readers[i], weights[i], shares[i]
        elif shares[i] == 1 or random.random() < shares[i]:
            waiting.append(text)
            if len(waiting) == SHUFFLE:
                j = int(random.integers(SHUFFLE))
                waiting[j], waiting[-1] = waiting[-1], waiting[j]
                yield waiting.pop()
    yield from (waiting[j] for j in random.permutation(len(waiting)))


def _training_texts(path: Path) -> Iterator[str]:
    texts = read_texts(path)
    first = list(islice(texts, 2))
    if len(first) == 1:  # alone, it is trained on
        yield first[0]
    yield from (text for i, text in enumerate(chain(first, texts)) if i % HELD_OUT)


def held_out_texts(sources: Sequence[tuple[Path, float]], limit: int) -> list[str]:
    """The first `limit` texts of each source that are never trained on; none of a source of one text."""
    kept: list[str] = []
    for path, _ in sources:
        texts = read_texts(path)
        first = list(islice(texts, 2))
        if len(first) > 1:
            kept += islice(chain(first, texts), 0, limit * HELD_OUT, HELD_OUT)
    return kept


class PackedText:
    """Batches of bins for ever, epoch after epoch; `state` is where it is, and all that it needs to go on.

    A text longer than `length` is cut, each piece between the tokenizer's CLS and SEP. Where a text fits no open
    bin, its beginning fills the bin that must go, if that would lose more than 1/128 of its room.
    `tokens` and `room` count what the batches held and could have held.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, float]],
        tokenizer: LateTokenizer,
        length: int,
        *,
        seed: int,
        state: dict[str, Tensor] | None = None,
    ) -> None:
        self.sources = sources
        self.tokenizer = tokenizer
        self.length = length
        self.seed = seed
        self.content = length - len(tokenizer.before) - len(tokenizer.after)
        if self.content < 1:
            raise ArgumentError(f"length={length} leaves no room for text; pass at least 8")
        self.epoch = self.texts = self.tokens = self.room = 0
        self.ready: list[Bin] = []  # given out by the packer, not yet in a batch
        self.packer = BestFit(length)
        if state:
            self.epoch, self.texts, self.tokens, self.room, n_ready = state["place"].tolist()
            sequences = iter([s.tolist() for s in torch.split(state["ids"], state["lengths"].tolist())])
            bins = [list(islice(sequences, n)) for n in state["bins"].tolist()]
            self.ready, self.packer = bins[:n_ready], BestFit(length, bins=bins[n_ready:])

    def state(self) -> dict[str, Tensor]:
        bins = [*self.ready, *self.packer.bins]
        sequences = [s for sequences in bins for s in sequences]
        place = [self.epoch, self.texts, self.tokens, self.room, len(self.ready)]
        return {
            "place": torch.tensor(place),
            "bins": torch.tensor([len(b) for b in bins], dtype=torch.int64),
            "lengths": torch.tensor([len(s) for s in sequences], dtype=torch.int64),
            "ids": torch.tensor([i for s in sequences for i in s], dtype=torch.int32),
        }

    @property
    def filled(self) -> float:
        """The part of the bins' room that held tokens, since the run began."""
        return self.tokens / self.room if self.room else 1.0

    def batches(self, size: Callable[[int], int], start: int = 0) -> Iterator[list[Bin]]:
        """size: number of the batch → its bins. start: the number of the first batch."""
        while True:
            for ids in self._documents():
                self.ready += self._pack(ids)
                self.texts += 1
                while len(self.ready) >= size(start):
                    batch, self.ready = self.ready[: size(start)], self.ready[size(start) :]
                    self.tokens += sum(len(s) for sequences in batch for s in sequences)
                    self.room += len(batch) * self.length
                    start += 1
                    yield batch
            # An epoch of small shares may be empty by chance, but not so many.
            tries = 1 if all(share == 1 for _, share in self.sources) else EMPTY_EPOCHS
            if self.epoch + 1 >= tries and not (self.tokens or self.ready or self.packer.bins):
                raise CorpusError(f"no text in {', '.join(str(path) for path, _ in self.sources)}; pass more")
            self.epoch, self.texts = self.epoch + 1, 0

    def _documents(self) -> Iterator[list[int]]:
        texts = islice(stream_texts(self.sources, self.seed, self.epoch), self.texts, None)
        for block in blocks(texts, BLOCK):
            yield from (encoding.ids for encoding in self.tokenizer.encode(block))

    def _pack(self, ids: list[int]) -> Iterator[Bin]:
        before, after = self.tokenizer.before, self.tokenizer.after
        around = len(before) + len(after)
        while ids:
            n = min(len(ids), self.content)
            gap = self.packer.gap(n + around)
            if gap > max(self.length // 128, around):
                n = gap - around
            given = self.packer.add([*before, *ids[:n], *after])
            ids = ids[n:]
            if given is not None:
                yield given
