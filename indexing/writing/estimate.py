"""What building an index will take: tokens, time, disk and memory, foretold from a sample of the documents."""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoder.embeddings import NO_ID, TokenEmbeddings
from encoder.errors import CorpusError
from indexing.coding.centroids import ByteCentroids
from indexing.coding.codec import Codec
from indexing.coding.sizes import PQ_CENTROIDS, choose_m, choose_nlist, codec_bytes, id_bytes
from indexing.coding.sizes import sample_size as training_rows
from indexing.coding.training import HNSW_NLIST, KMEANS_ITERATIONS
from indexing.coding.vocabulary import ITERATIONS, share_out
from indexing.index import Index
from indexing.reading.windows import Windows
from indexing.settings import DocumentEncoder, IndexSettings
from indexing.writing.encoding import Passages, encode_records, windows_of
from indexing.writing.memory import ROW_BYTES, limit
from indexing.writing.records import BATCH_CHARS, BATCH_RECORDS, AddReport, Record
from indexing.writing.sizing import SIZES, Size, recalls, sample_questions

__all__ = ["Estimate", "estimate"]

SAMPLE = 1000  # documents whose tokens are counted and whose texts are stored for a trial
TIMED_TOKENS = 16_384  # encoded for a trial
RANKED_TOKENS = 65_536  # ranked for the choice of size,
RANKED_PART = 0.05  # where they are no more than so much of all
PASSAGE_BYTES = 24  # of a passage beside its tokens: offset, owner and span
# Of inverted lists a token, beside their offsets; measured on nfcorpus (docs/internals/codec.md).
LIST_BYTES = 2.1
FAISS_BYTES = 15_000_000  # resident once it is imported, which a flat index does without
BATCH_BYTES = 6  # of a token that was just encoded, a dimension: in float32, then in float16
MERGE_BYTES = 8  # a token while its segment is written: its lists, both ways round, and whether it lives


@dataclass(frozen=True)
class Estimate:
    """documents and chars are counted, the rest foretold. tokens: vectors stored. nlist: None where the index stays
    flat. *_seconds: of this machine, as busy as it is. disk_bytes: of the finished index; disk_peak_bytes: of the
    index while it is built, when float16 vectors lie beside their codes. memory_bytes: peak of the process. sizes: what
    each choice of bytes_per_token would take and keep; none where the index stays flat, which loses nothing.
    """

    documents: int
    passages: int
    chars: int
    tokens: int
    nlist: int | None
    encode_seconds: float
    index_seconds: float
    disk_bytes: int
    disk_peak_bytes: int
    memory_bytes: int
    sizes: tuple[Size, ...] = ()

    @property
    def seconds(self) -> float:
        return self.encode_seconds + self.index_seconds


