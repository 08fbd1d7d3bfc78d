"""What building an index will take: tokens, time, disk and memory, foretold from a sample of the documents."""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID, TokenEmbeddings
from encoder.errors import CorpusError
from indexing.coding.centroids import ByteCentroids
from indexing.coding.codec import Codec
from indexing.coding.sizes import PQ_CENTROIDS, choose_nlist, codec_bytes, id_bytes
from indexing.coding.sizes import sample_size as training_rows
from indexing.coding.training import HNSW_NLIST, KMEANS_ITERATIONS
from indexing.coding.vocabulary import ITERATIONS, share_out
from indexing.index import Index
from indexing.reading.windows import Windows
from indexing.settings import DocumentEncoder, IndexSettings
from indexing.writing.encoding import Passages, encode_records, windows_of
from indexing.writing.memory import ROW_BYTES, limit
from indexing.writing.records import BATCH_CHARS, BATCH_RECORDS, AddReport, Record

__all__ = ["Estimate", "estimate"]

SAMPLE = 1000  # documents whose tokens are counted and whose texts are stored for a trial
TIMED_TOKENS = 16_384  # encoded for a trial
PASSAGE_BYTES = 24  # of a passage beside its tokens: offset, owner and span
LIST_BYTES = (
    2.1  # of inverted lists a token, beside their offsets; measured on nfcorpus (docs/internals/codec.md)
)
FAISS_BYTES = 15_000_000  # resident once it is imported, which a flat index does without
BATCH_BYTES = 6  # of a token that was just encoded, a dimension: in float32, then in float16
MERGE_BYTES = 40  # a token while its segment is written: codes twice, and passages sorted by centroid


@dataclass(frozen=True)
class Estimate:
    """documents and chars are counted, the rest foretold. tokens: vectors stored. nlist: None where the index stays
    flat. *_seconds: of this machine, as busy as it is. disk_bytes: of the finished index; disk_peak_bytes: of the
    index while it is built, when float16 vectors lie beside their codes. memory_bytes: peak of the process.
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

    @property
    def seconds(self) -> float:
        return self.encode_seconds + self.index_seconds


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens of a sample. vectors: (n, dim). token_ids: (n,)."""

    vectors: npt.NDArray[np.float32]
    token_ids: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.vectors)


def estimate(
    documents: Iterable[Mapping[str, Any]],
    encoder: DocumentEncoder,
    memory: int | str | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    resident: Callable[[], int] = lambda: 0,
    **settings: Any,
) -> Estimate:
    """Read the documents once, encode and store a sample of them aside, and work out what all would take.

    memory, settings: as at Index.create. clock: seconds, as time.perf_counter or time.process_time. resident: asked
    once the sample is encoded for the bytes that the process then takes; memory_bytes counts from there.
    Raises CorpusError where there is no document.
    """
    sample, n, chars = _reservoir(documents)
    dim = encoder.dim
    fixed, most_rows = limit(IndexSettings.made(encoder, None, settings), memory)
    windows = windows_of(encoder, fixed)
    texts = [str(record["text"]) for record in sample]
    encoder.encode_documents(texts[:4])  # what is loaded and compiled at the first call is not timed
    encoded, timed, passages, encode_seconds = _timed_encoding(texts, encoder, windows, clock)
    taken = resident()
    tokens, n_passages = round(n * len(encoded) / timed), round(n * passages / timed)
    stored_bytes, stored_seconds = _trial(sample, dim, clock)
    database, index_seconds = stored_bytes * n / len(sample), stored_seconds * n / len(sample)
    flat = tokens < max(fixed.flat_tokens, PQ_CENTROIDS)
    held = min(tokens, fixed.segment_tokens)  # float16 on disk before a codec is trained
    half = 2 * dim
    pending = min(tokens, fixed.commit_tokens) * half
    if flat:
        nlist, disk = None, tokens * half + PASSAGE_BYTES * n_passages + database
        # A batch that was just encoded lies beside what is pending.
        batch = min(tokens, BATCH_RECORDS * tokens // n, BATCH_CHARS * tokens // max(chars, 1))
        memory_peak, disk_peak = pending + BATCH_BYTES * dim * batch, disk
    else:
        nlist = choose_nlist(held, most_rows)
        rows = min(training_rows(held), most_rows)
        index_seconds += _codec_seconds(encoded, nlist, rows, tokens, clock)
        codec = codec_bytes(nlist, dim, fixed.m)
        segments = 1 + (tokens - held) // fixed.commit_tokens
        lists = LIST_BYTES * tokens + 8 * nlist * segments
        disk = (
            tokens * (id_bytes(nlist) + fixed.m + 1) + lists + PASSAGE_BYTES * n_passages + codec + database
        )
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
    texts: list[str], encoder: DocumentEncoder, windows: Windows | None, clock: Callable[[], float]
) -> tuple[Encoded, int, int, float]:
    """Vectors of as many of the texts as give TIMED_TOKENS, how many texts and passages those are, and the seconds."""
    parts: list[Passages] = []
    report, at, size, seconds = AddReport(), 0, 32, 0.0
    while at < len(texts) and report.tokens < TIMED_TOKENS:
        some = [Record(i, "", text, "", "") for i, text in enumerate(texts[at : at + size])]
        started = clock()
        parts += encode_records(encoder, windows, some, report)
        seconds += clock() - started
        at += len(some)
        size = max(32, (TIMED_TOKENS - report.tokens) * at // max(report.tokens, 1))
    vectors = np.concatenate([passages.vectors for passages in parts]).astype(np.float32)
    token_ids = np.concatenate([passages.token_ids for passages in parts])
    return Encoded(vectors, token_ids), at, report.passages, seconds


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


def _codec_seconds(encoded: Encoded, nlist: int, rows: int, tokens: int, clock: Callable[[], float]) -> float:
    """Training on `rows` with nlist centroids, then coding all tokens; each part timed on a little and scaled."""
    vectors = encoded.vectors[: 1 << 14]
    vectors = np.concatenate(
        [vectors] * -(-1024 // len(vectors))
    )  # at least so many that timing means something
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
    if (encoded.token_ids != NO_ID).all():
        counts = np.unique(encoded.token_ids, return_counts=True)[1]
        own = share_out(counts * rows // len(encoded), np.ones(len(counts)), nlist)
        compared = own @ counts / len(encoded)  # centroids of a token's own id
        return float(train + code + one * compared * (tokens + ITERATIONS * rows))
    # From HNSW_NLIST on a graph finds centroids, measured at half the time there and growing little from then on.
    return float(train + code + one * known * (tokens + KMEANS_ITERATIONS * rows))
