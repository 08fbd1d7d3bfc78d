"""What a writer does to an index folder: pending documents, commits, training, merging, compaction."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.progress import Progress, Told
from indexing.coding.codec import CHUNK, ERROR_ROWS, Codec
from indexing.coding.sizes import PQ_CENTROIDS, choose_m, choose_nlist
from indexing.coding.vocabulary import owners_file
from indexing.storage.durable import FileRecord, publish_file, publish_folder, remove
from indexing.storage.originals import Originals, chosen, share_of
from indexing.storage.segment import Layout, Segment, write_segment
from indexing.storage.snapshot import Snapshot
from indexing.storage.store import Store
from indexing.storage.tables import DATABASE, Change, DocumentRow, SegmentRow
from indexing.writing.encoding import Passages
from indexing.writing.memory import limit
from indexing.writing.pending import Pending
from indexing.writing.records import AddReport, Record
from indexing.writing.rewriting import by_doc_id, groups, pack, sample, small_run, transcode

if TYPE_CHECKING:
    import torch

__all__ = ["Writer", "train_codec"]

MOST_FOR_ROWS = 64  # tokens for which one that a codec is trained on stands
SPARE = 2  # centroids that growth may add up to, in parts of a one-shot build's
OUTGROWN = 4  # train anew when a one-shot build would have this many times the centroids
COMMIT_CHARS = 1 << 26  # of texts and metadata that wait for a commit

PassagesOf: TypeAlias = Callable[[Sequence[Record], AddReport], Sequence[Passages]]
"""The passages of each record, counted in the report."""
SomePassagesOf: TypeAlias = Callable[[Sequence[Record], AddReport], Sequence[Passages | None]]
"""As PassagesOf; None for a record whose vectors come later."""


def train_codec(
    now: Snapshot, most: int, device: "torch.device | None", n_tokens: int = 0
) -> tuple[Codec, float]:
    """A codec of what a snapshot shows, and its error (State). most: rows to train on. n_tokens: of the corpus that it
    is for, where that is more."""
    settings = now.settings
    vectors, token_ids = sample(now.segments, now.lives, now.codec, by_doc_id(now), settings.seed, most)
    nlist = choose_nlist(max(now.n_tokens, min(n_tokens, MOST_FOR_ROWS * len(vectors))), most)
    m = choose_m(settings.dim, settings.bytes_per_token, nlist)
    codec = Codec.train(vectors, nlist, m, settings.seed, token_ids, device)
    some = slice(None, None, max(1, len(vectors) // ERROR_ROWS))  # a mean needs no more of them
    return codec, float(codec.error(vectors[some], None if token_ids is None else token_ids[some]).mean())


class Writer:
    """The writing half of an open Index."""

    def __init__(
        self,
        folder: Path,
        memory: int | str | None = None,
        device: "torch.device | None" = None,
        *,
        trains: bool = True,
    ) -> None:
        """memory: about the most that the process may take (`memory.limit`). device: where codecs are trained and
        vectors coded; None for the processor. trains: a codec, and centroids for what is new; a shard has the
        codec of all shards, by `adopt`."""
        self.folder, self.device, self.trains = folder, device, trains
        self.told: Told | None = None  # of what a commit may bring with it
        # Opened first: after a crash it is the writer who may bring the write-ahead log in order.
        self.store = Store(folder / DATABASE)
        try:
            self.snapshot = Snapshot(folder)
            # settings: the index's, within the memory limit. sample_rows: the most vectors to train on.
            self.settings, self.sample_rows = limit(self.snapshot.settings, memory)
        except BaseException:
            self.store.close()
            raise

    @property
    def uncertain(self) -> bool:
        """Whether the last commit failed, so that `sweep` is to be called before the next."""
        return self.store.uncertain

    def close(self) -> None:
        """Let go of the database; the snapshot's files too."""
        self.snapshot.close()
        self.store.close()

    def sweep(self) -> None:
        """Delete what no commit names: a crash, or a reader that held it mapped, has left it."""
        self.store.bury()
        self.refresh()
        now = self.snapshot
        known = {file.path for file in now.files} | {row.folder for row in now.rows}
        found = [*self.folder.glob("segments/*"), *self.folder.glob("codec-*")]
        for path in found:
            if path.relative_to(self.folder).as_posix() not in known:
                remove(path)

    def add(
        self,
        stream: Iterable[list[Record]],
        passages_of: SomePassagesOf | None,
        report: AddReport,
        committed: Callable[[int], object] = lambda n: None,
    ) -> None:
        """See Index.add. stream: batches of records; passages_of: what makes the passages of those that are new or
        changed, and counts them in the report; None to leave them for later."""
        self.pending, n = Pending(), 0
        for batch in stream:
            self._take(self.pending, batch, passages_of, report)
            n += len(batch)
            if self.is_full(self.pending):
                self.commit(self.pending)
                committed(n)
                self.pending = Pending()  # its memory is wanted for training
                self.settle(self.settings.segment_tokens)
        self.commit(self.pending)
        committed(n)
        self.pending = Pending()
        self.settle(min(self.settings.flat_tokens, self.settings.segment_tokens))

    def changed(self, batch: list[Record], earlier: Iterable[Record]) -> list[Record]:
        """Those of a batch that `add` will ask the passages of. earlier: what it takes before them and has not yet."""
        known = {
            doc_id: row.content_hash
            for doc_id, row in self.snapshot.reader.find(list({record.doc_id for record in batch})).items()
        }
        waiting = self.pending.documents
        known |= {r.doc_id: waiting[r.doc_id][0].content_hash for r in batch if r.doc_id in waiting}
        known |= {record.doc_id: record.content_hash for record in earlier}
        todo: dict[str, Record] = {}
        for record in batch:
            if known.get(record.doc_id) != record.content_hash:
                todo.pop(record.doc_id, None)
                todo[record.doc_id] = record
            known[record.doc_id] = record.content_hash
        return list(todo.values())

    def encode(self, stream: Iterable[list[Record]], passages_of: PassagesOf, report: AddReport) -> None:
        """See Index.encode. stream: batches of documents that are stored without vectors, with their numbers."""
        pending = Pending()
        for batch in stream:
            for record, passages in zip(batch, passages_of(batch, report), strict=True):
                pending.put_encoded(record.number, passages)
            if self.is_full(pending):
                self.commit(pending)
                pending = Pending()
                self.settle(self.settings.segment_tokens)
        self.commit(pending)
        pending = Pending()
        self.settle(min(self.settings.flat_tokens, self.settings.segment_tokens))

    def commit(self, pending: Pending) -> None:
        """Make documents, vectors, deletions and metadata durable and visible, together."""
        if not pending:
            return
        change = self._change()
        change.deleted = sorted(pending.deleted)
        change.metadata = dict(pending.metadata.values())
        change.renamed = pending.renamed
        first = change.state.next_document
        made = dict(pending.encoded)
        for document, (record, passages) in enumerate(pending.documents.values(), first):
            change.documents.append(
                DocumentRow(document, record.doc_id, record.content_hash, record.metadata, record.text)
            )
            if passages is None:
                change.unencoded.append(document)
            else:
                made[document] = passages
        change.encoded = list(pending.encoded)
        change.state = replace(change.state, next_document=first + len(change.documents))
        if made:
            lengths = [passages.lengths for passages in made.values()]
            layout = Layout(
                np.concatenate(lengths),
                np.repeat(np.array(list(made), np.int64), [len(own) for own in lengths]),
                np.concatenate([passages.spans for passages in made.values()]),
                np.concatenate([passages.token_ids for passages in made.values()]),
            )
            documents = list(made.values())
            codec = self._extend(change, documents, int(layout.lengths.sum()))
            if codec is None:
                self._add_segment(change, (passages.vectors for passages in documents), layout, None)
            else:
                share = share_of(self.snapshot.n_passages + len(layout))
                own = chosen(np.array(list(made), np.int64), share, self.settings.seed)
                own &= [passages.codes is None for passages in documents]
                wanted = np.repeat(own, [len(some) for some in lengths])
                rows = [passages.vectors for passages, is_in in zip(documents, own, strict=True) if is_in]
                none = np.zeros((0, self.settings.dim), np.float16)
                originals = Originals(
                    np.flatnonzero(wanted), layout.lengths[wanted], np.concatenate([none, *rows])
                )
                self._add_segment(change, pack(documents, codec), layout, codec, originals)
        self._apply(change)

    def index_metadata(self, path: str) -> None:
        """Index the value at a JSON path; nothing where there is an index already."""
        if path not in self.snapshot.reader.metadata_indexes:
            change = self._change()
            change.metadata_index = path
            self._apply(change)

    def tune(self, search: dict[str, Any]) -> None:
        """Store search settings in place of those there are."""
        change = self._change()
        change.search = search
        self._apply(change)

    def settle(self, flat_tokens: int) -> None:
        """Keep the index in shape after commits: train the codec from flat_tokens on, merge small segments."""
        now = self.snapshot
        if self.trains and now.codec is None and now.n_tokens >= max(flat_tokens, PQ_CENTROIDS):
            total = sum(segment.n_tokens for segment in now.segments)
            with Progress[int](phase="compressing", unit="token", told=self.told, total=total) as bar:
                self.adopt(*self.trained(), bar.update)
        elif small := small_run(now.segments):
            change = self._change()
            self._rewrite(change, small, self._codec())
            self._apply(change)

    def adopt(self, codec: Codec, error: float, told: Callable[[int], object] = lambda n: None) -> None:
        """Code all vectors, and those to come, by the codec; error: see State. told: as for `compact`."""
        change = self._change()
        self._publish_codec(change, codec, error)
        for run in self._groups():
            self._rewrite(change, run, codec)
            told(sum(segment.n_tokens for segment in run))
        self._apply(change)

    def trained(self) -> tuple[Codec, float]:
        """A codec of what is stored, and its error."""
        return train_codec(self.snapshot, self.sample_rows, self.device)

    def compact(self, told: Callable[[int], object]) -> None:
        """See Index.compact. told: is called with the tokens of each part that is done."""
        now = self.snapshot
        codec, change = self._codec(), self._change()
        n_tokens = now.n_tokens
        enough = n_tokens >= max(self.settings.flat_tokens, PQ_CENTROIDS)
        if self.trains and enough and (codec is None or choose_nlist(n_tokens) >= OUTGROWN * codec.nlist):
            codec, error = self.trained()
            self._publish_codec(change, codec, error)
        runs = self._groups()
        whole = all(bool(live.all()) for live in now.lives)
        kinds = {segment.kind for segment in now.segments}
        right = codec is now.codec and kinds <= {"flat" if codec is None else "compressed"}
        if not (whole and right and len(runs) == len(now.segments)):
            for run in runs:
                self._rewrite(change, run, codec)
                told(sum(segment.n_tokens for segment in run))
            change.rebuild_words = True
            self._apply(change)
            whole = False
        else:
            told(sum(segment.n_tokens for segment in now.segments))
        del now  # a transaction of our own would keep the log from being cut
        self.snapshot.close()
        try:
            self.store.shrink(always=not whole)
        finally:
            self.refresh()

    # Inside -------------------------------------------------------------------------------------------------

    def is_full(self, pending: Pending) -> bool:
        """Whether it is time to commit."""
        return pending.cost >= self.settings.commit_tokens or pending.chars >= COMMIT_CHARS

    def _take(
        self, pending: Pending, batch: list[Record], passages_of: SomePassagesOf | None, report: AddReport
    ) -> None:
        stored = self.snapshot.reader.find(list({record.doc_id for record in batch}))
        todo = pending.plan(batch, stored, report)
        made: Sequence[Passages | None] = [None] * len(todo)
        if passages_of is not None and todo:
            made = passages_of(todo, report)
        for record, passages in zip(todo, made, strict=True):
            pending.put(record, passages)

    def _change(self) -> Change:
        self.store.check_place()  # before any file is written beside it
        state = self.snapshot.state
        return Change(state=replace(state, generation=state.generation + 1))

    def _groups(self) -> list[Sequence[Segment]]:
        now = self.snapshot
        runs = groups(now.segments, now.lives, self.settings.segment_tokens)
        return [[now.segments[i] for i in run] for run in runs]

    def _codec(self) -> Codec | None:
        """The index's codec, which codes on the writer's device."""
        codec = self.snapshot.codec
        if codec is not None:
            codec.device = self.device
        return codec

    def _extend(self, change: Change, documents: Sequence[Passages], n_tokens: int) -> Codec | None:
        """The codec for new passages, of float16 vectors: the present one, or with centroids for what is new."""
        codec = self._codec()
        if codec is None or not self.trains:
            return codec
        step = max(1, -(-n_tokens // CHUNK))  # about CHUNK of them are looked at
        sample = np.concatenate([own.vectors[::step] for own in documents]).astype(np.float32)
        extended = codec.extended(
            sample,
            n_tokens,
            np.concatenate([own.token_ids[::step] for own in documents]),
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
        if (owners := codec.owners) is not None:
            change.add_files.append(publish_file(self.folder, owners_file(name), owners.save))
        change.drop_codec = state.codec
        change.state = replace(state, codec=name, codec_error=error, next_codec=state.next_codec + 1)

    def _rewrite(self, change: Change, segments: Sequence[Segment], codec: Codec | None) -> None:
        """Replace segments by one without their dead passages, coded by `codec`."""
        now = self.snapshot
        lives = [now.lives[now.segments.index(segment)] for segment in segments]
        pairs = list(zip(segments, lives, strict=True))
        layouts = [segment.layout for segment in segments]
        if codec is not None:  # of whose centroids the vocabulary ids are told
            layouts = [replace(own, token_ids=None) for own in layouts]
        layout = Layout.joined([own.of(live) for own, live in zip(layouts, lives, strict=True)])
        if len(layout):
            parts = (rows for segment, live in pairs for rows in transcode(segment, live, now.codec, codec))
            share, counts = share_of(now.n_passages), [int(live.sum()) for live in lives]
            drawn = [Originals.drawn(*pair, share, self.settings.seed) for pair in pairs]
            self._add_segment(change, parts, layout, codec, Originals.joined(drawn, counts))
        for segment, live in pairs:
            change.forgotten += np.unique(segment.owners[~live]).tolist()
        dropped = {segment.segment_id for segment in segments}
        change.drop_segments += [row for row in now.rows if row.segment_id in dropped]

    def _add_segment(
        self,
        change: Change,
        parts: Iterable[npt.NDArray[Any]],
        layout: Layout,
        codec: Codec | None,
        originals: Originals | None = None,
    ) -> None:
        kind = "flat" if codec is None else "compressed"
        row = SegmentRow(change.state.next_segment, kind, len(layout), int(layout.lengths.sum()))

        def write(folder: Path) -> None:
            write_segment(folder, parts, layout, dim=self.settings.dim, codec=codec, originals=originals)

        files: list[FileRecord] = publish_folder(self.folder, row.folder, write)
        change.add_segments.append(row)
        change.add_files += files
        change.state = replace(change.state, next_segment=row.segment_id + 1)

    def _apply(self, change: Change) -> None:
        self.snapshot = (
            self.snapshot.beside_log()
        )  # or this very reader would keep the log from being begun anew
        self.store.commit(change)
        self.refresh()
        # Readers that have them open keep them; those that were about to open them take a newer snapshot.
        for segment in change.drop_segments:
            remove(self.folder / segment.folder)
        if change.drop_codec is not None:
            remove(self.folder / change.drop_codec)
            remove(self.folder / owners_file(change.drop_codec))

    def refresh(self) -> None:
        """Move to the newest commit."""
        # Were it to fail, numbers taken from the old state would be used twice; the next writing begins anew.
        self.store.uncertain = True
        self.snapshot = Snapshot(self.folder, self.snapshot)
        self.store.uncertain = False
