"""An index made from vectors that exist: a file, a table, another library's index."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from encoder.arguments import absolute, as_integer
from encoder.errors import ArgumentError, CorpusError
from encoder.options import option
from encoder.others import as_encoder
from encoder.progress import Progress, Told
from indexing.coding.sizes import BYTES_PER_TOKEN
from indexing.exchange.opening import open_vectors
from indexing.exchange.source import VectorSource
from indexing.index import Index
from indexing.reading.corpus import read_source
from indexing.settings import DocumentEncoder
from indexing.storage.tables import is_index
from indexing.writing.given import VectorBatch
from retriever.agreement import Queries

__all__ = ["ImportOptions", "ImportReport", "import_index"]

QUERIES = 32
MOST_BYTES = 48  # a token, also where codes have 68: docs/lab/2026-11-29-importing.md


@dataclass(frozen=True)
class ImportOptions:
    """What is taken beside the vectors, and with how much memory."""

    texts: Path | None = option(
        None, "A corpus with the documents' texts: by their ids or, where the source has none, in its order."
    )
    encoder: str | None = option(
        None, 'What made the vectors, for queries that are texts: "bundled", a model folder, or a hub name.'
    )
    check: int | None = option(
        None,
        "Queries, made of the source's own tokens, for which the ten best by its own scores are compared with ours; "
        "32 by default, 0 for none.",
        least=0,
    )
    bytes_per_token: int | None = option(
        None, "Of a new index: bytes of a token's code; by default as the source's codes, 20 to 48, or 20."
    )
    memory: str | None = option(None, "About the most memory to take, as in 2GB, however large the source.")

    def __post_init__(self) -> None:
        if self.check is not None:
            as_integer(self.check, "check", 0)


@dataclass(frozen=True)
class ImportReport:
    """kind: the source's form. documents, passages, tokens: of the index as it is now. textless: documents of the
    source that have no text. notes: what of the source is not in the index, and what to do about it, a line each.
    recall: of the ten best of the source by its own vectors, how many a search here finds; None where it was not
    measured."""

    kind: str
    documents: int
    passages: int
    tokens: int
    textless: int
    notes: tuple[str, ...]
    recall: float | None = None


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
    elif encoder is not None:
        encoder = as_encoder(encoder, "encode_documents")
    _check(found, encoder)
    place = absolute(out)
    with _texts(options.texts, found, progress) as texts:
        asked = Queries(QUERIES if options.check is None else options.check)
        with _index(place, found, encoder, options) as index:
            given = asked.passing(texts.given(found.batches()))
            added = index.add_batches(given, total=found.documents, progress=progress)
            figures = len(index), index.n_passages, index.n_tokens
        notes = [*found.lost, *texts.notes()]
        if added.replaced:
            notes.append(f"{added.replaced:,} documents took the place of others of their ids")
        if encoder is None and found.encoder is not None:
            name = found.encoder["name"]
            notes.append(f"the vectors were made by {name!r}; pass --encoder {name} to search by texts")
    return ImportReport(found.kind, *figures, texts.textless, tuple(notes), asked.recall(place))


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


def _index(out: Path, source: VectorSource, encoder: DocumentEncoder | None, options: ImportOptions) -> Index:
    size = options.bytes_per_token
    if not is_index(out):
        if size is None:
            size = min(max(source.code_bytes or BYTES_PER_TOKEN, BYTES_PER_TOKEN), MOST_BYTES)
        dim = source.dim if encoder is None else None
        return Index.create(out, encoder, dim=dim, memory=options.memory, bytes_per_token=size)
    index = Index.open(out, encoder, writable=True, memory=options.memory)
    if size not in (None, index.settings.bytes_per_token):
        index.close()
        raise ArgumentError(
            f"{out} was made with bytes_per_token={index.settings.bytes_per_token}, not {size}; leave it out, or pass "
            "a new path"
        )
    if index.dim != source.dim:
        index.close()
        raise ArgumentError(f"{out} has dim={index.dim}, the vectors have dim={source.dim}; pass a new path")
    return index


@contextmanager
def _texts(corpus: Path | None, source: VectorSource, progress: Told | None) -> Iterator["_Texts"]:
    if corpus is None:
        yield _Texts(source, None)
        return
    with (
        tempfile.TemporaryDirectory(prefix="latewood-texts-") as folder,
        closing(sqlite3.connect(Path(folder) / "texts.db")) as db,
    ):
        with Progress(_read(corpus), phase="texts", unit="document", told=progress) as documents:
            texts = _Texts(source, db, corpus, documents)
        if source.places not in (None, texts.n):
            raise ArgumentError(
                f"{corpus} has {texts.n:,} documents, and the source, which keeps no ids, {source.places:,}; "
                "pass the corpus that it was made of, in its order"
            )
        yield texts


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); write it in UTF-8") from None


def _read(corpus: Path) -> Iterator[Mapping[str, Any]]:
    """A corpus in any form that is indexed, or ColBERT's: number, passage and maybe title, with tabs between."""
    if corpus.suffix.lower() != ".tsv" or not corpus.is_file():
        return read_source(corpus)

    def rows() -> Iterator[Mapping[str, Any]]:
        for n, line in enumerate(_lines(corpus), 1):
            doc_id, tab, rest = line.rstrip("\r\n").partition("\t")
            if not tab or not doc_id:
                raise CorpusError(f"{corpus}:{n} has no number and passage; write them with a tab between")
            passage, _, title = rest.partition("\t")
            text = f"{title} | {passage}" if title else passage  # as ColBERT joins them
            yield {"doc_id": doc_id, "text": text, "metadata": {}}

    return rows()


class _Texts:
    """A corpus on disk, by a document's place in it and by its id; and what of a source has a text."""

    def __init__(
        self,
        source: VectorSource,
        db: sqlite3.Connection | None,
        corpus: Path | None = None,
        documents: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.positional, self.db, self.corpus = source.places is not None, db, corpus
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
        self.used = self.textless = 0
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
        spans = None if batch.spans is None else batch.spans.copy()
        for i, doc_id in enumerate(batch.doc_ids):
            sql = f"SELECT doc_id, text, metadata FROM texts WHERE {key} = ?"
            row = self.db.execute(sql, [int(doc_id) if self.positional else doc_id]).fetchone()
            text = None if batch.texts is None else batch.texts[i]
            own = None if batch.metadata is None else batch.metadata[i]
            if row is not None:
                self.used += 1
                doc_ids[i] = row[0]
                if text is None:
                    text = row[1]
                    if spans is not None:  # where a passage stands in it nobody knows
                        spans[batch.starts[i] : batch.starts[i + 1]] = 0, len(text)
                own = own or json.loads(row[2])
            texts.append(text)
            metadata.append(own)
        return replace(batch, doc_ids=doc_ids, texts=texts, metadata=metadata, spans=spans)
