"""Snapshot: an index as it is after one commit, immutable: what every search and every reading looks at."""

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from encoder.arguments import absolute, as_strings
from encoder.closing import Closing
from encoder.errors import IndexFormatError
from indexing.coding.codec import Codec
from indexing.coding.vocabulary import owners_file
from indexing.settings import IndexSettings, TunedSearch
from indexing.storage.database import Watch, shorten_log
from indexing.storage.filters import Filter, parse_key
from indexing.storage.fulltext import queried, quoted
from indexing.storage.reader import Document, Numbers, Reader
from indexing.storage.refusals import refusals
from indexing.storage.segment import Segment
from indexing.storage.tables import DATABASE, no_index

__all__ = ["Live", "Selection", "Snapshot"]

Live: TypeAlias = npt.NDArray[np.bool_]

ATTEMPTS = 10
WORDS_KEPT = 100_000


@dataclass(frozen=True, eq=False)
class Selection:
    """Which documents a search may find. lives: (n_passages,) of each segment. documents: their numbers, ascending;
    None for all."""

    lives: list[Live]
    documents: Numbers | None = None

    def __contains__(self, document: int) -> bool:
        if self.documents is None:
            return True
        at = int(np.searchsorted(self.documents, document))
        return at < len(self.documents) and int(self.documents[at]) == document


