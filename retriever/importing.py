"""An index made from vectors that exist: a file, a table, another library's index."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.arguments import absolute
from encoder.errors import ArgumentError, CorpusError
from encoder.options import option
from encoder.progress import Progress, Told
from indexing.exchange.opening import open_vectors
from indexing.exchange.source import VectorSource
from indexing.index import Index
from indexing.reading.corpus import read_source
from indexing.settings import DocumentEncoder
from indexing.storage.tables import DATABASE
from indexing.writing.given import VectorBatch

__all__ = ["ImportOptions", "ImportReport", "import_index"]


@dataclass(frozen=True)
class ImportOptions:
    """What is taken beside the vectors, and with how much memory."""

    texts: Path | None = option(
        None, "A corpus with the documents' texts: by their ids or, where the source has none, in its order."
    )
    encoder: str | None = option(
        None, 'What made the vectors, for queries that are texts: "bundled", a model folder, or a hub name.'
    )
    memory: str | None = option(None, "About the most memory to take, as in 2GB, however large the source.")


@dataclass(frozen=True)
class ImportReport:
    """kind: the source's form. documents, passages, tokens: of the index as it is now. textless: documents of the
    source that have no text. notes: what of the source is not in the index, and what to do about it, a line each."""

    kind: str
    documents: int
    passages: int
    tokens: int
    textless: int
    notes: tuple[str, ...]


def import_index(
    source: Any,
    out: str | Path,
    options: ImportOptions = ImportOptions(),
    *,
    encoder: DocumentEncoder | None = None,
    progress: Told | None = None,
) -> ImportReport:
    """Make an index of vectors that exist, in bounded memory; into one that is there, documents are added or replaced.

    source: what `open_vectors` reads. encoder: the one that made the vectors, in place of options.encoder; without any
    the index is searched by vectors (`search_embeddings`) and by words.
    Raises CorpusError naming the file for what cannot be read, ArgumentError for an encoder that made other vectors.
    """
    found = open_vectors(source)
    if encoder is None and options.encoder is not None:
        from encoder import Encoder  # torch takes seconds

        encoder = Encoder.load(options.encoder)
    _check(found, encoder)
    with (
        _texts(options.texts, found, progress) as texts,
        _index(absolute(out), found, encoder, options.memory) as index,
    ):
        index.add_batches(texts.given(found.batches()), total=found.documents, progress=progress)
        notes = [*found.lost, *texts.notes()]
        if encoder is None and found.encoder is not None:
            name = found.encoder["name"]
            notes.append(f"the vectors were made by {name!r}; pass --encoder {name} to search by texts")
        return ImportReport(
            found.kind, len(index), index.n_passages, index.n_tokens, texts.textless, tuple(notes)
        )


def _check(source: VectorSource, encoder: DocumentEncoder | None) -> None:
    if encoder is None:
        return
    if encoder.dim != source.dim:
        raise ArgumentError(
            f"encoder {encoder.name!r} has dim={encoder.dim}, the vectors have dim={source.dim}; pass the one that "
            "made them"
        )
    if source.fingerprint not in (None, encoder.fingerprint):
        made = "another" if source.encoder is None else repr(source.encoder["name"])
        raise ArgumentError(
            f"encoder {encoder.name!r} ({encoder.fingerprint}) did not make these vectors, {made} did "
            f"({source.fingerprint}); pass that one"
        )


def _index(out: Path, source: VectorSource, encoder: DocumentEncoder | None, memory: str | None) -> Index:
    if not (out / DATABASE).is_file():
        return Index.create(out, encoder, dim=source.dim if encoder is None else None, memory=memory)
    index = Index.open(out, encoder, writable=True, memory=memory)
    if index.dim != source.dim:
        index.close()
        raise ArgumentError(f"{out} has dim={index.dim}, the vectors have dim={source.dim}; pass a new path")
    return index


@contextmanager
def _texts(corpus: Path | None, source: VectorSource, progress: Told | None) -> Iterator["_Texts"]:
    if corpus is None:
        yield _Texts(source.positional, None)
        return
    with (
        tempfile.TemporaryDirectory(prefix="latewood-texts-") as folder,
        closing(sqlite3.connect(Path(folder) / "texts.db")) as db,
    ):
        with Progress(read_source(corpus), phase="texts", unit="document", told=progress) as documents:
            texts = _Texts(source.positional, db, corpus, documents)
        if source.positional and texts.n != source.documents:
            raise ArgumentError(
                f"{corpus} has {texts.n:,} documents, and the source, which keeps no ids, {source.documents:,}; "
                "pass the corpus that it was made of, in its order"
            )
        yield texts


class _Texts:
    """A corpus on disk, by a document's place in it and by its id; and what of a source has a text."""

    def __init__(
        self,
        positional: bool,
        db: sqlite3.Connection | None,
        corpus: Path | None = None,
        documents: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.positional, self.db, self.corpus = positional, db, corpus
        self.n = self.used = self.textless = 0
        if db is None:
            return
        db.execute(
            "CREATE TABLE texts (place INTEGER PRIMARY KEY, doc_id TEXT UNIQUE, text TEXT, metadata TEXT)"
        )
        rows = ((n, d["doc_id"], d["text"], json.dumps(d["metadata"])) for n, d in enumerate(documents))
        try:
            self.n = db.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", rows).rowcount
        except sqlite3.IntegrityError:
            raise CorpusError(f"{corpus} has two documents of one id; give each its own") from None
        self.n = max(self.n, 0)

    def given(self, batches: Iterable[VectorBatch]) -> Iterator[VectorBatch]:
        """The same with ids, texts and metadata that the source has not."""
        for batch in batches:
            own = batch if self.db is None else self._filled(batch)
            self.textless += len(own) if own.texts is None else sum(text is None for text in own.texts)
            yield own

    def notes(self) -> list[str]:
        if left := self.n - self.used:
            return [f"{left:,} documents of {self.corpus} have no vectors in the source and were left out"]
        return []

    def _filled(self, batch: VectorBatch) -> VectorBatch:
        assert self.db is not None
        key = "place" if self.positional else "doc_id"
        doc_ids, texts, metadata = list(batch.doc_ids), [], []
        for i, doc_id in enumerate(batch.doc_ids):
            sql = f"SELECT doc_id, text, metadata FROM texts WHERE {key} = ?"
            row = self.db.execute(sql, [int(doc_id) if self.positional else doc_id]).fetchone()
            text = None if batch.texts is None else batch.texts[i]
            own = None if batch.metadata is None else batch.metadata[i]
            if row is not None:
                self.used += 1
                doc_ids[i] = row[0]
                text, own = row[1] if text is None else text, own or json.loads(row[2])
            texts.append(text)
            metadata.append(own)
        return VectorBatch(doc_ids, batch.embeddings, texts, metadata, batch.counts, batch.spans)
