"""Shards as one index: `shards.json` names ordinary index folders, and a snapshot shows the documents of all of them.

Each document has the shard that its doc_id is dealt to. The numbers of a shard's documents begin where no other's
reach, so that they, segments and files of all shards stand side by side, and whatever ranks one index ranks these.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import absolute
from encoder.errors import IndexFormatError
from indexing.storage.database import shorten_log
from indexing.storage.durable import publish_json
from indexing.storage.filters import Filter
from indexing.storage.fulltext import Texts
from indexing.storage.reader import Reader
from indexing.storage.snapshot import Live, Snapshot
from indexing.storage.tables import DATABASE, MANIFEST, State, index_file

__all__ = [
    "BITS",
    "Manifest",
    "Readers",
    "Shard",
    "ShardedSnapshot",
    "digest_of",
    "hash_of",
    "open_snapshot",
    "shard_names",
    "shard_of",
]

BITS = 40  # of a document's number; those above are its shard's
KEY = "sha256(doc_id)[:8] mod shards"
FORMAT = 1
_NAME = re.compile(r"v\d{4,}/\d{3,}")  # a manifest names nothing outside its folder


@dataclass(frozen=True)
class Shard:
    """name: of its folder. The counts are those of when it was published."""

    name: str
    documents: int = 0
    passages: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Manifest:
    """What `shards.json` says. version: of the shards, raised when others take their place; generation: from where
    their commits are counted. codec: SHA-256 of the file that all have in common. encoder_fingerprint: of what made
    the vectors. key: how a document's shard is found."""

    shards: tuple[Shard, ...]
    version: int = 1
    generation: int = 0
    codec: str | None = None
    encoder_fingerprint: str | None = None
    key: str = KEY

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises IndexFormatError for what is no manifest of ours."""
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_bytes())
            version = values.pop("format_version")
            shards = tuple(Shard(**shard) for shard in values.pop("shards"))
            manifest = cls(shards, **values)
        except FileNotFoundError:
            raise IndexFormatError(f"{folder} has no {MANIFEST}; pass an index, or build it again") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IndexFormatError(f"{path} is damaged ({error}); restore it or build again") from None
        if version != FORMAT or manifest.key != KEY:
            raise IndexFormatError(
                f"{path} is of format {version}, dealt by {manifest.key!r}; this version of Latewood reads {FORMAT}, "
                f"{KEY!r}: upgrade it"
            )
        if not shards or not all(isinstance(s.name, str) and _NAME.fullmatch(s.name) for s in shards):
            raise IndexFormatError(
                f"{path} names no shards, or others than its own; restore it or build again"
            )
        return manifest

    def write(self, folder: Path) -> None:
        """In one step: readers see the one before or this one."""
        publish_json(folder, MANIFEST, {"format_version": FORMAT} | asdict(self))

    def folders(self, folder: Path) -> list[Path]:
        return [folder / shard.name for shard in self.shards]


def shard_names(version: int, n: int) -> list[str]:
    """Folders of n shards."""
    return [f"v{version:04d}/{i:03d}" for i in range(n)]


def hash_of(doc_id: str) -> int:
    """Of 64 bits."""
    return int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:8], "big")


def shard_of(doc_id: str, n: int) -> int:
    """To which of n shards a document is dealt."""
    return hash_of(doc_id) % n


class Readers(Reader):
    """The readers of all shards as one: rows of the first, then of the next, so in the order of numbers."""

    def __init__(self, folder: Path, readers: Sequence[Reader], generation: int = 0) -> None:
        self.path, self._readers = folder / MANIFEST, list(readers)
        self._keep_words()
        self.file = tuple(reader.file for reader in readers)
        first = readers[0]
        self.settings, self.search = first.settings, first.search
        self.state = State(
            generation=generation + sum(reader.state.generation for reader in readers),
            next_document=sum(r.state.next_document - r.state.first_document for r in readers),
        )
        # What only some have, a crash has kept from the others: then nobody goes by it.
        common = set.intersection(*(set(reader.metadata_indexes.items()) for reader in readers))
        self.metadata_indexes = dict(common)
        known = [reader.keys for reader in readers]
        self.keys = None if None in known else frozenset[Any]().union(*(keys or () for keys in known))

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def check(self) -> None:
        for reader in self._readers:
            reader.check()

    def stream(self, columns: str, condition: Filter | None = None) -> Iterator[tuple[Any, ...]]:
        for reader in self._readers:
            yield from reader.stream(columns, condition)

    def rows(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        given = list(parameters)
        return [row for reader in self._readers for row in reader.rows(sql, given)]

    @cached_property
    def texts(self) -> Texts:
        each = [reader.texts for reader in self._readers]
        return Texts(sum(own.n for own in each), sum(own.words for own in each))

    def occurrences(self, word: str) -> npt.NDArray[Any]:
        return np.concatenate([reader.occurrences(word) for reader in self._readers])

    def document_frequency(self, match: str) -> int:
        return sum(reader.document_frequency(match) for reader in self._readers)

    def memory(self) -> int:
        return super().memory() + sum(reader.memory() for reader in self._readers)


class ShardedSnapshot(Snapshot):
    """As Snapshot, of all shards: what each shows is one commit of its own. files: paths from the folder above."""

    def __init__(self, folder: Path, manifest: Manifest, parts: Sequence[Snapshot]) -> None:
        """parts: of the manifest's shards, in order; closed with this one. Raises IndexFormatError for shards that do
        not belong together."""
        self.folder, self.manifest, self._parts = folder, manifest, list(parts)
        self.settings = parts[0].settings
        for part in parts:
            if part.settings != self.settings:
                raise IndexFormatError(f"{part.folder} has other settings than {parts[0].folder}; {_AGAIN}")
        coded = [part for part in parts if part.codec is not None]
        digests = {part.folder: digest_of(part) for part in coded}
        wanted = manifest.codec or next(iter(digests.values()), None)
        for place, digest in digests.items():
            if digest != wanted:
                raise IndexFormatError(f"{place} has another codec ({digest[:12]}) than the index; {_AGAIN}")
        self.codec = coded[0].codec if coded else None
        for part in coded:
            part.codec = self.codec  # equal, and held once
        self.reader = Readers(folder, [part.reader for part in parts], manifest.generation)
        self.state = self.reader.state
        self.rows = [row for part in parts for row in part.rows]
        self.files = [
            replace(file, path=f"{shard.name}/{file.path}")
            for shard, part in zip(manifest.shards, parts, strict=True)
            for file in part.files
        ]
        self.segments = tuple(segment for part in parts for segment in part.segments)
        self.starts = np.cumsum([0, *(row.n_passages for row in self.rows)])
        self._frequencies = {}

    @classmethod
    def open(cls, folder: str | Path, previous: "Snapshot | None" = None) -> "ShardedSnapshot":
        """The newest commits of the shards that are published. previous: an older one, whose files are shared."""
        place = absolute(folder)
        while True:
            manifest = Manifest.read(place)
            older = {} if previous is None else {part.folder: part for part in previous.parts}
            with ExitStack() as opened:
                try:
                    parts = [
                        opened.enter_context(Snapshot(path, older.get(path)))
                        for path in manifest.folders(place)
                    ]
                    found = cls(place, manifest, parts)
                except IndexFormatError:
                    if Manifest.read(place).version != manifest.version:
                        continue  # others have been published meanwhile, and these deleted
                    raise
                opened.pop_all()
                return found

    @property
    def parts(self) -> Sequence[Snapshot]:
        return self._parts

    @cached_property
    def lives(self) -> list[Live]:
        return [live for part in self._parts for live in part.lives]

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _look(self) -> object:
        return Manifest.read(self.folder), [part._look() for part in self._parts]

    def _again(self) -> "Snapshot":
        return ShardedSnapshot.open(self.folder, self)

    def _follow(self, older: "Snapshot", seen: object) -> None:
        known = {part.folder: part for part in older.parts}
        for part in self._parts:
            if part.folder in known:
                part._follow(known[part.folder], None)
        self._seen = seen

    def beside_log(self) -> "Snapshot":
        long = [shorten_log(part.reader.path) for part in self._parts]
        return ShardedSnapshot.open(self.folder, self) if any(long) else self


def open_snapshot(folder: str | Path, previous: Snapshot | None = None) -> Snapshot:
    """The newest commit of an index, of shards or not; otherwise as Snapshot."""
    if index_file(absolute(folder)).name == DATABASE:
        return Snapshot(folder, previous)
    return ShardedSnapshot.open(folder, previous)


_AGAIN = "restore the shard, or build all of them again"


def digest_of(part: Snapshot) -> str:
    """SHA-256 of a shard's codec."""
    return next(file.sha256 for file in part.files if file.path == part.state.codec)