class Snapshot(Closing):
    """The documents, passages and vectors of one commit, whatever is committed later.

    Several threads may read it. It holds its files until `close`, or until nobody has it. Documents are known by
    `doc_id` outside and by a number inside; a passage by its segment and its place there.
    """

    reader: Reader
    _watch: Watch | None = None
    _seen: object = None  # by the watch, when no newer commit was there

    def __init__(self, folder: str | Path, previous: "Snapshot | None" = None) -> None:
        """Open the newest commit of an index folder. previous: an older snapshot, whose open files are shared.

        Compares the size of every file with what was written, and reads no more than headers.
        Raises IndexFormatError where the folder is no index, or naming the file that is missing or of another size.
        """
        self.folder = absolute(folder)
        if not (self.folder / DATABASE).is_file():
            raise no_index(self.folder)
        with refusals(self.folder):
            self._open(previous)

    @property
    def parts(self) -> Sequence["Snapshot"]:
        """The snapshots of index folders that this is of: itself, or one a shard."""
        return [self]

    @property
    def moment(self) -> object:
        """What another commit, or another index in the place of this one, has not."""
        return self.reader.file, self.state.generation

    def close(self) -> None:
        """Let go of the files. Arrays of segments taken earlier stay good."""
        self.reader.close()
        if self._watch is not None:
            self._watch.close()

    def newest(self) -> "Snapshot":
        """A snapshot of the newest commit, this one where there is no newer; or of another index that has taken its
        place. What has not changed is shared. Opens no file where nothing has been committed since the last time."""
        seen = self._look()
        if seen == self._seen:
            return self
        found = self._again()
        if found.state.generation > self.state.generation or found.reader.file != self.reader.file:
            found._follow(self, seen)
            return found
        found.close()
        self._seen = seen
        return self

    def beside_log(self) -> "Snapshot":
        """This one, or the newest opened anew after SQLite's log has become long: one that lets the log be begun anew
        (`shorten_log`). To be called when older snapshots have been let go."""
        return Snapshot(self.folder, self) if shorten_log(self.reader.path) else self

    # Documents -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Documents."""
        return self.n_documents

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and bool(self.reader.find([doc_id]))

    def __getitem__(self, doc_id: str) -> Document:
        """The document. Raises KeyError where there is none of that doc_id."""
        [document] = self.get([doc_id])
        if document is None:
            raise KeyError(doc_id)
        return document

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order of adding; a replaced one stands where it was replaced."""
        return self.matching()

    def matching(self, filter: str | None = None) -> Iterator[Document]:
        """The documents that meet a filter (docs/guides/filters.md), or all, in the order of adding."""
        rows = self.reader.stream("doc_id, text, metadata", self._condition(filter))
        return (Document(doc_id, text, json.loads(metadata)) for _, doc_id, text, metadata in rows)

    def ids(self, filter: str | None = None) -> Iterator[str]:
        """All doc_ids, or those that meet a filter (docs/guides/filters.md), in the order of adding."""
        return (doc_id for _, doc_id in self.reader.stream("doc_id", self._condition(filter)))

    def get(self, doc_ids: Iterable[str]) -> list[Document | None]:
        """The documents, one each in the order asked; None where there is none of that doc_id."""
        wanted = as_strings(doc_ids, "doc_ids")
        rows = self.reader.find(list(dict.fromkeys(wanted)))
        found = self.reader.documents([row.document for row in rows.values()])
        return [found[rows[doc_id].document] if doc_id in rows else None for doc_id in wanted]

    def texts(self, filter: str | None = None) -> Iterator[tuple[str, str]]:
        """(doc_id, text) of the documents that meet a filter and have a text, in the order of adding."""
        rows = self.reader.stream("doc_id, text", self._condition(filter))
        return ((doc_id, text) for _, doc_id, text in rows if text)

    def _condition(self, filter: str | None) -> Filter | None:
        return None if filter is None else self.reader.condition(filter)

    def values(self, key: str, most: int | None = None) -> list[Any]:
        """The different values of a metadata key, written as in a filter, or the first `most`; None where a document
        has none."""
        return self.reader.values(parse_key(key), most)

    @property
    def n_documents(self) -> int:
        return self.reader.n_documents

    @property
    def n_unencoded(self) -> int:
        """Documents whose vectors are still to come (`Index.encode`)."""
        return self.reader.n_unencoded

    @property
    def has_texts(self) -> bool:
        """Whether any document has a text, and so words to be found by."""
        return self.reader.texts.n > 0

    @cached_property
    def n_passages(self) -> int:
        """Live passages: parts of documents that have vectors of their own."""
        return sum(int(live.sum()) for live in self.lives)

    @cached_property
    def n_tokens(self) -> int:
        """Token vectors of live passages."""
        pairs = zip(self.segments, self.lives, strict=True)
        return sum(int(np.diff(segment.offsets)[live].sum()) for segment, live in pairs)

    @cached_property
    def one_each(self) -> bool:
        """Whether no document has more than one passage."""
        return all(segment.one_each for segment in self.segments)

    @property
    def tuned_search(self) -> TunedSearch | None:
        stored = self.reader.search
        return None if stored is None else TunedSearch.from_json(stored, self.reader.path)

    # What a search asks --------------------------------------------------------------------------------------

    def select(self, filter: str | None = None) -> Selection:
        """The documents that meet a filter (docs/guides/filters.md); None is met by all.

        Raises ArgumentError, naming the position, for what is no filter.
        """
        if filter is None:
            return Selection(self.lives)
        documents = self.reader.matching(self.reader.condition(filter))
        pairs = zip(self.segments, self.lives, strict=True)
        return Selection([live & np.isin(s.owners, documents) for s, live in pairs], documents)

    def lexical(self, text: str, selection: Selection) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """Numbers and BM25 of the documents with any of a text's words, in the order of numbers
        (docs/guides/hybrid.md)."""
        found, scores = self.reader.lexical(queried(text))
        if selection.documents is None:
            return found, scores
        fine = np.isin(found, selection.documents)
        return found[fine], scores[fine]

    def unencoded(self, numbers: Numbers) -> Numbers:
        """Those of the documents whose vectors are still to come."""
        return self.reader.waiting(numbers.tolist())

    def document_frequencies(self, words: Sequence[str]) -> list[int]:
        """How many documents have each word, by its stem as in full text."""
        known = self._frequencies
        found = []
        for word in words:
            if (frequency := known.get(word)) is None:
                frequency = self.reader.document_frequency(quoted(word))
                if len(known) < WORDS_KEPT:
                    known[word] = frequency
            found.append(frequency)
        return found

    def documents(self, numbers: Iterable[int]) -> dict[int, Document]:
        """Number → document."""
        return self.reader.documents(numbers)

    def doc_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """Number → doc_id."""
        return self.reader.doc_ids(numbers)

    @overload
    def locate(self, pids: int) -> tuple[int, int]: ...
    @overload
    def locate(self, pids: Numbers) -> tuple[Numbers, Numbers]: ...

    def locate(self, pids: Any) -> Any:
        """Segment and place in it of passages; a pid counts passages over all segments, in order."""
        at = np.searchsorted(self.starts, pids, side="right") - 1
        return at, pids - self.starts[at]

    def owners(self, pids: Numbers) -> Numbers:
        """The document's number of each passage."""
        if len(self.segments) == 1:
            return self.segments[0].owners[pids]
        at, local = self.locate(pids)
        owners = np.empty(len(pids), np.int64)
        for i in set(at.tolist()):  # np.unique imports numpy.ma
            owners[at == i] = self.segments[i].owners[local[at == i]]
        return owners

    def memory(self) -> dict[str, int]:
        """Bytes held beyond mapped files, by name; what has not been asked for yet takes none."""
        lives = self.__dict__.get("lives", ())
        counts = self._frequencies
        held = {
            "live passages": sum(live.nbytes for live in lives),
            "lists": sum(segment.memory for segment in self.segments),
            "word counts": sys.getsizeof(counts) + sum(map(sys.getsizeof, counts)),
            "words": self.reader.memory(),
        }
        return held if self.codec is None else self.codec.memory() | held

    # Inside --------------------------------------------------------------------------------------------------

    def _look(self) -> object:
        """What differs after a commit."""
        try:
            self._watch = watch = self._watch or Watch(self.folder / DATABASE)
            return watch.look()
        except (OSError, sqlite3.Error):  # opening it will say what is wrong
            self._watch = None
            return object()

    def _again(self) -> "Snapshot":
        return Snapshot(self.folder, self)

    def _follow(self, older: "Snapshot", seen: object) -> None:
        """Look as an older one did until now. seen: by it, before this one was opened."""
        self._watch, self._seen, older._watch = older._watch, seen, None

    @cached_property
    def lives(self) -> list[Live]:
        """For each segment (n_passages,), read-only: False where the document was deleted or replaced."""
        dead = self.reader.tombstones()
        lives = []
        for segment in self.segments:
            live = np.ones(segment.n_passages, np.bool_)
            if len(dead):
                live = ~np.isin(segment.owners, dead)
            live.flags.writeable = False
            lives.append(live)
        return lives

    def _open(self, previous: "Snapshot | None") -> None:
        for attempt in range(ATTEMPTS):
            self.reader = Reader(self.folder / DATABASE, None if previous is None else previous.reader)
            try:
                same = previous is not None and previous.reader.file == self.reader.file
                self._open_files(previous if same else None)
                return
            except FileNotFoundError as error:
                # A compaction may commit and delete files between our reading of the list and our opening of them.
                self.reader.close()
                if attempt == ATTEMPTS - 1 or not self._has_moved():
                    raise IndexFormatError(
                        f"{error.filename} is missing; restore it or build the index again"
                    ) from None
            except BaseException:
                self.reader.close()
                raise

    def _has_moved(self) -> bool:
        newest = Reader(self.folder / DATABASE)
        newest.close()
        return newest.state.generation != self.reader.state.generation

    def _open_files(self, previous: "Snapshot | None") -> None:
        reader = self.reader
        self.settings = IndexSettings.from_json(reader.settings, reader.path)
        self.state, self.rows, self.files = reader.state, reader.segments(), reader.files()
        for file in self.files:
            path = self.folder / file.path
            size = path.stat().st_size
            if size != file.bytes:
                raise IndexFormatError(
                    f"{path} has {size} bytes, {file.bytes} were written; restore it or build the index again"
                )
        same = previous is not None and previous.state.codec == self.state.codec
        self.codec: Codec | None = None
        if same and previous is not None:
            self.codec = previous.codec
        elif self.state.codec is not None:
            owners = owners_file(self.state.codec)
            listed = any(file.path == owners for file in self.files)
            self.codec = Codec.load(
                self.folder / self.state.codec,
                dim=self.settings.dim,
                owners=self.folder / owners if listed else None,
            )
        # Segments never change and their numbers are never used twice, so those open already stay open.
        # Under a codec with more centroids they are opened anew: it has more inverted lists.
        shared: tuple[Segment, ...] = previous.segments if previous is not None and same else ()
        opened = {segment.segment_id: segment for segment in shared}
        self.segments: tuple[Segment, ...] = tuple(
            opened.get(row.segment_id) or Segment(self.folder, row, dim=self.settings.dim, codec=self.codec)
            for row in self.rows
        )
        # (n_segments + 1,): the pid of each segment's first passage
        self.starts = np.cumsum([0, *(row.n_passages for row in self.rows)])
        self._frequencies: dict[str, int] = {}
