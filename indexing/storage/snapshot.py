"""A snapshot of an index: the store's lists of one moment with the files they name, open."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoder.errors import IndexFormatError
from indexing.coding.codec import Codec
from indexing.settings import IndexSettings
from indexing.storage.fulltext import match_expression, quoted
from indexing.storage.lock import SnapshotLock
from indexing.storage.refusals import refusals
from indexing.storage.segment import Segment
from indexing.storage.store import Store
from indexing.writing.rewriting import Live, live_tokens

__all__ = ["Snapshot"]

ATTEMPTS = 10
WORDS_KEPT = 100_000


class Snapshot:
    """codec, segments and which passages live, as of the store's snapshot.

    Opening compares the size of every file with the store's, and reads no more than headers.
    Raises IndexFormatError naming the file that is missing or of another size.
    """

    def __init__(self, folder: Path, store: Store, settings: IndexSettings) -> None:
        self.folder = folder
        self.store = store
        self.settings = settings
        self.lock = SnapshotLock()
        self.codec: Codec | None = None
        self.segments: tuple[Segment, ...] = ()
        self._codec_file: str | None = None
        self._generation: int | None = None
        self._lives: dict[int, Live] = {}
        self._frequencies: dict[str, int] = {}
        self._n_live: int | None = None  # counted when first asked for, as every search does
        self._n_tokens: int | None = None
        self._open()

    def __len__(self) -> int:
        """Live passages."""
        if self._n_live is None:
            self._n_live = sum(int(live.sum()) for live in self._lives.values())
        return self._n_live

    @property
    def n_tokens(self) -> int:
        """Token vectors of live passages."""
        if self._n_tokens is None:
            self._n_tokens = sum(live_tokens(segment, self.live(segment)) for segment in self.segments)
        return self._n_tokens

    def live(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """(n_passages,), read-only: False where the passage was deleted or replaced."""
        return self._lives[segment.segment_id]

    def matching(self, text: str | None) -> list[Live]:
        """For each of `segments` (n_passages,): True where a live passage meets a filter (docs/filters.md), as all do
        None. Raises ArgumentError, naming the position, for what is no filter."""
        lives = [self.live(segment) for segment in self.segments]
        if text is None:
            return lives
        pids = np.sort(self.store.matching(self.store.condition(text)))
        found = []
        for segment, live in zip(self.segments, lives, strict=True):
            first, last = np.searchsorted(pids, [segment.pid_start, segment.pid_start + segment.n_passages])
            matching = np.zeros_like(live)
            matching[pids[first:last] - segment.pid_start] = True
            found.append(matching & live)
        return found

    def lexical(
        self, text: str, n: int, lives: Sequence[Live]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Pids and BM25 of the n best passages with any of a text's words, best first, of those in lives."""
        match = match_expression(text)
        if match is None or not self.segments:
            return np.zeros(0, np.int64), np.zeros(0, np.float64)
        wanted = max(1, min(n, len(self))) + 1
        while True:
            pids, scores = self.store.lexical(match, wanted)
            complete, last = len(pids) < wanted, scores[-1:]
            fine = self._among(pids, lives)
            pids, scores = pids[fine], scores[fine]
            # All that score as the last of the n, for of these the least doc_ids are taken.
            if complete or (len(pids) >= n and scores[n - 1] > last):
                tied = scores >= scores[:n][-1:]
                pids, scores = pids[tied], scores[tied]
                names = self.store.doc_ids(pids.tolist())
                order = sorted(range(len(pids)), key=lambda i: (-scores[i], names[i]))[:n]
                return pids[order], scores[order]
            wanted *= 8  # the filter leaves out some of them, or more are equal

    def document_frequencies(self, words: Sequence[str]) -> list[int]:
        """See Index.document_frequencies."""
        known = self._frequencies  # this moment's, shared by threads: a refresh makes another
        found = []
        for word in words:
            if (frequency := known.get(word)) is None:
                frequency = self.store.document_frequency(quoted(word))
                if len(known) < WORDS_KEPT:
                    known[word] = frequency
            found.append(frequency)
        return found

    def _among(self, pids: npt.NDArray[np.int64], lives: Sequence[Live]) -> npt.NDArray[np.bool_]:
        """For each pid whether it is True in the bitmaps of the segments."""
        starts = np.array([segment.pid_start for segment in self.segments], dtype=np.int64)
        owners = np.searchsorted(starts, pids, side="right") - 1
        among = np.zeros(len(pids), dtype=np.bool_)
        for i, live in enumerate(lives):
            own = owners == i
            among[own] = live[pids[own] - starts[i]]
        return among

    def refresh(self) -> bool:
        """Move to the newest commit; whether there was one."""
        with self.lock.moving():
            self.store.refresh()
            # By what is open: the last opening may have failed.
            moved = self._generation != self.store.state.generation
            if moved:
                with refusals(self.folder):
                    self._open()
            return moved

    def _open(self) -> None:
        for _ in range(ATTEMPTS):
            try:
                self._open_files()
                return
            except FileNotFoundError as error:
                # A compaction may commit and delete old files between our snapshot and our opening of them.
                missing = error.filename
                if not self.store.refresh():
                    break
        raise IndexFormatError(f"{missing} is missing; restore it or build the index again")

    def _open_files(self) -> None:
        for file in self.store.files:
            path = self.folder / file.path
            size = path.stat().st_size
            if size != file.bytes:
                raise IndexFormatError(
                    f"{path} has {size} bytes, {file.bytes} were written; restore it or build the index again"
                )
        name, codec = self.store.state.codec, self.codec
        if name != self._codec_file:
            codec = (
                None
                if name is None
                else Codec.load(
                    self.folder / name, dim=self.settings.dim, length_byte=self.settings.length_byte
                )
            )
        # Segments never change and their numbers are never used twice, so those open already stay open.
        # Under a codec with more centroids they are opened anew: it has more inverted lists.
        kept = self.segments if name == self._codec_file or codec is None else ()
        opened = {segment.segment_id: segment for segment in kept}
        segments: list[Segment] = []
        lives: dict[int, Live] = {}
        for row in self.store.segments:
            segment = opened.get(row.segment_id) or Segment(
                self.folder, row, dim=self.settings.dim, codec=codec
            )
            live = np.ones(segment.n_passages, dtype=np.bool_)
            live[self.store.tombstones(row.pid_start, row.n_passages) - row.pid_start] = False
            live.flags.writeable = False
            segments.append(segment)
            lives[row.segment_id] = live
        self.codec, self._codec_file = codec, name
        self.segments, self._lives, self._frequencies = tuple(segments), lives, {}
        self._n_live = self._n_tokens = None
        self._generation = self.store.state.generation
