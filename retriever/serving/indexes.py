"""The indexes that a server serves, each under a name: opened once, moved to the newest commit, closed at the end."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from encoder.errors import ArgumentError, LatewoodError
from encoder.threads import thread_count, threads_at_most
from indexing import Index, Snapshot
from indexing.storage.filters import written_key
from indexing.storage.tables import is_index
from retriever.code.search import CodeHits, CodeOptions, holds_code, search_code
from retriever.folders import Folder
from retriever.hits import Hits
from retriever.options import SearchOptions
from retriever.searcher import Searcher, Seconds
from retriever.serving.settings import ServeSettings

__all__ = ["Answer", "Served", "Serving", "open_indexes"]

# Documents of a folder that are encoded at a time: a search that has to wait for them waits a second.
FEW = 16
KEYS, VALUES = 50, 50  # metadata keys, and values of each, that `info` tells

Asked: TypeAlias = tuple[str, SearchOptions]
Tell: TypeAlias = Callable[[str], None]


class Answer(NamedTuple):
    """hits: or why there are none. options: as they were searched with. seconds: of the batch it was in."""

    hits: Hits | LatewoodError
    options: SearchOptions
    seconds: Seconds


class Served:
    """An index under a name, or the index that the cache has of a folder.

    folder: where it is a folder that is served. at_once: batches of queries that are searched side by side, which
    share the processors: what one does in Python the other does meanwhile in kernels. Methods take a while, and are
    called in threads.
    """

    at_once = 2

    def __init__(
        self, name: str, searcher: Searcher, folder: Folder | None = None, index: Index | None = None
    ) -> None:
        self.name = name
        self.searcher = searcher
        self.folder = folder
        self._index = index
        self._writing = threading.Lock()  # of the folder's index
        self._looked: object = None  # moment
        self._look()
        self._described: tuple[object, dict[str, Any]] | None = None  # moment
        self._describing = threading.Lock()
        self._under_way = 0  # batches
        self._counting = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        return self.searcher.snapshot

    @property
    def places(self) -> list[Path]:
        """Where the index lies, and the folder that it is of."""
        return [self.snapshot.folder, *([self.folder.source] if self.folder else [])]

    @property
    def writable(self) -> bool:
        return self._index is not None

    @property
    def writer(self) -> Index:
        """Of a writable index."""
        assert self._index is not None
        return self._index

    def now(self) -> dict[str, int]:
        """Of the newest commit, which is searched from now on."""
        self.reload()
        now = self.snapshot
        return {
            "documents": len(now),
            "unencoded": now.n_unencoded,
            "generation": now.state.generation,
        }

    def search(self, asked: Sequence[Asked]) -> list[Answer]:
        """An answer each, all on one snapshot. What words find in a folder is encoded first."""
        if self.folder is not None:
            for text, options in asked:
                self._prepare(self.folder, text, options)
            asked = [(text, self.folder.answerable(options)) for text, options in asked]
        with self._sharing():
            found, seconds = self.searcher.search_each(asked)
        return [Answer(hits, options, seconds) for hits, (_, options) in zip(found, asked, strict=True)]

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Within, as many threads as there are for each batch that is under way."""
        with self._counting:
            self._under_way += 1
            most = max(1, thread_count() // self._under_way)
        try:
            with threads_at_most(most):
                yield
        finally:
            with self._counting:
                self._under_way -= 1

    def search_code(self, text: str, options: SearchOptions, code: CodeOptions) -> tuple[CodeHits, Snapshot]:
        """As `retriever.code.search.search_code`; and what was searched."""
        if self.folder is not None:
            self._prepare(self.folder, text, options)
            options = self.folder.answerable(options)
        still = self.searcher.still()
        return search_code(still, text, options, code), still.snapshot

    def reload(self) -> bool:
        """Move to the newest commit; whether there was one."""
        self.searcher.reload()
        return self._look()

    def keep_up(self) -> None:
        """Read what changed in a folder, and encode a few of the documents that only words can find yet."""
        assert self.folder is not None
        with self._writing:
            self.folder.refresh()
            if self.snapshot.n_unencoded:
                self.folder.encode(most=FEW)
        self._look()

    def _prepare(self, folder: Folder, text: str, options: SearchOptions) -> None:
        if self.snapshot.n_unencoded and options.mode != "lexical":
            with self._writing:
                folder.prepare(text, options)

    def _look(self) -> bool:
        """Whether the searcher has moved since the last look, and what that changes."""
        now = self.snapshot
        moved, self._looked = now.moment != self._looked, now.moment
        if moved:
            self.holds_code = holds_code(now)
        return moved

    def info(self) -> dict[str, Any]:
        """What there is to say of the index; worked out once a commit."""
        with self._describing:
            snapshot = self.snapshot
            if self._described is None or self._described[0] != snapshot.moment:
                self._described = snapshot.moment, self._info(snapshot)
            return self._described[1]

    def _info(self, now: Snapshot) -> dict[str, Any]:
        return {
            "name": self.name,
            "documents": len(now),
            "passages": now.n_passages,
            "tokens": now.n_tokens,
            "unencoded": now.n_unencoded,
            "generation": now.state.generation,
            "bytes": sum(file.bytes for file in now.files),
            "encoder": now.settings.encoder_name,
            "code": self.holds_code,
            "mode": self.searcher.mode(),
            "writable": self.writable,
            "metadata_keys": [_key(now, names) for names in sorted(now.reader.keys or ())[:KEYS]],
        }


def _key(now: Snapshot, names: tuple[str, ...]) -> dict[str, Any]:
    key = written_key(names)
    values = [value for value in now.values(key, most=VALUES + 2) if value is not None]
    told = len(values) <= VALUES and not any(isinstance(value, list | dict) for value in values)
    return {"key": key, "values": values if told else None}


class Serving(Mapping[str, Served]):
    """All that a server serves, by name."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    @property
    def places(self) -> list[tuple[str, str]]:
        """(path, name) of all folders that errors may name, those within others first."""
        return sorted(
            ((str(place), name) for name, served in self.items() for place in served.places),
            key=lambda one: -len(one[0]),
        )


@contextmanager
def open_indexes(settings: ServeSettings, tell: Tell = lambda line: None) -> Iterator[Serving]:
    """Open what is to be served. A folder that is no index is brought up to date first, as `latewood search` does it.

    tell: is called with what is not as usual. Raises IndexFormatError, ArgumentError and CorpusError.
    """
    with ExitStack() as stack:
        yield Serving(
            {
                name: _opened(name, Path(folder), settings, tell, stack)
                for name, folder in settings.indexes.items()
            }
        )


def _opened(name: str, place: Path, settings: ServeSettings, tell: Tell, stack: ExitStack) -> Served:
    if is_index(place) or not place.is_dir():
        opened = Searcher.open(place, scoring=settings.scoring, device=settings.device, once=True)
        stack.enter_context(opened)
        index = stack.enter_context(Index.open(place, writable=True)) if settings.writable else None
        return Served(name, opened, index=index)
    if settings.writable:
        raise ArgumentError(
            f"{place} is a folder, whose documents are its files; serve an index of it (latewood index), "
            "or leave --writable out"
        )
    if settings.device is not None:
        raise ArgumentError(
            f"{place} is a folder, which is searched on the processor; leave --device out, or serve an index of it"
        )
    # At rest: others may search it, and so write to its index, as well.
    folder = stack.enter_context(Folder.kept(place, tell, scoring=settings.scoring))
    return Served(name, folder.searcher, folder)