def estimate(
    documents: Iterable[Mapping[str, Any]],
    encoder: DocumentEncoder,
    memory: int | str | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    resident: Callable[[], int] = lambda: 0,
    whole: int | None = None,
    **settings: Any,
) -> Estimate:
    """Read the documents once, encode and store a sample of them aside, and work out what all would take.

    whole: how many all are, where these are only a sample of them.

    memory, settings: as at Index.create. clock: seconds, as time.perf_counter or time.process_time. resident: asked
    once the sample is encoded for the bytes that the process then takes; memory_bytes counts from there.
    Raises CorpusError where there is no document.
    """
    sample, n, chars = _reservoir(documents)
    if whole is not None:
        n, chars = whole, chars * whole // n
    dim = encoder.dim
    fixed, most_rows = limit(IndexSettings.made(encoder, None, settings), memory)
    windows = windows_of(encoder, fixed)
    texts = [str(record["text"]) for record in sample]
    encoder.encode_documents(texts[:4])  # what is loaded and compiled at the first call is not timed
    encoded, timed, encode_seconds = _timed_encoding(texts, encoder, windows, (TIMED_TOKENS, clock))
    taken = resident()
    tokens, n_passages = round(n * len(encoded.vectors) / timed), round(n * len(encoded) / timed)
    stored_bytes, stored_seconds = _trial(sample, dim, clock)
    database, index_seconds = stored_bytes * n / len(sample), stored_seconds * n / len(sample)
    flat = tokens < max(fixed.flat_tokens, PQ_CENTROIDS)
    held = min(tokens, fixed.segment_tokens)  # float16 on disk before a codec is trained
    half = 2 * dim
    pending = min(tokens, fixed.commit_tokens) * half
    sizes: tuple[Size, ...] = ()
    if flat:
        nlist, disk = None, tokens * half + PASSAGE_BYTES * n_passages + database
        # Two batches that were just encoded lie beside what is pending.
        batch = min(tokens, 2 * BATCH_RECORDS * tokens // n, 2 * BATCH_CHARS * tokens // max(chars, 1))
        memory_peak, disk_peak = pending + BATCH_BYTES * dim * batch, disk
    else:
        nlist = choose_nlist(held, most_rows)
        rows = min(training_rows(held), most_rows)
        index_seconds += _codec_seconds(encoded, nlist, rows, tokens, clock)
        segments = 1 + (tokens - held) // fixed.commit_tokens
        lists = LIST_BYTES * tokens + 8 * nlist * segments
        beside = id_bytes(nlist) * tokens + lists + PASSAGE_BYTES * n_passages + database

        def disk_of(size: int) -> float:
            m = choose_m(dim, size, nlist)
            return beside + (m + 1) * tokens + codec_bytes(nlist, dim, m)

        disk = disk_of(fixed.bytes_per_token)
        if (more := min(RANKED_TOKENS, round(RANKED_PART * tokens))) > len(encoded.vectors):
            ranked = _timed_encoding(texts, encoder, windows, (more, clock))[0]
        else:
            ranked = encoded
        kept = recalls(ranked, _questions(encoder, texts[:timed]), SIZES)
        sizes = tuple(Size(b, round(disk_of(b)), r) for b, r in zip(SIZES, kept, strict=True))
        training = held * half + max(ROW_BYTES * dim * rows, MERGE_BYTES * held)
        # What pending vectors took stays resident while the codec is trained: see indexing/writing/memory.py.
        memory_peak = FAISS_BYTES + pending + training
        disk_peak = disk + held * half
    return Estimate(
        documents=n,
        passages=n_passages,
        chars=chars,
        tokens=tokens,
        nlist=nlist,
        encode_seconds=encode_seconds * n / timed,
        index_seconds=index_seconds,
        disk_bytes=round(disk),
        disk_peak_bytes=round(disk_peak),
        memory_bytes=taken + memory_peak,
        sizes=sizes,
    )


def _reservoir(documents: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int, int]:
    """SAMPLE documents drawn evenly in one reading, how many there are, and their characters."""
    draw = random.Random(0)
    sample: list[Mapping[str, Any]] = []
    n = chars = 0
    for record in documents:
        n += 1
        chars += len(record["text"])
        if len(sample) < SAMPLE:
            sample.append(record)
        elif (place := draw.randrange(n)) < SAMPLE:
            sample[place] = record
    if not n:
        raise CorpusError("the source holds no documents; pass one that does")
    draw.shuffle(sample)  # the part that is encoded is a fair one, too
    return sample, n, chars


def _timed_encoding(
    texts: list[str],
    encoder: DocumentEncoder,
    windows: Windows | None,
    asked: tuple[int, Callable[[], float]],
) -> tuple[TokenEmbeddings, int, float]:
    """Passages of as many of the texts as give so many tokens, how many texts those are, and the seconds by the clock.
    asked: tokens and clock."""
    least, clock = asked
    parts: list[Passages] = []
    report, at, size, seconds = AddReport(), 0, 32, 0.0
    while at < len(texts) and report.tokens < least:
        some = [Record(i, "", text, "", "") for i, text in enumerate(texts[at : at + size])]
        started = clock()
        made, counts = encode_records(encoder.encode_documents, encoder.dim, windows, some)
        parts += made
        report.count(counts)
        seconds += clock() - started
        at += len(some)
        size = max(32, (least - report.tokens) * at // max(report.tokens, 1))
    vectors, token_ids, lengths = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("vectors", "token_ids", "lengths")
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenEmbeddings(vectors.astype(np.float32), offsets, token_ids=token_ids), at, seconds


def _questions(encoder: DocumentEncoder, texts: list[str]) -> TokenEmbeddings:
    """Questions in words of the texts; by the encoder of documents where it has no other for queries."""
    encode = getattr(encoder, "encode_queries", encoder.encode_documents)
    questions: TokenEmbeddings = encode(sample_questions(texts))
    return questions


def _trial(sample: list[Mapping[str, Any]], dim: int, clock: Callable[[], float]) -> tuple[int, float]:
    """Bytes and seconds of the database of an index that has the sample's texts and no vectors."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "trial.index"
        nothing = TokenEmbeddings(np.zeros((0, dim), np.float32), np.zeros(len(sample) + 1, np.int64))
        ids = [str(i) for i in range(len(sample))]
        metadata = [record.get("metadata") for record in sample]
        with Index.create(path, dim=dim) as index:
            started = clock()
            index.add_embeddings(ids, nothing, [record["text"] for record in sample], metadata)
            seconds = clock() - started
        return (path / "index.db").stat().st_size, seconds


def _codec_seconds(
    encoded: TokenEmbeddings, nlist: int, rows: int, tokens: int, clock: Callable[[], float]
) -> float:
    """Training on `rows` with nlist centroids, then coding all tokens; each part timed on a little and scaled."""
    vectors = encoded.vectors[: 1 << 14]
    # At least so many that timing means something.
    vectors = np.concatenate([vectors] * -(-1024 // len(vectors)))
    started = clock()
    codec = Codec.train(vectors, nlist=2)  # as good as nothing but the product quantiser
    train = (clock() - started) / len(vectors) * min(rows, PQ_CENTROIDS * PQ_CENTROIDS)
    codec.encode(vectors[:1])
    started = clock()
    codec.encode(vectors)
    code = (clock() - started) / len(vectors) * tokens
    known = min(nlist, HNSW_NLIST // 2)  # a flat quantiser, whose time is linear in its centroids
    centroids = np.resize(vectors, (known, vectors.shape[1]))
    trial = Codec(ByteCentroids.of(centroids), codec.pq_centroids, codec.scales, codec.rotation)
    trial.assign(vectors[:1])
    some = vectors[:2048]
    started = clock()
    trial.assign(some)
    one = (clock() - started) / len(some) / known  # a token against a centroid
    token_ids = encoded.token_ids
    if token_ids is not None and (token_ids != NO_ID).all():
        counts = np.unique(token_ids, return_counts=True)[1]
        own = share_out(counts * rows // len(token_ids), np.ones(len(counts)), nlist)
        compared = own @ counts / len(token_ids)  # centroids of a token's own id
        return float(train + code + one * compared * (tokens + ITERATIONS * rows))
    # From HNSW_NLIST on a graph finds centroids, measured at half the time there and growing little from then on.
    return float(train + code + one * known * (tokens + KMEANS_ITERATIONS * rows))
