"""Making index folders, of shards or not, and the writer that writes into shards as into one index."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.progress import Progress
from indexing.coding.codec import Codec
from indexing.coding.sizes import PQ_CENTROIDS
from indexing.settings import IndexSettings
from indexing.storage import tables
from indexing.storage.durable import fsync_folder, publish_json
from indexing.storage.refusals import refusals
from indexing.storage.sharded import (
    BITS,
    Manifest,
    Shard,
    ShardedSnapshot,
    digest_of,
    shard_names,
    shard_of,
)
from indexing.storage.snapshot import Snapshot
from indexing.storage.tables import DATABASE, MANIFEST, index_file
from indexing.writing.memory import limit
from indexing.writing.pending import Pending
from indexing.writing.writer import Writer

if TYPE_CHECKING:
    import torch

__all__ = ["ShardedWriter", "make", "make_shards", "open_writer", "publish"]

RENAMES = "renames.json"  # under way, of documents of several shards


def make(folder: Path, fixed: IndexSettings, first_document: int = 0) -> None:
    """An empty index in a folder that exists. first_document: of a shard, see State."""
    with refusals(folder):
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        tables.create(folder, asdict(fixed), first_document)
        fsync_folder(folder.parent)


def make_shards(folder: Path, fixed: IndexSettings, n: int, version: int = 1) -> None:
    """n empty shards that are one index, by their manifest, in place of those of an older version."""
    names = shard_names(version, n)
    for i, name in enumerate(names):
        if not tables.exists(folder / name / DATABASE):
            make(folder / name, fixed, i << BITS)
    publish(folder, version, n)


def publish(folder: Path, version: int, n: int, codec: str | None = None) -> None:
    """Make the n shards of a version the index, by one rename. codec: see Manifest."""
    shards, commits = [], 0
    for name in shard_names(version, n):
        with Snapshot(folder / name) as now:
            shards.append(Shard(name, len(now), now.n_passages, now.n_tokens))
            commits += now.state.generation
    manifest = Manifest(tuple(shards), version, 0, codec, now.settings.encoder_fingerprint)
    if (folder / MANIFEST).is_file():
        with ShardedSnapshot.open(folder) as before:  # whose readers must see that this is newer
            manifest = replace(manifest, generation=max(0, before.state.generation + 1 - commits))
    manifest.write(folder)


def open_writer(folder: Path, memory: int | str | None, device: "torch.device | None") -> Writer:
    """What writes into an index, of shards or not."""
    kind = Writer if index_file(folder).name == DATABASE else ShardedWriter
    return kind(folder, memory, device)


class ShardedWriter(Writer):
    """As Writer, of all shards: each commits its own part of a change. They have one codec, which is trained on what
    all of them hold, and stays."""

    def __init__(
        self, folder: Path, memory: int | str | None = None, device: "torch.device | None" = None
    ) -> None:
        self.folder, self.device, self.told = folder, device, None
        self.manifest = Manifest.read(folder)
        self._shown: ShardedSnapshot | None = None
        with ExitStack() as opened:
            self.writers: list[Writer] = []
            for place in self.manifest.folders(folder):
                self.writers.append(Writer(place, memory, device, trains=False))
                opened.callback(self.writers[-1].close)
            self.settings, self.sample_rows = limit(self.snapshot.settings, memory)
            opened.pop_all()

    @property
    def snapshot(self) -> Snapshot:
        """Of what the writers show."""
        parts = [writer.snapshot for writer in self.writers]
        if self._shown is None or list(self._shown.parts) != parts:
            self._shown = ShardedSnapshot(self.folder, self.manifest, parts)
        return self._shown

    @snapshot.setter
    def snapshot(self, newest: Snapshot) -> None:
        for writer, part in zip(self.writers, newest.parts, strict=True):
            writer.snapshot = part

    @property
    def uncertain(self) -> bool:
        return any(writer.uncertain for writer in self.writers) or (self.folder / RENAMES).exists()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def sweep(self) -> None:
        for writer in self.writers:
            writer.sweep()
        if (path := self.folder / RENAMES).exists():  # of which a crash has kept some shards
            names = json.loads(path.read_text(encoding="utf-8"))
            self._rename({int(document): doc_id for document, doc_id in names.items()})
        now = self.snapshot
        if now.codec is not None:  # which a crash has kept from some
            self.adopt(now.codec, max(writer.snapshot.state.codec_error for writer in self.writers))

    def commit(self, pending: Pending) -> None:
        n = len(self.writers)
        parts = [Pending() for _ in self.writers]
        for doc_id, (record, passages) in pending.documents.items():
            parts[shard_of(doc_id, n)].put(record, passages)
        for document, passages in pending.encoded.items():
            parts[document >> BITS].put_encoded(document, passages)
        for doc_id, (document, metadata) in pending.metadata.items():
            parts[document >> BITS].metadata[doc_id] = document, metadata
        # A document that was renamed may lie in another shard than the one that replaces it: it goes first, so that
        # there are never two of a doc_id.
        names = self.snapshot.doc_ids(pending.deleted)
        for document in pending.deleted:
            if shard_of(names[document], n) == document >> BITS:
                parts[document >> BITS].deleted.add(document)
            else:
                self.writers[document >> BITS].commit(Pending(deleted={document}))
        for writer, part in zip(self.writers, parts, strict=True):
            writer.commit(part)
        self._rename(pending.renamed)

    def _rename(self, names: dict[int, str]) -> None:
        """document: new doc_id. Those of several shards may swap names: a file keeps them until all have theirs."""
        parts = [
            {document: doc_id for document, doc_id in names.items() if document >> BITS == i}
            for i in range(len(self.writers))
        ]
        if several := sum(map(bool, parts)) > 1:
            publish_json(self.folder, RENAMES, names)
        for writer, part in zip(self.writers, parts, strict=True):
            writer.commit(Pending(renamed=part))
        if several:
            (self.folder / RENAMES).unlink()

    def index_metadata(self, path: str) -> None:
        for writer in self.writers:
            writer.index_metadata(path)

    def tune(self, search: dict[str, Any]) -> None:
        for writer in self.writers:
            writer.tune(search)

    def settle(self, flat_tokens: int) -> None:
        now = self.snapshot
        if now.codec is None and now.n_tokens >= max(flat_tokens, PQ_CENTROIDS):
            total = sum(segment.n_tokens for segment in now.segments)
            with Progress[int](phase="compressing", unit="token", told=self.told, total=total) as bar:
                self.adopt(*self.trained(), bar.update)
        for writer in self.writers:
            writer.settle(flat_tokens)

    def compact(self, told: Callable[[int], object]) -> None:
        self.settle(self.settings.flat_tokens)
        for writer in self.writers:
            writer.compact(told)

    def adopt(self, codec: Codec, error: float, told: Callable[[int], object] = lambda n: None) -> None:
        """Give the codec to the shards that have none."""
        for writer in self.writers:
            if writer.snapshot.codec is None:
                writer.adopt(codec, error, told)
        digest = digest_of(self.writers[0].snapshot)
        if digest != self.manifest.codec:
            self.manifest = replace(self.manifest, codec=digest)
            self.manifest.write(self.folder)
