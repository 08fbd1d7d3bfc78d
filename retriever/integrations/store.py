"""What the adapters share: an index that threads and tasks write and search at once, and diverse hits."""

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from encoder.arguments import absolute, as_integer, as_number, shown
from encoder.errors import ArgumentError, MissingDependencyError
from encoder.options import updated
from encoder.others import as_encoder
from indexing import Document, Index, Snapshot
from indexing.settings import DocumentEncoder
from indexing.storage.tables import identity, is_index
from retriever.hits import Hit, Hits, Passage
from retriever.integrations.filters import EVERY
from retriever.options import By, SearchOptions
from retriever.ranking.ranker import document_vectors
from retriever.searcher import QueryEncoder, Searcher

__all__ = ["Diversity", "IndexEncoder", "Store", "bundled", "extra", "in_thread", "passage_of"]

P = ParamSpec("P")
R = TypeVar("R")


class IndexEncoder(DocumentEncoder, QueryEncoder, Protocol):
    """What a store asks of an encoder; `latewood.Encoder` is one."""


@dataclass(frozen=True)
class Diversity:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): of the `among` best hits k are taken one by
    one, by the highest balance * relevance - (1 - balance) * similarity with the nearest that is taken."""

    among: int = 20
    balance: float = 0.5

    def __post_init__(self) -> None:
        as_integer(self.among, "fetch_k", 1)
        if not 0 <= as_number(self.balance, "lambda_mult") <= 1:
            raise ArgumentError(f"lambda_mult={self.balance}; pass 0 (diverse) to 1 (relevant)")


@dataclass(eq=False)
class _Open:
    """An index that this process writes to. identity: of its database's file. users: stores that are not closed."""

    index: Index
    searcher: Searcher
    identity: tuple[int, int] | None
    users: int = 0
    writing: threading.RLock = field(default_factory=threading.RLock)


_opened: dict[Path, _Open] = {}
_opening = threading.RLock()  # a store that nobody has may be let go at any line, under the lock too


class Store:
    """An index, and a searcher of its newest commit.

    Searches and reading go on while another thread writes; writers wait for one another. Everything written is
    found when the call returns. Stores of one folder in one process are the same index. Closed by `close`, a `with`
    block, or when nobody has it.
    """

    def __init__(
        self, searcher: Searcher, opened: _Open | None = None, *, owner: "Searcher | Store | None" = None
    ) -> None:
        """opened: what to write to; None for searches alone. owner: whose the searcher is, where `close` leaves it
        open."""
        self.searcher = searcher
        self._opened = opened
        self._owner = owner  # kept, for a store that nobody has is closed
        close = searcher.close if owner is None else _nothing
        self._finalizer = (
            weakref.finalize(self, close) if opened is None else weakref.finalize(self, _release, opened)
        )

    @classmethod
    def open(
        cls, path: str | Path, encoder: IndexEncoder | str | Path | None = None, **settings: Any
    ) -> "Store":
        """Open an index folder for writing, or make one.

        encoder: a name or folder is loaded; None for the one that made the index, or for a new index the bundled
        model. settings: of a new index, such as `window`; an index that is there must have them. Raises
        IndexLockedError where another process writes to it.
        """
        folder = absolute(path).resolve()
        if isinstance(encoder, str | Path):
            from encoder import Encoder  # imports torch

            encoder = Encoder.load(encoder)
        elif encoder is not None:
            encoder = as_encoder(encoder, "encode_documents", "encode_queries")
        with _opening:
            opened = _opened.get(folder)
            if opened is None or opened.identity != identity(folder):  # or the folder has been made anew
                opened = _made(folder, encoder, settings)
            elif encoder is not None:
                opened.index.settings.check_encoder(encoder, folder)
            opened.users += 1
            store, _opened[folder] = cls(opened.searcher, opened), opened
        try:
            _check_settings(opened.index, settings)
        except ArgumentError:
            store.close()
            raise
        return store

    @classmethod
    def reading(cls, source: Any) -> "Store":
        """For searches alone. source: the path of an index, a Searcher or a Store, which stay their owner's."""
        if isinstance(source, Store):
            return cls(source.searcher, owner=source)
        if isinstance(source, Searcher):
            return cls(source, owner=source)
        if isinstance(source, str | Path):
            return cls(Searcher.open(source))
        raise ArgumentError(
            f"index is {shown(source)} ({type(source).__name__}); pass a path, a Searcher or a Latewood store"
        )

    @property
    def folder(self) -> Path:
        return self.now.folder

    @property
    def now(self) -> Snapshot:
        """The newest commit that this store knows of."""
        return self.searcher.snapshot

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index, with the last store of it. May be called again."""
        self._finalizer()

    def reload(self) -> bool:
        """Move to the newest commit of other processes; whether there was one."""
        return self.searcher.reload()

    # Writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Index]:
        """The index, while no other thread writes to it by a store: for what must be looked at before it is changed."""
        if self._opened is None:
            raise ArgumentError(f"{self.folder} is open for searching alone; open it as a store to change it")
        with self._opened.writing:
            try:
                yield self._opened.index
            finally:
                self.searcher.reload()  # also what an add has committed before an error

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """As `Index.add`."""
        with self.writing() as index:
            index.add(records)

    def delete(self, doc_ids: Iterable[str] | None = None, filter: str | None = None) -> int:
        """As `Index.delete`; all documents where neither is given."""
        with self.writing() as index:
            return index.delete(doc_ids, filter=EVERY.met if doc_ids is None and filter is None else filter)

    # Reading -------------------------------------------------------------------------------------------------

    def get(self, doc_ids: Iterable[str]) -> list[Document]:
        """Those that are stored, in the order asked."""
        return [document for document in self.now.get(doc_ids) if document is not None]

    def matching(self, filter: str | None = None) -> Iterator[Document]:
        """The documents that meet a filter, in the order of adding."""
        return self.now.matching(filter)

    def search(self, query: str, options: SearchOptions) -> Hits:
        return self.searcher.search(query, options)

    def relevances(self, query: str, options: SearchOptions) -> tuple[Hits, list[float]]:
        """Hits, and the score of each as a share of the highest that the query could have, 0 to 1: by mode "late"."""
        if options.mode not in (None, "late"):
            raise ArgumentError(
                f'mode="{options.mode}" has no scores from 0 to 1; pass mode="late", or ask without a threshold'
            )
        vectors = self.searcher.encode([query])[0]  # (n_query, dim)
        best = float(np.linalg.norm(vectors, axis=1).sum())  # what a document with the very same tokens has
        hits = self.searcher.search_embeddings(vectors, options, sharpness=self.searcher.scoring.sharpness)
        return hits, [min(1.0, max(0.0, hit.score / best)) if best else 0.0 for hit in hits]

    def diverse(self, query: str, options: SearchOptions, diversity: Diversity) -> list[tuple[Hit, float]]:
        """k hits by maximal marginal relevance, in the order in which they are taken, with their relevance."""
        wider = updated(options, {"k": max(options.k, diversity.among)})
        hits, relevances = self.relevances(query, wider)
        taken = _taken(np.array(relevances), self._means(hits), options.k, diversity.balance)
        return [(hits[i], relevances[i]) for i in taken]

    def _means(self, hits: Sequence[Hit]) -> npt.NDArray[np.float32]:
        """(n, dim): the mean of each document's token vectors, of unit length; 0 of a document that has gone."""
        now = self.now
        rows = now.reader.find([hit.doc_id for hit in hits])
        means = np.zeros((len(hits), now.settings.dim), np.float32)
        for mean, hit in zip(means, hits, strict=True):
            if hit.doc_id in rows:
                for segment, i in document_vectors(now.segments, rows[hit.doc_id].document):
                    first, last = segment.offsets[i : i + 2]
                    mean += segment.decode(int(first), int(last), now.codec).sum(0)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        means /= np.where(lengths, lengths, 1)
        return means


