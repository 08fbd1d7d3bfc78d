"""A folder and a question: an index of any folder in the user's cache, brought up to date before it answers.

Texts and words come first, in seconds; of what words find, the best is encoded on the spot, and kept.
"""

import hashlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from encoder.checkpoints.places import BUNDLED
from encoder.closing import Closing
from encoder.errors import (
    ArgumentError,
    CorpusError,
    EncoderMismatchError,
    IndexFormatError,
    IndexLockedError,
    StorageError,
)
from encoder.progress import Told
from indexing.settings import DocumentEncoder
from indexing.storage.tables import LOCK, is_index
from retriever.options import Scoring, SearchOptions
from retriever.searcher import QueryEncoder, Searcher

if TYPE_CHECKING:
    from indexing import Index
    from indexing.writing.sources import UpdateReport

__all__ = ["Folder", "anew", "cache_of", "forget"]

CANDIDATES = 16  # documents found by words that are encoded before an answer, if they are not yet
PATIENCE = 3.0  # seconds that a folder that rests waits for another writer
CANDIDATE_CHARS = 12_000  # of the texts found, encoded or not: at most half a second of encoding

SCORING = Scoring()
Tell = Callable[[str], None]
T = TypeVar("T")


def cache_of(folder: str | os.PathLike[str]) -> Path:
    """Where the index of a folder lies, whether or not there is one: LATEWOOD_CACHE, or the user's cache folder."""
    import platformdirs

    source = Path(folder).resolve()
    named = os.environ.get("LATEWOOD_CACHE")
    root = Path(named) if named else platformdirs.user_cache_path("latewood")
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    return root.absolute() / "folders" / f"{source.name or 'root'}-{digest}"


def forget(folder: str | os.PathLike[str]) -> bool:
    """Remove a folder's index from the cache; whether there was one. Raises IndexLockedError while it is written."""
    place = cache_of(folder)
    if not place.exists():
        return False
    if is_index(place):
        from indexing import Index

        Index.open(place, writable=True).close()  # refuses beside another writer
    shutil.rmtree(place)
    return True


def anew(folder: str | os.PathLike[str], tell: Tell, work: Callable[[], T]) -> T:
    """What work on a folder gives; where another model made its index, as one of Latewood's last version, that is
    removed first, so that the work makes another."""
    try:
        return work()
    except EncoderMismatchError as error:
        tell(f"the index of this folder is made anew ({error})")
    forget(folder)
    return work()


