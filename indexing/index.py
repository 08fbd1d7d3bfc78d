"""Index: a folder of passages and their token vectors. Create or open it, add, delete, compact, read."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import absolute, as_integer, as_strings
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError, IndexFormatError
from encoder.progress import Progress
from indexing.coding.codec import Codec
from indexing.coding.sizes import choose_m
from indexing.settings import DocumentEncoder, IndexSettings, TunedSearch
from indexing.storage.durable import fsync_folder
from indexing.storage.filters import parse_key
from indexing.storage.inspection import describe, verify
from indexing.storage.lock import WriterLock
from indexing.storage.refusals import refusals
from indexing.storage.segment import Segment
from indexing.storage.snapshot import Snapshot
from indexing.storage.store import DATABASE, Document, Store
from indexing.writing.memory import limit
from indexing.writing.pending import deletion, new_metadata, renaming
from indexing.writing.records import (
    AddReport,
    Record,
    batches,
    hash_salt,
    read_records,
    read_vectors,
)
from indexing.writing.writer import Writer

__all__ = ["Index"]

LOCK = "index.lock"
AT_ONCE = 1000  # texts in memory while all are read


class Index:
    """An open index. Made by `Index.create` or `Index.open`; closed by `close` or a `with` block.

    Reading shows the snapshot of the moment of opening, the last commit of this writer, or the last
    `refresh`, whatever other processes do. Several threads may read one Index. Writing and `refresh` replace
    its snapshot, for which they wait until no search is under way.
    """

    def __init__(
        self,
        folder: Path,
        encoder: DocumentEncoder | None,
        lock: WriterLock | None,
        memory: int | str | None = None,
    ) -> None:
        self.folder = folder
        self._lock = lock
        self._mutex = threading.RLock()
        self._store = Store(folder / DATABASE, writable=lock is not None)
        try:
            self.settings = IndexSettings.from_json(self._store.settings, folder / DATABASE)
            if encoder is not None:
                self.settings.check_encoder(encoder, folder)
            self._encoder = encoder
            self._snapshot = Snapshot(folder, self._store, self.settings)
            self._writer = None
            if lock is not None:
                self._writer = Writer(self._snapshot, *limit(self.settings, memory))
                self._writer.sweep()
        except BaseException:
            self._store.close()
            raise

    # Opening and closing ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: DocumentEncoder | None = None,
        *,
        dim: int | None = None,
        flat_tokens: int = IndexSettings.flat_tokens,
        commit_tokens: int = IndexSettings.commit_tokens,
        segment_tokens: int = IndexSettings.segment_tokens,
        seed: int = IndexSettings.seed,
        memory: int | str | None = None,
    ) -> "Index":
        """Make an empty index in a new or empty folder and open it for writing.

        encoder: makes the vectors of `add`. dim: instead of it, for vectors of your own (`add_embeddings`).
        memory: about the most that this process may take while it writes, in bytes or as "1GB", whatever the
        size of the corpus; not stored. The rest is explained at IndexSettings.
        Raises ArgumentError where there is an index already, StorageError where the disk refuses.
        """
        folder = absolute(path)
        if (encoder is None) == (dim is None):
            raise ArgumentError("pass an encoder, or dim=... for vectors of your own")
        dim = encoder.dim if encoder is not None else as_integer(dim, "dim", 1)
        settings = IndexSettings(
            dim=dim,
            m=choose_m(dim),
            encoder=None if encoder is None else encoder.load_arguments,
            encoder_fingerprint=None if encoder is None else encoder.fingerprint,
            flat_tokens=flat_tokens,
            commit_tokens=commit_tokens,
            segment_tokens=segment_tokens,
            seed=seed,
            length_byte=True,
        )
        limit(settings, memory)  # refuses before anything is made
        with refusals(folder):
            if folder.exists() and not folder.is_dir():
                raise ArgumentError(f"{folder} is a file; pass another path")
            if folder.is_dir() and not (folder / LOCK).exists() and any(folder.iterdir()):
                raise ArgumentError(f"{folder} is not empty; pass a new path")
            folder.resolve().mkdir(parents=True, exist_ok=True)  # also the target of a link that has none
        lock = WriterLock(folder / LOCK)
        try:
            if Store.exists(folder / DATABASE):
                raise ArgumentError(
                    f"{folder} is an index already; use Index.open(path, writable=True), or pass another path"
                )
            with refusals(folder):
                (folder / "segments").mkdir(exist_ok=True)
                Store.create(folder / DATABASE, asdict(settings))
                fsync_folder(folder)
                fsync_folder(folder.parent)
            return cls(folder, encoder, lock, memory)
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
    ) -> "Index":
        """Open an index, to read or also to write.

        encoder: for a later `add`; without it the index loads its own when it first needs it.
        memory: as at `create`.
        Raises IndexFormatError if the folder is no index, of a newer version or damaged;
        IndexLockedError if writable and another writer has it; EncoderMismatchError for an encoder that did
        not make its vectors.
        """
        folder = absolute(path)
        if not (folder / DATABASE).is_file():
            raise IndexFormatError(
                f"{folder} is not an index (it has no {DATABASE}); make one by Index.create"
            )
        lock = WriterLock(folder / LOCK) if writable else None
        try:
            return cls(folder, encoder, lock, memory)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def close(self) -> None:
        """Let go of the database and the writer's lock. Arrays of segments taken earlier stay good."""
        with self._mutex:
            self._store.close()
            self._writer = None
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading ------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self.settings.dim

    @property
    def encoder_name(self) -> str | None:
        return None if self.settings.encoder is None else str(self.settings.encoder["name"])

    @property
    def encoder_fingerprint(self) -> str | None:
        return self.settings.encoder_fingerprint

    @property
    def codec(self) -> Codec | None:
        """What compressed segments are coded with; None while all are flat."""
        return self._snapshot.codec

    @property
    def segments(self) -> tuple[Segment, ...]:
        """In the order of pids."""
        return self._snapshot.segments

    def __len__(self) -> int:
        """Live passages."""
        return len(self._snapshot)

    @property
    def n_tokens(self) -> int:
        """Token vectors of live passages."""
        return self._snapshot.n_tokens

    @property
    def tuned_search(self) -> TunedSearch | None:
        """What `set_tuned_search` stored."""
        stored = self._store.search
        return None if stored is None else TunedSearch.from_json(stored, self.folder / DATABASE)

    def live(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """(n_passages,) of a segment of this snapshot: False where the passage was deleted or replaced."""
        return self._snapshot.live(segment)

    def document_frequencies(self, words: Sequence[str]) -> list[int]:
        """How many passages have each word, by its stem as in full text."""
        return self._snapshot.document_frequencies(as_strings(words, "words"))

    def get(self, doc_ids: Iterable[str]) -> list[Document | None]:
        """Text and metadata of passages by doc_id, in the order asked; None for one that is not stored."""
        wanted = as_strings(doc_ids, "doc_ids")
        found = self._store.get(wanted)
        return [found.get(doc_id) for doc_id in wanted]

    def ids(self, filter: str | None = None) -> list[str]:
        """The doc_ids of all passages, or of those that meet a filter (docs/filters.md), in the order of adding."""
        return self._store.ids(None if filter is None else self._store.condition(filter))

    def scan(self, filter: str | None = None) -> Iterator[Document]:
        """All passages, or those that meet a filter, in the order of adding; AT_ONCE texts in memory at a time."""
        doc_ids = self.ids(filter)
        for start in range(0, len(doc_ids), AT_ONCE):
            yield from (d for d in self.get(doc_ids[start : start + AT_ONCE]) if d is not None)

    def values(self, key: str) -> list[Any]:
        """The different values of a metadata key, written as in a filter; None where a passage has none."""
        return self._store.values(parse_key(key))

    @property
    def generation(self) -> int:
        """The number of the commit that reading shows."""
        return self._store.state.generation

    def reading(self) -> AbstractContextManager[None]:
        """While in it, this thread's snapshot stays; a refresh or commit in another thread waits. Not to be nested."""
        return self._snapshot.lock.reading()

    def refresh(self) -> bool:
        """Move to the newest commit; whether there was one."""
        with self._mutex:
            return self._snapshot.refresh()

    def info(self) -> dict[str, Any]:
        """Figures of the index. bytes: on disk, by part; bytes_per_token leaves out codec and database."""
        return describe(self._snapshot, self.settings)

    def verify(self, *, show_progress: bool = False) -> None:
        """Move to the newest commit and read every byte. Raises IndexFormatError naming the damaged file."""
        with self._mutex:
            verify(self._snapshot, show_progress)

    # Writing ------------------------------------------------------------------------------------------------

    def add(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        show_progress: bool = False,
        committed: Callable[[], object] = lambda: None,
    ) -> AddReport:
        """Store passages {"doc_id": str, "text": str, "metadata": dict (optional)} from any iterable.

        A doc_id that exists is replaced; the last of several in the stream wins. What has not changed is not
        encoded again, so an interrupted add may simply be run again. Commits every settings.commit_tokens
        and at the end; after an error, what the last of these commits stored stays, and nothing after it.
        committed: called after each commit; all that `records` has given by then is stored.
        Raises ArgumentError, naming the record, for one that cannot be stored; StorageError for a full disk.
        """
        with self._writing() as writer:
            encoder = self._document_encoder()

            def encode(batch: list[Record]) -> TokenEmbeddings:
                return encoder.encode_documents([record.text or "" for record in batch])

            checked = read_records(records, hash_salt(encoder))
            with Progress(checked, desc="index", unit="passage", show=show_progress) as bar:
                return writer.add(batches(bar), encode, committed)

    def add_embeddings(
        self,
        doc_ids: Iterable[str],
        embeddings: TokenEmbeddings | Iterable[npt.ArrayLike],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> AddReport:
        """Store passages with vectors of your own; otherwise as `add`.

        embeddings: one (n_tokens, dim) array a passage, or `TokenEmbeddings`. Vectors are kept as they are, not
        normalised. A passage without vectors exists and is never found.
        Raises ArgumentError, and stores nothing, where the numbers of values differ or one cannot be stored.
        """
        with self._writing() as writer:
            records, vectors = read_vectors(doc_ids, embeddings, texts, metadata, self.dim)

            def look_up(batch: list[Record]) -> TokenEmbeddings:
                return TokenEmbeddings.from_list([vectors[r.number] for r in batch], self.dim)

            return writer.add(batches(records), look_up)

    def delete(self, doc_ids: Iterable[str] | None = None, *, filter: str | None = None) -> int:
        """Delete passages by doc_id, or all that meet a filter (docs/filters.md); how many there were.

        A doc_id that is not stored is no error. All go in one commit.
        """
        if (doc_ids is None) == (filter is None):
            raise ArgumentError("pass doc_ids, or filter=..., and not both")
        with self._writing() as writer:
            pending = deletion(self._store, doc_ids, filter)
            writer.commit(pending)
            return len(pending.deleted)

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> int:
        """Give stored passages new metadata, {doc_id: metadata}; how many it changed. Encodes nothing.

        The new metadata takes the place of the old one as a whole. All change in one commit. Raises
        ArgumentError, and changes nothing, for a doc_id that is not stored.
        """
        with self._writing() as writer:
            pending = new_metadata(self._store, metadata)
            writer.commit(pending)
            return len(pending.metadata)

    def rename(self, doc_ids: Mapping[str, str]) -> int:
        """Give stored passages other doc_ids, {old: new}; how many. Vectors, texts and metadata stay.

        All in one commit. Raises ArgumentError, and changes nothing, where an old one is not stored, or a new
        one is, unless that is renamed as well, or is given twice.
        """
        with self._writing() as writer:
            pending = renaming(self._store, doc_ids)
            writer.commit(pending)
            return len(pending.renamed)

    def create_metadata_index(self, key: str) -> None:
        """Have SQLite index a metadata key, written as in a filter: filters that compare it get faster.

        Kept up to date from then on. No error where it exists already. Worth it where a filter is met by
        few of very many passages; else reading all metadata costs about as much.
        """
        with self._writing() as writer:
            writer.index_metadata(parse_key(key))

    def set_tuned_search(self, tuned: TunedSearch) -> None:
        """Store search settings that searchers opened from now on take in place of the defaults."""
        if not isinstance(tuned, TunedSearch):
            raise ArgumentError(f"tuned is {type(tuned).__name__}; pass a TunedSearch")
        with self._writing() as writer:
            writer.tune(asdict(tuned))

    def compact(self, *, show_progress: bool = False) -> None:
        """Rewrite the index without its deleted passages, in few segments; float16 becomes compressed.

        Where the corpus has outgrown its centroids the codec is trained anew. The original vectors are gone
        by then, so it learns from the decoded ones and each is coded a second time, which costs a little
        precision; adding everything to a new index does not. Takes as much free disk as the index.
        """
        bar = Progress[int](desc="compact", unit="token", show=show_progress, total=self.n_tokens)
        with self._writing() as writer, bar:
            writer.compact(bar.update)

    # Inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        with self._mutex:
            if self._writer is None:
                raise ArgumentError(
                    f"{self.folder} is not open for writing; use Index.open(path, writable=True)"
                )
            if self._store.uncertain:  # the last commit failed
                self._writer.sweep()
            yield self._writer

    def _document_encoder(self) -> DocumentEncoder:
        if self._encoder is None:
            if self.settings.encoder is None:
                raise ArgumentError(
                    f"{self.folder} was created with dim={self.dim} and no encoder; use add_embeddings"
                )
            # Imported here because torch takes seconds to load, and most who open an index add nothing.
            from encoder import Encoder

            encoder = Encoder.load(**self.settings.encoder)
            self.settings.check_encoder(encoder, self.folder)
            self._encoder = encoder
        return self._encoder