def _taken(
    relevances: npt.NDArray[np.float64], means: npt.NDArray[np.float32], k: int, balance: float
) -> list[int]:
    """Up to k of n hits by maximal marginal relevance: relevances (n,), means (n, dim) of unit length."""
    taken: list[int] = []
    nearest = np.full(len(means), -np.inf)
    while len(taken) < min(k, len(means)):
        gain = balance * relevances - ((1 - balance) * nearest if taken else 0)
        gain[taken] = -np.inf
        taken.append(int(np.argmax(gain)))
        nearest = np.maximum(nearest, means @ means[taken[-1]])
    return taken


def _made(folder: Path, encoder: IndexEncoder | None, settings: dict[str, Any]) -> _Open:
    if is_index(folder):
        index = Index.open(folder, encoder, writable=True)
    else:
        index = Index.create(folder, encoder or bundled(), **settings)
    try:
        return _Open(index, Searcher(index, encoder), identity(folder))
    except BaseException:
        index.close()
        raise


def _release(opened: _Open) -> None:
    with _opening:
        opened.users -= 1
        if opened.users:
            return
        if _opened.get(opened.index.folder) is opened:
            del _opened[opened.index.folder]
        opened.searcher.close()
        opened.index.close()


def _nothing() -> None: ...


def _check_settings(index: Index, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        made = getattr(index.settings, name, None)
        if made != value:
            raise ArgumentError(
                f"{index.folder} was made with {name}={made!r}, not {shown(value)}; leave it out, or pass a new path"
            )


def extra(name: str, package: str) -> MissingDependencyError:
    """What to raise where a framework is not installed."""
    return MissingDependencyError(f"{package} is not installed; run: pip install 'latewood[{name}]'")


@functools.cache
def bundled() -> IndexEncoder:
    """The bundled model, loaded once."""
    from encoder import Encoder  # imports torch

    return Encoder.load()


def passage_of(stored: Document | Hit, by: By) -> Passage | None:
    """The passage to give in place of the document: of a hit, where passages were asked for."""
    return stored.passage if by == "passage" and isinstance(stored, Hit) else None


def in_thread(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """The method in another thread, for a loop that must not wait."""

    @functools.wraps(method)
    async def twin(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    return twin
