"""Holder: shards that a replica has open, and their rankings for what is asked."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoder.closing import Closing
from encoder.errors import IndexFormatError
from indexing.storage.reader import Reader
from indexing.storage.sharded import Manifest, Readers, Shard, ShardedSnapshot, open_snapshot
from indexing.storage.snapshot import Selection, Snapshot
from retriever.cluster.asking import Answer, Ask, Asked, Lost, Version
from retriever.ranking.ranker import Ranker, Rankings
from retriever.searcher import Searcher

__all__ = ["Holder"]

KEPT = 2  # versions of a shard: the newest, and the one that routers move from


class Holder(Closing):
    """Opens what it is asked for, by name, and keeps the last two versions of each shard. Several threads may share
    it."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """folder: of the index. device: as in Searcher."""
        self.folder, self.device = folder, device
        self._kept: dict[int, list[tuple[Version, Ranker]]] = {}
        self._opening = threading.Lock()

    def load_kernels(self) -> None:
        """What the first search would wait for: half a second, or half a minute on a machine's first use."""
        with open_snapshot(self.folder) as snapshot:
            Searcher(snapshot.parts[0], once=True).load_kernels()

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """The rankings of all queries, side by side. Raises IndexFormatError for a shard that is damaged."""
        rankers = [self._ranker(ask) for ask in asks]
        work = []
        for ask, ranker in zip(asks, rankers, strict=True):
            if ranker is not None:
                work += [(ranker, one) for one in _selected(ranker, ask.queries)]
        left = iter(_each(work))
        return [
            Lost.GONE if ranker is None else [next(left) for _ in ask.queries]
            for ask, ranker in zip(asks, rankers, strict=True)
        ]

    def close(self) -> None:
        for kept in self._kept.values():
            for _, ranker in kept:
                ranker.snapshot.close()
        self._kept.clear()

    def _ranker(self, ask: Ask) -> Ranker | None:
        """None where the version is not there any more."""
        wanted = ask.version
        with self._opening:
            kept = self._kept.setdefault(ask.shard, [])
            found = next((ranker for version, ranker in kept if version == wanted), None)
            if found is None:
                newest = kept[-1][1] if kept else None
                found = self._opened(wanted, newest)
                if found is None:
                    return None
                # What goes is closed with the last search that has it.
                self._kept[ask.shard] = [*kept, (wanted, found)][-KEPT:]
            reader = found.snapshot.reader
            assert isinstance(reader, OfAll)
            reader.frequencies |= ask.frequencies
            return found

    def _opened(self, wanted: Version, previous: Ranker | None) -> Ranker | None:
        place = self.folder / wanted.name
        older = None if previous is None else previous.snapshot.parts[0]
        try:
            part = Snapshot(place, older if older is not None and older.folder == place else None)
        except IndexFormatError:
            if place.is_dir():
                raise
            return None
        if part.state.generation != wanted.generation:
            part.close()
            return None
        snapshot = ShardedSnapshot(self.folder, Manifest((Shard(wanted.name),)), [part])
        snapshot.reader = OfAll(self.folder, part.reader, wanted)
        return Ranker(snapshot, self.device, previous)


class OfAll(Readers):
    """The reader of one shard, whose BM25 counts the documents of all."""

    def __init__(self, folder: Path, reader: Reader, version: Version) -> None:
        super().__init__(folder, [reader])
        self.texts = version.texts
        self.keys = None  # another shard may have a key that this one has not: the router has looked
        self.frequencies: dict[str, int] = {}

    def _having(self, word: str, found: npt.NDArray[np.void]) -> int:
        return self.frequencies[word]


def _selected(ranker: Ranker, queries: Sequence[Asked]) -> list[Asked]:
    """The queries, with what this shard has of their filters."""
    known: dict[str | None, Selection] = {}
    found = []
    for text, vectors, plan in queries:
        where = plan.options.filter
        if where not in known:
            known[where] = ranker.select(where)
        found.append((text, vectors, replace(plan, selection=known[where])))
    return found


def _each(work: Sequence[tuple[Ranker, Asked]]) -> list[Rankings]:
    if len(work) < 2 or any(ranker.serial or ranker.device is not None for ranker, _ in work):
        return [ranker.rankings(*asked) for ranker, asked in work]
    from retriever.kernels import each_on_a_thread  # imports numba

    return each_on_a_thread(lambda one: one[0].rankings(*one[1]), work)
