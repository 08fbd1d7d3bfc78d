"""Index: a folder of documents and their token vectors. Create or open it, add, encode, delete, compact, read."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from encoder.arguments import absolute, as_integer, as_strings, shown
from encoder.closing import Closing
from encoder.devices import as_device
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from encoder.others import as_encoder
from encoder.progress import Progress, Told
from indexing.settings import DocumentEncoder, IndexSettings, TunedSearch
from indexing.storage import tables
from indexing.storage.filters import parse_key
from indexing.storage.inspection import describe, verify
from indexing.storage.lock import WriterLock
from indexing.storage.reader import Document
from indexing.storage.refusals import refusals
from indexing.storage.sharded import open_snapshot
from indexing.storage.snapshot import Snapshot
from indexing.storage.tables import index_file, is_index, no_index
from indexing.writing.ahead import Ahead, Wanted, tokens_at_once
from indexing.writing.encoding import windows_of
from indexing.writing.given import GivenVectors, VectorBatch
from indexing.writing.memory import limit
from indexing.writing.pending import deletion, new_metadata, renaming
from indexing.writing.records import AddReport, Record, batches, hash_salt, read_records
from indexing.writing.shards import make, make_shards, open_writer
from indexing.writing.writer import Writer

if TYPE_CHECKING:
    import torch

__all__ = ["Index"]

FEW = 64  # documents to be encoded, for which torch is not worth loading


class Index(Closing):
    """An open index. Made by `Index.create` or `Index.open`; closed by `close` or a `with` block.

    Reading shows the moment of opening, the last commit of this writer, or the last `reload`, whatever other
    processes do. Several threads may read one Index; `snapshot` gives a view of its own that nothing moves.
    """

    def __init__(
        self,
        folder: Path,
        encoder: DocumentEncoder | None,
        lock: WriterLock | None,
        memory: int | str | None = None,
        device: "torch.device | None" = None,
    ) -> None:
        self.folder = folder
        self._lock = lock
        self._mutex = threading.RLock()
        self._encoder = encoder
        self._light: DocumentEncoder | None = None
        # A writer has a snapshot of its own; one held here would keep SQLite's log from ever being begun anew.
        self._snapshot = open_snapshot(folder) if lock is None else None
        self._writer = None if lock is None else open_writer(folder, memory, device)
        try:
            if encoder is not None:
                self.settings.check_encoder(encoder, folder)
            if self._writer is not None:
                self._writer.sweep()
        except BaseException:
            self._close()
            raise

    # Opening and closing ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: DocumentEncoder | None = None,
        *,
        dim: int | None = None,
        shards: int | None = None,
        memory: int | str | None = None,
        device: "str | torch.device | None" = None,
        **settings: Any,
    ) -> "Index":
        """Make an empty index in a new or empty folder and open it for writing.

        encoder: makes the vectors of `add`. dim: instead of it, for vectors of your own (`add_embeddings`).
        shards: make so many indexes that are one (docs/internals/format.md); None for an ordinary one.
        memory: about the most that this process may take while it writes, in bytes or as "1GB", whatever the
        size of the corpus; not stored. device: a torch device, such as "cuda", that trains the codec and codes
        vectors; None for the processor; not stored either. settings: what is fixed from now on, such as `window`: see
        IndexSettings.
        Raises ArgumentError where there is an index already, StorageError where the disk refuses.
        """
        folder = absolute(path)
        if (encoder is None) == (dim is None):
            raise ArgumentError("pass an encoder, or dim=... for vectors of your own")
        encoder = None if encoder is None else as_encoder(encoder, "encode_documents")
        fixed = IndexSettings.made(encoder, dim, settings)
        if encoder is not None:
            windows_of(encoder, fixed)
        limit(fixed, memory)  # refuses before anything is made
        place = None if device is None else as_device(device)
        with refusals(folder):
            if folder.exists() and not folder.is_dir():
                raise ArgumentError(f"{folder} is a file; pass another path")
            if folder.is_dir() and not (folder / tables.LOCK).exists() and any(folder.iterdir()):
                raise ArgumentError(f"{folder} is not empty; pass a new path")
            folder.resolve().mkdir(parents=True, exist_ok=True)  # also the target of a link that has none
        lock = WriterLock(folder / tables.LOCK)
        try:
            if tables.exists(index_file(folder)):
                raise ArgumentError(
                    f"{folder} is an index already; use Index.open(path, writable=True), or pass another path"
                )
            if (folder / tables.BUILD).exists():
                raise ArgumentError(
                    f"{folder} has an unfinished build of shards; run latewood cluster build again, or pass a new path"
                )
            if shards is None:
                make(folder, fixed)
            else:
                make_shards(folder, fixed, as_integer(shards, "shards", 1))
            return cls(folder, encoder, lock, memory, place)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: DocumentEncoder | None = None,
        *,
        writable: bool = False,
        memory: int | str | None = None,
        device: "str | torch.device | None" = None,
    ) -> "Index":
        """Open an index, to read or also to write.

        encoder: for a later `add`; without it the index loads its own when it first needs it.
        memory, device: of an index to write, as at `create`.
        Raises IndexFormatError if the folder is no index, of another version or damaged;
        IndexLockedError if writable and another writer has it; EncoderMismatchError for an encoder that did
        not make its vectors.
        """
        encoder = None if encoder is None else as_encoder(encoder, "encode_documents")
        for name, value in {"memory": memory, "device": device}.items():
            if not writable and value is not None:
                raise ArgumentError(
                    f"{name}={shown(value)} is of writing; pass writable=True, or leave it out to read"
                )
        folder = absolute(path)
        if not is_index(folder):
            raise no_index(folder)
        place = None if device is None else as_device(device)
        lock = WriterLock(folder / tables.LOCK) if writable else None
        try:
            return cls(folder, encoder, lock, memory, place)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def close(self) -> None:
        """Let go of the database and the writer's lock. Snapshots and searchers made from it stay good."""
        with self._mutex:
            try:
                self._close()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _close(self) -> None:
        if self._writer is not None:
            self._snapshot = self._writer.snapshot
            self._writer.close()
            self._writer = None
        elif self._snapshot is not None:
            self._snapshot.close()

    # Reading ------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> Snapshot:
        snapshot = self._snapshot if self._writer is None else self._writer.snapshot
        assert snapshot is not None
        return snapshot

    @property
    def settings(self) -> IndexSettings:
        return self._now.settings

    @property
    def dim(self) -> int:
        return self.settings.dim

    @property
    def encoder_name(self) -> str | None:
        return self.settings.encoder_name

    def snapshot(self) -> Snapshot:
        """The newest commit, as a value: whatever is written later, it stays. Yours to close."""
        return open_snapshot(self.folder, self._now)

    def reload(self) -> bool:
        """Move to the newest commit; whether there was one."""
        with self._mutex:
            before, newest = self._now.moment, self._now.newest()
            if self._writer is None:
                self._snapshot = newest
                self._snapshot = newest.beside_log()
            else:
                self._writer.snapshot = newest
            return newest.moment != before

    def __len__(self) -> int:
        """Documents."""
        return len(self._now)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._now

    def __getitem__(self, doc_id: str) -> Document:
        """The document. Raises KeyError where there is none of that doc_id."""
        return self._now[doc_id]

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order of adding; a replaced one stands where it was replaced."""
        return iter(self._now)

    def ids(self, filter: str | None = None) -> Iterator[str]:
        """All doc_ids, or those that meet a filter (docs/guides/filters.md), in the order of adding."""
        return self._now.ids(filter)

    def get(self, doc_ids: Iterable[str]) -> list[Document | None]:
        """The documents, one each in the order asked; None where there is none of that doc_id."""
        return self._now.get(doc_ids)

    def values(self, key: str) -> list[Any]:
        """The different values of a metadata key, written as in a filter; None where a document has none."""
        return self._now.values(key)

    @property
    def n_passages(self) -> int:
        """Parts of documents that have vectors of their own: windows of long texts, else whole documents."""
        return self._now.n_passages

    @property
    def n_tokens(self) -> int:
        """Token vectors."""
        return self._now.n_tokens

    @property
    def n_unencoded(self) -> int:
        """Documents whose vectors are still to come, by `encode`."""
        return self._now.n_unencoded

    @property
    def tuned_search(self) -> TunedSearch | None:
        """What `set_tuned_search` stored."""
        return self._now.tuned_search

    def info(self) -> dict[str, Any]:
        """Figures of the index. bytes: on disk, by part; bytes_per_token: of codes and tables."""
        return describe(self._now)

    def verify(self, *, progress: Told | None = None) -> None:
        """Read every byte of the newest commit. Raises IndexFormatError naming the damaged file."""
        with self.snapshot() as newest:
            verify(newest, progress)

    # Writing ------------------------------------------------------------------------------------------------

    def add(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        encode: bool = True,
        progress: Told | None = None,
        committed: Callable[[int], object] = lambda n: None,
    ) -> AddReport:
        """Store documents {"doc_id": str, "text": str, "metadata": dict (optional)} from any iterable.

        A doc_id that exists is replaced, its old vectors with the same commit; the last of several in the stream
        wins. What has not changed is not encoded again, so an interrupted add may simply be run again. A long text
        comes in windows, each a passage (IndexSettings.window). encode: False stores texts and words only, in
        seconds, and leaves the vectors to a later `encode`; True also encodes what an earlier add left.
        Commits every settings.commit_tokens and at the end; after an error, what the last of these commits stored
        stays, and nothing after it. Texts are encoded by other threads while those before them are stored, so records
        are read some batches ahead. committed: called after each commit with how many records are stored.
        Raises ArgumentError, naming the record, for one that cannot be stored; StorageError for a full disk.
        """
        with self._writing(progress) as writer:
            report = AddReport()
            checked = read_records(records, self._salt())
            total = len(records) if isinstance(records, Sized) else None
            if not encode:
                with Progress[Record](phase="words", unit="document", told=progress, total=total) as bar:
                    writer.add(_counted(batches(checked), bar), None, report, committed)
                return report
            encoder = self._document_encoder()
            stream = batches(checked, tokens_at_once(encoder, writer.settings))
            with (
                Progress[Record](phase="encoding", unit="document", told=progress, total=total) as bar,
                self._ahead(encoder, writer.changed) as ahead,
            ):
                writer.add(_counted(ahead.batches(stream), bar), ahead.passages, report, committed)
            if waiting := self.n_unencoded:
                self._encode(writer, None, waiting, encoder, report)
            return report

    def encode(self, doc_ids: Iterable[str] | None = None, *, progress: Told | None = None) -> AddReport:
        """Make the vectors that are still to come, of all documents or of those named, commit by commit.

        May be stopped anywhere and run again: it goes on from the last commit. In the report only `truncated`,
        `passages` and `tokens` count. Raises ArgumentError where the index has no encoder.
        """
        named = None if doc_ids is None else list(dict.fromkeys(as_strings(doc_ids, "doc_ids")))
        with self._writing(progress) as writer:
            report = AddReport()
            if waiting := self._count_waiting(named):
                encoder = self._document_encoder(few=waiting <= FEW)
                self._encode(writer, named, waiting, encoder, report)
            return report

    def add_embeddings(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Sequence[npt.ArrayLike],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> AddReport:
        """Store documents with vectors of your own, one passage each; otherwise as `add`.

        embeddings: one (n_tokens, dim) array a document, or TokenEmbeddings, whose token_ids make a build much faster.
        Vectors are kept as they are, not normalised. A document without vectors exists and is found by its words alone.
        """
        return self.add_batches([VectorBatch.made(doc_ids, embeddings, texts, metadata, self.dim)])

    def add_batches(
        self, batches: Iterable[VectorBatch], *, total: int | None = None, progress: Told | None = None
    ) -> AddReport:
        """As `add_embeddings`, of a stream: one batch is held at a time, and the codec is trained on what all hold.

        total: documents, for the progress. `open_vectors` gives batches of files and tables.
        """
        with self._writing(progress) as writer:
            report, given = AddReport(), GivenVectors(batches, self.dim, progress, total)
            writer.add(given.records(), given.passages, report)
            return report

    def delete(self, doc_ids: Iterable[str] | None = None, *, filter: str | None = None) -> int:
        """Delete documents by doc_id, or all that meet a filter (docs/guides/filters.md); how many there were.

        A doc_id that is not stored is no error. All go in one commit.
        """
        if (doc_ids is None) == (filter is None):
            raise ArgumentError("pass doc_ids, or filter=..., and not both")
        with self._writing() as writer:
            pending = deletion(self._now.reader, doc_ids, filter)
            writer.commit(pending)
            return len(pending.deleted)

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> int:
        """Give stored documents new metadata, {doc_id: metadata}; how many it changed. Encodes nothing.

        The new metadata takes the place of the old one as a whole. All change in one commit. Raises
        ArgumentError, and changes nothing, for a doc_id that is not stored.
        """
        with self._writing() as writer:
            pending = new_metadata(self._now.reader, metadata)
            writer.commit(pending)
            return len(pending.metadata)

    def rename(self, doc_ids: Mapping[str, str]) -> int:
        """Give stored documents other doc_ids, {old: new}; how many. Vectors, texts and metadata stay.

        All in one commit. Raises ArgumentError, and changes nothing, where an old one is not stored, or a new
        one is, unless that is renamed as well, or is given twice.
        """
        with self._writing() as writer:
            pending = renaming(self._now.reader, doc_ids)
            writer.commit(pending)
            return len(pending.renamed)

    def create_metadata_index(self, key: str) -> None:
        """Have SQLite index a metadata key, written as in a filter: filters that compare it get faster.

        Kept up to date from then on. No error where it exists already. Worth it where a filter is met by
        few of very many documents; else reading all metadata costs about as much.
        """
        with self._writing() as writer:
            writer.index_metadata(parse_key(key))

    def set_tuned_search(self, tuned: TunedSearch) -> None:
        """Store search settings that searchers opened from now on take in place of the defaults."""
        if not isinstance(tuned, TunedSearch):
            raise ArgumentError(f"tuned is {type(tuned).__name__}; pass a TunedSearch")
        with self._writing() as writer:
            writer.tune(asdict(tuned))

    def compact(self, *, progress: Told | None = None) -> None:
        """Rewrite the index without its deleted documents, in few segments; float16 becomes compressed.

        Where the corpus has outgrown its centroids the codec is trained anew. The original vectors are gone
        by then, so it learns from the decoded ones and each is coded a second time, which costs a little
        precision; adding everything to a new index does not. Takes as much free disk as the index.
        """
        with self._writing() as writer:
            total = sum(segment.n_tokens for segment in self._now.segments)
            with Progress[int](phase="compressing", unit="token", told=progress, total=total) as bar:
                writer.compact(bar.update)

    # Inside -------------------------------------------------------------------------------------------------

    def _encode(
        self,
        writer: Writer,
        doc_ids: list[str] | None,
        total: int,
        encoder: DocumentEncoder,
        report: AddReport,
    ) -> None:
        """What waits, of those named or of all: total."""
        with (
            Progress[Record](phase="encoding", unit="document", told=writer.told, total=total) as bar,
            self._ahead(encoder) as ahead,
        ):
            waiting = batches(self._waiting(doc_ids), tokens_at_once(encoder, writer.settings))
            stream = ahead.batches(waiting)
            writer.encode(_counted(stream, bar), ahead.passages, report)

    @contextmanager
    def _writing(self, told: Told | None = None) -> Iterator[Writer]:
        with self._mutex:
            if self._writer is None:
                raise ArgumentError(
                    f"{self.folder} is not open for writing; use Index.open(path, writable=True)"
                )
            if self._writer.uncertain:
                self._writer.sweep()
            self._writer.told = told
            yield self._writer

    def _ahead(self, encoder: DocumentEncoder, *wanted: Wanted) -> Ahead:
        return Ahead(encoder, windows_of(encoder, self.settings), *wanted)

    def _waiting(self, doc_ids: list[str] | None) -> Iterator[Record]:
        """Stored documents without vectors, each numbered as in the store."""
        rows = self._now.reader.unencoded(doc_ids)
        return (Record(document, doc_id, text, "", "") for document, doc_id, text in rows)

    def _count_waiting(self, doc_ids: list[str] | None) -> int:
        return self.n_unencoded if doc_ids is None else sum(1 for _ in self._waiting(doc_ids))

    def _salt(self) -> str:
        given = self._encoder.load_arguments if self._encoder is not None else self.settings.encoder
        return hash_salt(given or {})

    def _document_encoder(self, *, few: bool = False) -> DocumentEncoder:
        """few: what is to be encoded is so little that loading torch would take longer."""
        if self._encoder is None:
            if self.settings.encoder is None:
                raise ArgumentError(
                    f"{self.folder} was created with dim={self.dim} and no encoder; use add_embeddings for vectors, "
                    "or add(..., encode=False) for words alone"
                )
            # Imported here because torch takes seconds to load, and most who open an index add nothing.
            if few:
                from encoder.light import encoder_for_searching

                if self._light is None:
                    self._light = encoder_for_searching(self.settings.encoder)
                    self.settings.check_encoder(self._light, self.folder)
                return self._light
            told = None if self._writer is None else self._writer.told
            with Progress[int](phase="loading the model", unit="model", told=told, total=1) as bar:
                from encoder import Encoder

                encoder = Encoder.load(**self.settings.encoder)
                bar.update()
            self.settings.check_encoder(encoder, self.folder)
            self._encoder = encoder
        return self._encoder


def _counted(stream: Iterable[list[Record]], bar: Progress[Record]) -> Iterator[list[Record]]:
    """The same batches; each counts when the next one is asked for."""
    for batch in stream:
        yield batch
        bar.update(len(batch))
