"""What a user hands to an index, checked and made ready to store; and what is said of it afterwards."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing.settings import DocumentEncoder

__all__ = [
    "AddReport",
    "Record",
    "batches",
    "check_vectors",
    "hash_salt",
    "metadata_json",
    "read_record",
    "read_records",
]

BATCH_RECORDS = 512
BATCH_CHARS = 1 << 19  # a batch's float32 vectors then stay in the tens of MiB
FIELDS = {"doc_id", "text", "metadata"}
FLOAT16_MAX = 65504.0


@dataclass
class AddReport:
    """What an add did: passages by fate, texts that lost their tail, token vectors made.

    A passage whose text is stored already costs no encoding: it is `unchanged`, or `replaced` where its
    metadata differs.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    truncated: int = 0
    tokens: int = 0


@dataclass
class Record:
    """A passage to store. number: its place in what was handed over. metadata: JSON text. content_hash: equal
    where the vectors would be.
    """

    number: int
    doc_id: str
    text: str | None
    metadata: str
    content_hash: str


def hash_salt(encoder: DocumentEncoder) -> str:
    """What a content hash covers beside the text: how the encoder cuts and keeps tokens."""
    kept = [encoder.load_arguments.get(k) for k in ("document_length", "skiplist_words")]
    # Only where there is pooling: indexes made before there was any know their texts without it.
    pooled = [f"pool_factor={f}"] if (f := encoder.load_arguments.get("pool_factor", 1)) != 1 else []
    return json.dumps(kept + pooled)


def read_records(records: Iterable[Mapping[str, Any]], salt: str) -> Iterator[Record]:
    """Check {"doc_id", "text", "metadata" (optional)} mappings; an ArgumentError says which one is wrong."""
    if isinstance(records, (str, bytes, Mapping)):
        raise ArgumentError(f"records is one {type(records).__name__}; pass an iterable of dicts")
    for number, record in enumerate(records):
        where = f"record {number}"
        if not isinstance(record, Mapping):
            raise ArgumentError(f'{where} is {type(record).__name__}; pass {{"doc_id": str, "text": str}}')
        if not FIELDS.issuperset(record):
            extra = sorted(str(key) for key in set(record) - FIELDS)
            raise ArgumentError(f'{where} has unknown keys {extra}; put them under "metadata"')
        text = record.get("text")
        if not isinstance(text, str):
            raise ArgumentError(f"{where} has text {text!r}; pass a string")
        yield read_record(number, record.get("doc_id"), text, record.get("metadata"), content=salt.encode())


def read_record(number: int, doc_id: Any, text: str | None, metadata: Any, *, content: bytes) -> Record:
    """Check one passage. `content` is what decides its vectors besides the text."""
    where = f"record {number}"
    if not isinstance(doc_id, str) or not doc_id:
        raise ArgumentError(f"{where} has doc_id {doc_id!r}; pass a string that is not empty")
    where = f"{where} (doc_id {doc_id!r})"
    for name, value in (("doc_id", doc_id), ("text", text or "")):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(f"{where} has a lone surrogate in {name}; pass valid Unicode") from error
    digest = hashlib.sha256(content)
    digest.update(b"\0none" if text is None else b"\0text" + text.encode())
    return Record(number, doc_id, text, metadata_json(metadata, where), digest.hexdigest())


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut a stream into batches of bounded text."""
    batch: list[Record] = []
    chars = 0
    for record in records:
        batch.append(record)
        chars += len(record.text or "")
        if len(batch) >= BATCH_RECORDS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def check_vectors(embeddings: TokenEmbeddings, doc_ids: list[str], dim: int) -> None:
    """Raise ArgumentError unless there is one passage a doc_id, of `dim`, all finite and within float16."""
    if len(embeddings) != len(doc_ids):
        raise ArgumentError(f"{len(embeddings)} embeddings for {len(doc_ids)} doc_ids; pass one each")
    if embeddings.dim != dim:
        raise ArgumentError(f"vectors have dim={embeddings.dim}, the index has dim={dim}; pass (n, {dim})")
    # NaN fails the comparison too.
    fine: npt.NDArray[np.bool_] = np.abs(embeddings.vectors).max(axis=1, initial=0.0) <= FLOAT16_MAX
    if not fine.all():
        token = int(np.argmin(fine))
        passage = int(np.searchsorted(embeddings.offsets, token, side="right")) - 1
        raise ArgumentError(
            f"doc_id {doc_ids[passage]!r} has a vector with a number that is not finite or beyond "
            f"{FLOAT16_MAX:.0f}; pass unit vectors"
        )


def metadata_json(metadata: Any, where: str) -> str:
    """Metadata as it is stored. Raises ArgumentError, beginning with `where`, for what is no JSON object."""
    if metadata is None:
        return "{}"
    fault = _not_json(metadata, "metadata") if isinstance(metadata, dict) else f"metadata {metadata!r}"
    if fault is not None:
        raise ArgumentError(f"{where} has {fault}; pass a dict of JSON values with string keys")
    # Sorted, so that the order of keys is not taken for a change.
    return json.dumps(metadata, sort_keys=True, allow_nan=False)


def _not_json(value: Any, path: str) -> str | None:
    # json.dumps alone would turn tuples into lists and number keys into strings, unasked.
    if value is None or isinstance(value, (bool, str, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} = {value}"
    if isinstance(value, list):
        faults = (_not_json(item, f"{path}[{i}]") for i, item in enumerate(value))
    elif isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            return f"{path} with the key {wrong!r}"
        faults = (_not_json(item, f"{path}[{key!r}]") for key, item in value.items())
    else:
        return f"{path} of type {type(value).__name__}"
    return next((fault for fault in faults if fault is not None), None)
