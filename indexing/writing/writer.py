"""What a writer does to an index folder: pending passages, commits, training, merging, compaction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings
from indexing.coding.codec import CHUNK, Codec
from indexing.coding.sizes import PQ_CENTROIDS, choose_nlist
from indexing.settings import IndexSettings
from indexing.storage.durable import FileRecord, publish_file, publish_folder, remove
from indexing.storage.segment import Segment, SegmentRow, write_segment
from indexing.storage.snapshot import Snapshot
from indexing.storage.store import Change, DocumentRow
from indexing.writing.pending import Pending
from indexing.writing.records import AddReport, Record, check_vectors
from indexing.writing.rewriting import groups, pack, sample, small_run, transcode

__all__ = ["Writer"]

SPARE = 2  # centroids that growth may add up to, in parts of a one-shot build's
OUTGROWN = 4  # train anew when a one-shot build would have this many times the centroids


class Writer:
    """The writing half of an open Index."""

    def __init__(self, snapshot: Snapshot, settings: IndexSettings, sample_rows: int) -> None:
        """settings: the index's, within the memory limit. sample_rows: the most vectors to train on."""
        self.snapshot = snapshot
        self.settings = settings
        self.sample_rows = sample_rows
        self.store = snapshot.store
        self.folder = snapshot.folder

    def sweep(self) -> None:
        """Delete what no commit names: a crash, or a reader that held it mapped, has left it."""
        self.store.bury()
        self._see()
        known = {file.path for file in self.store.files} | {row.folder for row in self.store.segments}
        found = [*self.folder.glob("segments/*"), *self.folder.glob("codec-*")]
        for path in found:
            if path.relative_to(self.folder).as_posix() not in known:
                remove(path)

    def add(
        self,
        stream: Iterable[list[Record]],
        vectors_of: Callable[[list[Record]], TokenEmbeddings],
        committed: Callable[[], object] = lambda: None,
    ) -> AddReport:
        """See Index.add. stream: batches of records; vectors_of: the vectors of those that are new."""
        report, pending = AddReport(), Pending()
        for batch in stream:
            self._take(pending, batch, vectors_of, report)
            if pending.tokens >= self.settings.commit_tokens:
                self.commit(pending)
                committed()
                pending = Pending()  # its memory is wanted for training
                self.settle(self.settings.segment_tokens)
        self.commit(pending)
        committed()
        pending = Pending()
        self.settle(min(self.settings.flat_tokens, self.settings.segment_tokens))
        return report

    def commit(self, pending: Pending) -> None:
        """Make pending passages, deletions and metadata durable and visible, together."""
        if not (pending.passages or pending.deleted or pending.metadata or pending.renamed):
            return
        state = self.store.state
        change = Change(
            state=replace(state, generation=state.generation + 1),
            deleted=sorted(pending.deleted),
            metadata=dict(pending.metadata.values()),
            renamed=pending.renamed,
        )
        if pending.passages:
            change.documents = [
                DocumentRow(state.next_pid + i, r.doc_id, r.text, r.metadata, r.content_hash)
                for i, (r, _) in enumerate(pending.passages.values())
            ]
            parts = [rows for _, rows in pending.passages.values()]
            lengths = np.array([len(part) for part in parts], dtype=np.int64)
            codec = self._extend(change, parts, int(lengths.sum()))
            coded = parts if codec is None else pack(parts, codec)
            self._add_segment(change, coded, lengths, state.next_pid, codec)
            change.state = replace(change.state, next_pid=state.next_pid + len(parts))
        self._apply(change)

    def index_metadata(self, path: str) -> None:
        """Index the value at a JSON path; nothing where there is an index already."""
        if path not in self.store.metadata_indexes:
            change = self._change()
            change.metadata_index = path
            self._apply(change)

    def tune(self, search: dict[str, Any]) -> None:
        """Store search settings in place of those there are."""
        change = self._change()
        change.search = search
        self._apply(change)

    def settle(self, flat_tokens: int) -> None:
        """Keep the index in shape after commits: train the codec from flat_tokens on, merge small segments.

        Merging keeps pids: a dead passage stays as one without tokens until compaction.
        """
        now = self.snapshot
        if now.codec is None and now.n_tokens >= max(flat_tokens, PQ_CENTROIDS):
            change = self._change()
            codec = self._train(change)
            for run in self._groups():
                self._merge(change, [now.segments[i] for i in run], codec)
            self._apply(change)
        elif small := small_run(now.segments):
            change = self._change()
            self._merge(change, small, now.codec)
            self._apply(change)

    def compact(self, told: Callable[[int], None]) -> None:
        """See Index.compact. told: is called with the tokens of each part that is done."""
        now = self.snapshot
        codec, change = now.codec, self._change()
        n_tokens = now.n_tokens
        enough = n_tokens >= max(self.settings.flat_tokens, PQ_CENTROIDS)
        if enough and (codec is None or choose_nlist(n_tokens) >= OUTGROWN * codec.nlist):
            codec = self._train(change)
        runs = self._groups()
        whole = all(bool(now.live(segment).all()) for segment in now.segments)
        kinds = {segment.kind for segment in now.segments}
        right = codec is now.codec and kinds <= {"flat" if codec is None else "compressed"}
        if whole and right and len(runs) == len(now.segments):
            self.store.shrink(always=False)
            return
        pid = change.renumber_from = change.state.next_pid
        for run in runs:
            segments = [now.segments[i] for i in run]
            lives = [now.live(segment) for segment in segments]
            lengths = np.concatenate(
                [np.diff(s.offsets)[live] for s, live in zip(segments, lives, strict=True)]
            )
            if len(lengths):
                self._add_segment(change, self._parts(segments, codec), lengths, pid, codec)
            pid += len(lengths)
            told(int(lengths.sum()))
        change.state = replace(change.state, next_pid=pid)
        change.drop_segments = list(self.store.segments)
        self._apply(change)
        self.store.shrink(always=True)

    # Inside -------------------------------------------------------------------------------------------------

    def _take(
        self,
        pending: Pending,
        batch: list[Record],
        vectors_of: Callable[[list[Record]], TokenEmbeddings],
        report: AddReport,
    ) -> None:
        # A method of its own, so that the last batch's float32 vectors are gone when a codec is trained.
        todo = pending.plan(batch, self.store.find(list({record.doc_id for record in batch})), report)
        if todo:
            embeddings = vectors_of(todo)
            check_vectors(embeddings, [record.doc_id for record in todo], self.settings.dim)
            report.truncated += embeddings.truncated
            report.tokens += len(embeddings.vectors)
            pending.put(todo, embeddings.offsets, embeddings.vectors.astype(np.float16))

    def _change(self) -> Change:
        state = self.store.state
        return Change(state=replace(state, generation=state.generation + 1))

    def _groups(self) -> list[list[int]]:
        segments = self.snapshot.segments
        lives = [self.snapshot.live(segment) for segment in segments]
        return groups(segments, lives, self.settings.segment_tokens)

    def _parts(self, segments: Sequence[Segment], codec: Codec | None) -> Iterator[npt.NDArray[Any]]:
        for segment in segments:
            yield from transcode(segment, self.snapshot.live(segment), self.snapshot.codec, codec)

    def _train(self, change: Change) -> Codec:
        now = self.snapshot
        lives = [now.live(segment) for segment in now.segments]
        vectors = sample(now.segments, lives, now.codec, self.settings.seed, self.sample_rows)
        nlist = choose_nlist(now.n_tokens, self.sample_rows)
        codec = Codec.train(
            vectors,
            nlist=nlist,
            m=self.settings.m,
            seed=self.settings.seed,
            length_byte=self.settings.length_byte,
        )
        error = float(codec.error(vectors[:: max(1, len(vectors) // CHUNK)]).mean())
        self._publish_codec(change, codec, error)
        return codec

    def _extend(self, change: Change, parts: Sequence[npt.NDArray[Any]], n_tokens: int) -> Codec | None:
        """The codec for new passages, of float16 vectors: the present one, or with centroids for what is new."""
        codec = self.snapshot.codec
        if codec is None:
            return None
        step = max(1, -(-n_tokens // CHUNK))  # about CHUNK of them are looked at
        sample = np.concatenate([part[::step] for part in parts]).astype(np.float32)
        extended = codec.extended(
            sample,
            n_tokens,
            error=change.state.codec_error,
            most=SPARE * choose_nlist(self.snapshot.n_tokens + n_tokens),
            seed=self.settings.seed,
        )
        if extended is not codec:
            self._publish_codec(change, extended, change.state.codec_error)
        return extended

    def _publish_codec(self, change: Change, codec: Codec, error: float) -> None:
        state = change.state
        name = f"codec-{state.next_codec}.faiss"
        change.add_files.append(publish_file(self.folder, name, codec.save))
        change.drop_codec = state.codec
        change.state = replace(state, codec=name, codec_error=error, next_codec=state.next_codec + 1)

    def _merge(self, change: Change, segments: Sequence[Segment], codec: Codec | None) -> None:
        lengths = np.concatenate([np.where(self.snapshot.live(s), np.diff(s.offsets), 0) for s in segments])
        self._add_segment(change, self._parts(segments, codec), lengths, segments[0].pid_start, codec)
        merged = {segment.segment_id for segment in segments}
        change.drop_segments += [row for row in self.store.segments if row.segment_id in merged]

    def _add_segment(
        self,
        change: Change,
        parts: Iterable[npt.NDArray[Any]],
        lengths: npt.NDArray[np.int64],
        pid_start: int,
        codec: Codec | None,
    ) -> None:
        kind = "flat" if codec is None else "compressed"
        row = SegmentRow(change.state.next_segment, kind, pid_start, len(lengths), int(lengths.sum()))

        def write(folder: Path) -> None:
            write_segment(folder, parts, lengths, dim=self.settings.dim, codec=codec)

        files: list[FileRecord] = publish_folder(self.folder, row.folder, write)
        change.add_segments.append(row)
        change.add_files += files
        change.state = replace(change.state, next_segment=row.segment_id + 1)

    def _see(self) -> None:
        # Were it to fail, numbers taken from the old state would be used twice; the next writing begins anew.
        self.store.uncertain = True
        self.snapshot.refresh()
        self.store.uncertain = False

    def _apply(self, change: Change) -> None:
        self.store.commit(change)
        self._see()
        # Readers that have them open keep them; those that were about to open them take a newer snapshot.
        for segment in change.drop_segments:
            remove(self.folder / segment.folder)
        if change.drop_codec is not None:
            remove(self.folder / change.drop_codec)
