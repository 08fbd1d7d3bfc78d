"""What runs on the machines of a cluster while shards are built: reading, encoding, training, a writer a shard."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.devices import as_device
from encoder.errors import CorpusError, IndexLockedError
from indexing.coding.codec import Codec
from indexing.coding.sizes import MAX_SAMPLE
from indexing.coding.vocabulary import owners_file
from indexing.reading.windows import Windows
from indexing.settings import IndexSettings
from indexing.storage.durable import publish_file
from indexing.storage.lock import WriterLock
from indexing.storage.sharded import Manifest, Shard, ShardedSnapshot, shard_of
from indexing.storage.snapshot import Snapshot
from indexing.storage.tables import LOCK
from indexing.writing.encoding import Passages, encode_records, windows_of
from indexing.writing.pending import Pending
from indexing.writing.records import AddReport, Record, batches, read_records
from indexing.writing.rewriting import coded
from indexing.writing.writer import Writer, train_codec
from retriever.cluster.joining import passed_on
from retriever.cluster.reading import read_documents

if TYPE_CHECKING:
    import pyarrow

    from encoder import Encoder

__all__ = ["Encode", "Places", "ShardWriter", "codec_of", "drawn", "read_blocks", "sizes", "train"]

PATIENCE = 60.0  # seconds that a writer waits for the one before it to end
COMMIT_SECONDS = 15.0  # of work that a writer's death may cost
COMMIT_BYTES = 1 << 23  # of vectors, codes and texts that a writer holds
PARTS = 1 << 30  # a sample is so many of these
COLUMNS = ("number", "doc_id", "text", "metadata", "content_hash")


@dataclass(frozen=True)
class Places:
    """Where a version of the shards is made. folder: of the index. names: of the shards in it."""

    folder: Path
    names: tuple[str, ...]

    @property
    def codec(self) -> Path:
        return self.folder / f"{self.names[0].partition('/')[0]}/codec.faiss"

    @property
    def shards(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    def snapshot(self) -> ShardedSnapshot:
        """Of what is committed, published or not."""
        with ExitStack() as opened:
            parts = [opened.enter_context(Snapshot(place)) for place in self.shards]
            found = ShardedSnapshot(self.folder, Manifest(tuple(map(Shard, self.names))), parts)
            opened.pop_all()
            return found


def read_blocks(files: dict[str, Any], exclude: Sequence[str], salt: str) -> "Iterator[pyarrow.Table]":
    """Files → blocks of documents, checked."""
    import pyarrow

    with passed_on():
        for file in files["item"]:
            for some in batches(read_records(read_documents(str(file), exclude), salt)):
                yield pyarrow.table({name: [getattr(record, name) for record in some] for name in COLUMNS})


def sizes(block: "pyarrow.Table") -> dict[str, Any]:
    """How many documents a block has, and characters."""
    import pyarrow.compute

    chars = pyarrow.compute.sum(pyarrow.compute.utf8_length(block["text"])).as_py()
    return {"documents": np.array([len(block)]), "chars": np.array([chars or 0])}


def drawn(block: "pyarrow.Table", share: float) -> "pyarrow.Table":
    """Those documents of a block that are in a sample, by a hash of their ids: the same whenever they are read."""
    ids = block["doc_id"].to_pylist()
    return block.filter([shard_of(f"sample {i}", PARTS) < share * PARTS for i in ids])


class Encode:
    """Encodes those documents of a block that are not stored yet, and hands them to the writers of their shards."""

    def __init__(
        self,
        arguments: dict[str, Any],
        fixed: IndexSettings,
        codec: Path | None,
        writers: Sequence[Any],
        begun: Sequence[Any],
    ) -> None:
        """arguments: of Encoder.load. codec: by which vectors are coded; None for float16. begun: by the writers, what
        they are to have done before they are called."""
        self._arguments, self._fixed, self._codec_at = arguments, fixed, codec
        self._writers, self._begun = writers, list(begun)

    # Made by the first call: what is raised there says what it was, and what ends an actor's making does not.

    @cached_property
    def _encoder(self) -> "Encoder":
        from encoder import Encoder

        encoder = Encoder.load(**self._arguments)
        self._fixed.check_encoder(encoder, Path("the index"))
        return encoder

    @cached_property
    def _windows(self) -> Windows | None:
        return windows_of(self._encoder, self._fixed)

    @cached_property
    def _codec(self) -> Codec | None:
        if self._codec_at is None:
            return None
        codec = codec_of(self._codec_at, self._fixed.dim)
        codec.device = None if self._encoder.device.type == "cpu" else self._encoder.device
        return codec

    def __call__(self, block: "pyarrow.Table") -> dict[str, Any]:
        records = [Record(**row) for row in block.to_pylist()]
        encoded = tokens = 0
        with passed_on():
            for some in batches(records):
                made = self._store(some)
                encoded += len(made)
                tokens += sum(len(passages.token_ids) for passages in made)
        counts = {"documents": len(records), "encoded": encoded, "tokens": tokens}
        return {name: np.array([n]) for name, n in counts.items()}

    def _store(self, records: list[Record]) -> list[Passages]:
        """What of these was not stored."""
        import ray

        ray.get(self._begun)
        dealt: list[list[Record]] = [[] for _ in self._writers]
        for record in records:
            dealt[shard_of(record.doc_id, len(dealt))].append(record)
        own = [(writer, some) for writer, some in zip(self._writers, dealt, strict=True) if some]
        asked = [writer.missing.remote([(r.doc_id, r.content_hash) for r in some]) for writer, some in own]
        missing = set().union(*ray.get(asked))
        todo = {record.doc_id: record for record in records if record.doc_id in missing}
        made: list[Passages] = []
        if todo:
            encode, dim = self._encoder.encode_documents, self._fixed.dim
            made, _ = encode_records(encode, dim, self._windows, list(todo.values()))
            made = made if self._codec is None else coded(made, self._codec)
        passages = dict(zip(todo, made, strict=True))
        # Waited for, so that no more is encoded than the writers can take.
        ray.get(
            [
                writer.add.remote(some, {r.doc_id: passages[r.doc_id] for r in some if r.doc_id in passages})
                for writer, some in own
            ]
        )
        return made


class ShardWriter:
    """An actor that alone writes a shard. What it has not committed when it dies is encoded again."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._open: Writer | None = None
        self._name = uuid.uuid4().hex

    @property
    def _writer(self) -> Writer:
        """Opened by the first call, whose error is told."""
        if self._open is None:
            self._lock = _locked(self._place / LOCK)
            try:
                self._open = Writer(self._place, trains=False)
                self._open.sweep()
                self.begin()
            except BaseException:
                self.close()
                raise
        return self._open

    def begin(self) -> str:
        """Begin a reading of the source. A name that another actor in this one's place would not have."""
        state = self._writer.snapshot.state
        self._pending, self._first = Pending(), state.next_document
        self._seen = np.zeros(state.next_document - state.first_document, np.bool_)
        self._held, self._committed = 0, time.monotonic()
        return self._name

    def adopt(self, codec: Path, error: float) -> None:
        """Code what is stored by a codec, and what is to come. error: as of State."""
        if self._writer.snapshot.codec is None:
            self._writer.adopt(codec_of(codec, self._writer.settings.dim), error)

    def missing(self, documents: list[tuple[str, str]]) -> set[str]:
        """Those of (doc_id, content_hash) whose vectors are neither stored nor pending."""
        stored = self._writer.snapshot.reader.find([doc_id for doc_id, _ in documents])
        known = {doc_id: row.content_hash for doc_id, row in stored.items()}
        known |= {doc_id: record.content_hash for doc_id, (record, _) in self._pending.documents.items()}
        return {doc_id for doc_id, digest in documents if known.get(doc_id) != digest}

    def add(self, records: list[Record], passages: dict[str, Passages]) -> None:
        """passages: of those that were missing. Raises CorpusError for a doc_id that has come with another text."""
        writer = self._writer
        lost = self.missing([(r.doc_id, r.content_hash) for r in records]) - passages.keys()
        records = [record for record in records if record.doc_id not in lost]  # another reading finds them
        stored = writer.snapshot.reader.find([record.doc_id for record in records])
        first = writer.snapshot.state.first_document
        here: dict[str, str] = {}
        for record in records:
            row, waiting = stored.get(record.doc_id), self._pending.documents.get(record.doc_id)
            known = here.get(record.doc_id) or (None if waiting is None else waiting[0].content_hash)
            if row is not None and (row.document >= self._first or self._seen[row.document - first]):
                known = known or row.content_hash
            elif row is not None:
                self._seen[row.document - first] = True
            if known not in (None, record.content_hash):
                raise CorpusError(
                    f"doc_id {record.doc_id!r} comes twice, with different texts; give each document its own"
                )
            here[record.doc_id] = record.content_hash
        for record in self._pending.plan(records, stored, AddReport()):
            self._pending.put(record, own := passages[record.doc_id])
            self._held += len(record.text or "") + own.vectors.nbytes
            self._held += 0 if own.codes is None else own.codes.nbytes
        if self._held >= COMMIT_BYTES or time.monotonic() > self._committed + COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Store what is pending."""
        self._writer.commit(self._pending)
        self._pending = Pending()
        self._writer.settle(1)
        self._held, self._committed = 0, time.monotonic()

    def finish(self, name: str, whole: bool) -> bool:
        """Commit, after a reading; False if it was begun by another actor (`begin`), which may have lost some of it.
        whole: all of the source was read, so that what it has no more is deleted."""
        if name != self._name:
            return False
        if whole:
            gone = self._writer.snapshot.state.first_document + np.flatnonzero(~self._seen)
            self._pending.deleted |= self._writer.snapshot.doc_ids(gone.tolist()).keys()
        self.commit()
        return True

    def close(self) -> None:
        """Let others write."""
        if self._open is not None:
            self._open.close()
        self._open = None
        self._lock.release()


def _locked(path: Path) -> WriterLock:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return WriterLock(path)
        except IndexLockedError:  # by a process that a killed driver, or a lost node, has left to end
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def train(places: Places, tokens: int, device: str | None) -> float:
    """Train a codec on what the shards hold, for a corpus of so many tokens, and put it beside them; its error."""
    place = None if device is None else as_device(device)
    with places.snapshot() as now:
        codec, error = train_codec(now, MAX_SAMPLE, place, tokens)
    folder, name = places.codec.parent, places.codec.name
    if codec.owners is not None:
        publish_file(folder, owners_file(name), codec.owners.save)
    publish_file(folder, name, codec.save)
    return error


def codec_of(path: Path, dim: int) -> Codec:
    """What `train` has put there."""
    owners = path.with_name(owners_file(path.name))
    return Codec.load(path, dim=dim, owners=owners if owners.exists() else None)