class Folder(Closing):
    """A folder as it is now, open to be searched. Made by `open`; closed by `close` or a `with` block.

    index: of the folder, for writing; None where another process writes it: then what that has stored is searched. None
    too while the folder rests, which it does where nothing changed (`rest`).
    """

    def __init__(
        self, source: Path, index: "Index | None", searcher: Searcher, report: "UpdateReport | None"
    ) -> None:
        self.source = source
        self.index = index
        self.searcher = searcher
        self.report = report
        self._rests = False
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        tell: Tell = lambda line: None,
        *,
        scoring: Scoring = SCORING,
        progress: Told | None = None,
        patience: float | None = None,
        once: bool = False,
    ) -> "Folder":
        """Bring the index of a folder up to date: what changed is read, its texts and words are stored.

        tell: is called with a line on what is not as usual: a cache that cannot be written, an index made anew.
        patience: seconds to wait for a process that is making the index. Where that has stored nothing by then it is
        an IndexLockedError; with None the answer comes from an index in a temporary folder, at once.
        once: as of a Searcher.
        Raises CorpusError for a folder with nothing to read, ArgumentError for what is no folder.
        """
        source = Path(folder).resolve()
        if not source.is_dir():
            raise ArgumentError(f"{folder} is no folder; pass one, or an index")
        if (source / LOCK).is_file() and (source / "segments").is_dir():
            raise IndexFormatError(
                f"{folder} was an index, and its index.db is missing; restore it or index again"
            )
        place = cache_of(source)
        how: dict[str, Any] = {"scoring": scoring, "once": once}  # of its searcher
        if (found := cls._as_it_was(source, place, how)) is not None:
            return found
        try:
            return cls._updated(source, _opened(place, tell, patience or 0.0), how, progress, tell)
        except IndexLockedError as error:
            if is_index(place):
                searcher = Searcher.open(place, **how)
                if len(searcher.snapshot):
                    tell(
                        f"another process brings this folder's index up to date; what it has is searched ({error})"
                    )
                    return cls(source, None, searcher, None)
                searcher.close()
            if patience is not None:
                raise
            reason = "another process is making this folder's index"
        except (StorageError, OSError) as error:
            reason = f"the index of this folder cannot be kept ({error})"
        tell(f"{reason}; it is made in a temporary folder, for this answer alone")
        temporary = tempfile.TemporaryDirectory(prefix="latewood-")
        try:
            found = cls._updated(source, _created(Path(temporary.name) / "index"), how, progress, tell)
        except BaseException:
            temporary.cleanup()
            raise
        found._temporary = temporary
        return found

    @classmethod
    def kept(cls, folder: str | os.PathLike[str], tell: Tell, **how: Any) -> "Folder":
        """As `open`, to be asked again and again: at rest, and with its model loaded."""

        def work() -> Folder:
            with ExitStack() as stack:
                found = stack.enter_context(cls.open(folder, tell, **how))
                found.rest()
                found.searcher.encoder  # noqa: B018
                stack.pop_all()
                return found

        return anew(folder, tell, work)

    @classmethod
    def _as_it_was(cls, source: Path, place: Path, how: Mapping[str, Any]) -> "Folder | None":
        """Where nothing has changed: opened to be searched, and locked for nobody."""
        from indexing.writing.sources import (
            unchanged,  # what reads files, which the search of an index does not
        )

        try:
            if not is_index(place) or (report := unchanged(place, source)) is None:
                return None
            searcher = Searcher.open(place, **how)
        except (IndexFormatError, StorageError, OSError):  # which opening it for writing says, or mends
            return None
        if not len(searcher.snapshot):
            searcher.close()
            return None
        found = cls(source, None, searcher, report)
        found._rests = True
        return found

    @classmethod
    def _updated(
        cls, source: Path, index: "Index", how: Mapping[str, Any], progress: Told | None, tell: Tell
    ) -> "Folder":
        from indexing.writing.sources import update_folder

        try:
            report = update_folder(index, source, encode=False, progress=progress)
            if not len(index):
                raise CorpusError(str(report.folder))
            if report.folder.refused:
                tell(report.folder.refused)
            made = cast("QueryEncoder | None", index._light)
            return cls(source, index, Searcher(index, made, **how), report)
        except CorpusError as error:  # what is stored is kept: a disk may not be mounted
            index.close()
            reason = (
                str(error)
                .partition("; see that its disk")[0]
                .removeprefix(f"{source} holds no text or code to index: ")
            )
            raise CorpusError(
                f"{source} holds no text or code to search: {reason}; pass another folder"
            ) from None
        except BaseException:
            index.close()
            raise

    def prepare(self, query: str, options: SearchOptions, progress: Told | None = None) -> None:
        """Encode what words find best for a query and has no vectors yet, so that a search by meaning ranks it; and the
        rest, where that is as little."""
        waits = self.searcher.snapshot.n_unencoded
        if not waits or options.mode == "lexical" or (self.index is None and not self._rests):
            return
        threading.Thread(target=self._load, daemon=True).start()
        hits = self.searcher.search(query, SearchOptions(k=CANDIDATES, mode="lexical", filter=options.filter))
        texts = {hit.doc_id: hit.text or "" for hit in hits}
        asked = None if waits <= CANDIDATES else list(texts)
        waiting = {doc_id: text for _, doc_id, text in self.searcher.snapshot.reader.unencoded(asked)}
        texts |= waiting
        chars = list(itertools.accumulate(map(len, texts.values())))
        within = [
            doc_id for doc_id, n in zip(texts, chars, strict=True) if n <= max(CANDIDATE_CHARS, chars[0])
        ]
        if chosen := [doc_id for doc_id in within if doc_id in waiting]:
            with self._writing() as index:
                if index is not None:
                    index._light = cast(DocumentEncoder, self.searcher.encoder)  # one model for both
                    index.encode(chosen, progress=progress)
            self.searcher.reload()

    def _load(self) -> None:
        """What will be needed, while words are searched."""
        with suppress(Exception):  # asking for what cannot be had says so, in a line
            self.searcher.encoder  # noqa: B018
            import sqlite_utils  # noqa: F401  what writes

    def encode(self, *, most: int | None = None, progress: Told | None = None) -> None:
        """Make all vectors that are still to come, or those of the first `most` documents."""
        chosen = None
        if most is not None:
            waiting = self.searcher.snapshot.reader.unencoded()
            chosen = [doc_id for _, doc_id, _ in itertools.islice(waiting, most)]
        with self._writing() as index:
            if index is not None:
                if chosen is not None:
                    index._light = cast(DocumentEncoder, self.searcher.encoder)
                index.encode(chosen, progress=progress)
        self.searcher.reload()

    def rest(self) -> None:
        """Let other processes write the index; what is open stays so. For whoever asks again and again: it is opened
        for writing only when there is something to write."""
        if self._temporary is None:
            if self.index is not None:
                self.index.close()
            self.index, self._rests = None, True

    def refresh(self, progress: Told | None = None) -> bool:
        """Read what changed since the last time; False where another process writes the index: then what that has
        stored is searched. Raises as `open`."""
        from indexing.writing.sources import update_folder

        with self._writing() as index:
            if index is not None:
                self.report = update_folder(index, self.source, encode=False, progress=progress)
        self.searcher.reload()
        return index is not None

    @contextmanager
    def _writing(self) -> "Iterator[Index | None]":
        """The index, of a folder that rests for as long as this takes; None while another process writes it."""
        if not self._rests:
            yield self.index
            return
        try:
            index = _opened(cache_of(self.source), lambda line: None, PATIENCE)  # anew after `forget`
        except IndexLockedError:
            yield None
            return
        with index:
            yield index

    def answerable(self, options: SearchOptions) -> SearchOptions:
        """The same options; by words alone where nothing at all is encoded, as where words found nothing to encode."""
        now = self.searcher.snapshot
        if options.mode != "lexical" and now.n_unencoded == len(now):
            return replace(options, mode="lexical", weights=None, nprobe=None, ncandidates=None, nrerank=None)
        return options

    def close(self) -> None:
        self.searcher.close()
        if self.index is not None:
            self.index.close()
        if self._temporary is not None:
            self._temporary.cleanup()


def _opened(place: Path, tell: Tell, patience: float) -> "Index":
    if not is_index(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _created(place)
        except ArgumentError:
            if not is_index(place):
                raise  # else another process has made it meanwhile
    try:
        return _when_free(place, patience)
    except IndexFormatError as error:
        tell(f"the index of this folder is made anew ({error})")
        shutil.rmtree(place)
        return _created(place)


def _when_free(place: Path, patience: float) -> "Index":
    """An index, for writing. Raises IndexLockedError where another process writes it for longer than `patience`."""
    from indexing import Index  # what writes, which most answers need none of

    until = time.monotonic() + patience
    while True:
        try:
            return Index.open(place, writable=True)
        except IndexLockedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _created(place: Path) -> "Index":
    from encoder.light import encoder_for_searching
    from indexing import Index

    index = Index.create(place, light := encoder_for_searching({"name": BUNDLED}))
    index._encoder, index._light = None, light  # of many texts torch is faster
    return index
