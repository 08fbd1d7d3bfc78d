"""Unlabelled text → chunks of token ids, shuffled and cut into batches by a seed."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.arguments import absolute, as_list
from encoder.errors import ArgumentError, CheckpointError, CorpusError
from encoder.jsonl import read_rows
from encoder.model.packing import PackedBatch, length_sorted_batches, pack
from encoder.progress import Progress, progress_shown
from encoder.tokenizer import LateTokenizer

__all__ = ["Chunks", "DataFile", "Given", "blocks", "checked_sources", "read_texts"]

TEXT_FIELDS = ("query", "pos", "title", "text")
# Batches are sorted by length within a window of this many chunks, so that a batch holds like lengths
# (attention runs those as one call) and the order stays random at large.
SORT_WINDOW = 4096

DataFile: TypeAlias = tuple[Path, float]
"""A file or folder, and the share of it that is taken, above 0 and at most 1."""
Given: TypeAlias = str | tuple[str | Path, float]
"""The same as a caller may write it: "FILE" and "FILE:SHARE" too."""


def read_texts(path: Path) -> Iterator[str]:
    """Every text field of a .jsonl or .jsonl.gz file, one after the other. Empty fields are passed over."""
    for row in read_rows(path):
        found = [text for key in TEXT_FIELDS if (text := row.get(key, str, ""))]
        if not found:
            raise CorpusError(f"{row.where} has none of {', '.join(TEXT_FIELDS)}; give it one")
        yield from found


def checked_sources(sources: Iterable[Given], what: str) -> list[DataFile]:
    """(whole path, share) of each source; what: what one is, for the message where there is none."""
    found = [_path_and_share(given) for given in as_list(sources, "sources", "(path, share)")]
    if not found:
        raise ArgumentError(f"no source; pass at least one {what}")
    for path, share in found:
        if not path.exists():
            raise ArgumentError(f"{path} is not there; pass {what}")
        if not 0 < share <= 1:
            raise ArgumentError(f"{path}: share={share}; pass a share above 0 and at most 1")
    return found


def _path_and_share(given: Given) -> DataFile:
    if not isinstance(given, str):
        return absolute(given[0]), given[1]
    name, colon, share = given.rpartition(":")
    if not colon or Path(given).exists():
        return absolute(given), 1.0
    try:
        return absolute(name), float(share)
    except ValueError as error:
        raise ArgumentError(f"{given!r}: share {share!r} is no number; write FILE:0.25") from error


@dataclass(frozen=True, eq=False)
class Chunks:
    """Token chunks, end to end. ids: (total_tokens,) uint16 or int32; offsets: (n + 1,) int64."""

    ids: npt.NDArray[np.integer]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> list[int]:
        chunk: list[int] = self.ids[self.offsets[i] : self.offsets[i + 1]].tolist()
        return chunk

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    @classmethod
    def of_texts(
        cls,
        texts: Iterator[str],
        tokenizer: LateTokenizer,
        lengths: Sequence[int],
        seed: int,
        desc: str = "tokenise",
    ) -> "Chunks":
        """Tokenise and cut. Each text draws its chunk length from `lengths`, so that the model sees
        every length in every kind of text; each chunk gets the tokenizer's CLS and SEP."""
        random = np.random.default_rng(seed)
        dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
        parts: list[npt.NDArray[np.integer]] = []
        sizes = [0]
        before, after = tokenizer.before, tokenizer.after
        for block in blocks(iter(Progress(texts, phase=desc, unit="text", told=progress_shown())), 2048):
            for encoding in tokenizer.tokenizer.encode_batch_fast(block, add_special_tokens=False):
                content = encoding.ids
                room = int(random.choice(np.asarray(lengths))) - len(before) - len(after)
                for start in range(0, len(content), room):
                    chunk = [*before, *content[start : start + room], *after]
                    parts.append(np.array(chunk, dtype=dtype))
                    sizes.append(len(chunk))
        ids: npt.NDArray[np.integer] = np.concatenate([np.empty(0, dtype), *parts])
        return cls(ids, np.cumsum(sizes, dtype=np.int64))

    def save(self, path: Path) -> None:
        """Aside and renamed: a file that exists is whole."""
        aside = path.with_suffix(".tmp.npz")
        np.savez(aside, ids=self.ids, offsets=self.offsets)
        aside.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Chunks":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["ids"], arrays["offsets"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); delete it, and it is made again"
            ) from error

    @classmethod
    def concatenate(cls, several: Sequence["Chunks"]) -> "Chunks":
        sizes = np.concatenate([c.lengths for c in several])
        return cls(np.concatenate([c.ids for c in several]), np.concatenate([[0], np.cumsum(sizes)]))

    def subset(self, wanted: npt.NDArray[np.bool_]) -> "Chunks":
        """wanted: (n,)."""
        sizes = self.lengths
        ids = self.ids[np.repeat(wanted, sizes)]
        return Chunks(ids, np.concatenate([[0], np.cumsum(sizes[wanted])]))

    def batches(self, batch_tokens: int, seed: int, start: int = 0) -> Iterator[PackedBatch]:
        """Batches for ever, epoch after epoch, each epoch in an order of its own.

        The order depends on the seed alone; `start` batches are passed over without being built, so
        a resumed run goes on where it stopped.
        """
        if not len(self):
            raise CorpusError("no text to make batches of; pass more")
        epoch = 0
        while True:
            random = np.random.default_rng((seed, epoch))
            order = random.permutation(len(self))
            lengths = self.lengths
            for first in range(0, len(order), SORT_WINDOW):
                window = order[first : first + SORT_WINDOW]
                groups = list(length_sorted_batches(lengths[window].tolist(), batch_tokens))
                for g in random.permutation(len(groups)):
                    if start > 0:
                        start -= 1
                        continue
                    yield pack([self[int(window[i])] for i in groups[g]])
            epoch += 1


def blocks(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` texts, the last one shorter: a tokenizer works faster on many."""
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
