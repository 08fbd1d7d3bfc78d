"""What a user hands to an index, checked and made ready to store; and what is said of it afterwards."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_iterable, shown
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError

__all__ = [
    "AddReport",
    "Record",
    "batches",
    "check_doc_id",
    "check_vectors",
    "given_record",
    "hash_salt",
    "metadata_json",
    "read_records",
]

BATCH_RECORDS = 512
BATCH_CHARS = 1 << 18  # several batches are under way: float32 vectors of tens of MiB each
SHORT = 32  # tokens of a record, by which as many as a batch may have
TOKEN_CHARS = 4  # of English
FIELDS = {"doc_id", "text", "metadata"}
FLOAT16_MAX = 65504.0
TEXT_BYTES = 1 << 28  # SQLite stops at 10^9 bytes, and full text may take three a letter
METADATA_DEPTH = 100  # levels: SQLite and Python read 1,000 at the most, and less deep in a call


@dataclass
class AddReport:
    """What an add did: documents by fate, texts that lost their tail or came in windows, passages and token vectors.

    A document whose text is stored already costs no encoding: it is `unchanged`, or `replaced` where its
    metadata differs.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    truncated: int = 0
    windowed: int = 0
    passages: int = 0
    tokens: int = 0

    def count(self, others: "AddReport") -> None:
        """Add the numbers of others."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(others, field.name))


@dataclass
class Record:
    """A document to store. number: its place in what was handed over. metadata: JSON text. content_hash: equal
    where the vectors would be.
    """

    number: int
    doc_id: str
    text: str | None
    metadata: str
    content_hash: str


def hash_salt(arguments: Mapping[str, Any]) -> str:
    """What a content hash covers beside the text: how an encoder, by what loads it, cuts and keeps tokens."""
    pool_factor = arguments.get("pool_factor", 1)
    return json.dumps([arguments.get("document_length"), arguments.get("skiplist_words"), pool_factor])


def read_records(records: Iterable[Mapping[str, Any]], salt: str) -> Iterator[Record]:
    """Check {"doc_id", "text", "metadata" (optional)} mappings; an ArgumentError says which one is wrong."""
    for number, record in enumerate(as_iterable(records, "records", "dicts")):
        where = f"record {number}"
        if not isinstance(record, Mapping):
            raise ArgumentError(f'{where} is {type(record).__name__}; pass {{"doc_id": str, "text": str}}')
        if not FIELDS.issuperset(record):
            extra = ", ".join(sorted(shown(key) for key in set(record) - FIELDS))
            raise ArgumentError(f'{where} has unknown keys [{extra}]; put them under "metadata"')
        if record.get("text") is None:
            raise ArgumentError(f"{where} has text None; pass a string")
        given = (record.get(key) for key in ("doc_id", "text", "metadata"))
        yield given_record(number, *given, content=salt.encode())


def given_record(number: int, doc_id: Any, text: Any, metadata: Any, *, content: bytes) -> Record:
    """Check one document. `content` is what decides its vectors besides the text."""
    where = f"record {number} has "
    check_doc_id(doc_id, where)
    where = f"record {number} (doc_id {shown(doc_id)}) has "
    if text is not None and not isinstance(text, str):
        raise ArgumentError(f"{where}text {shown(text)}; pass a string")
    _check_string(text or "", f"{where}text")
    digest = hashlib.sha256(content)
    digest.update(b"\0none" if text is None else b"\0text" + text.encode())
    return Record(
        number, doc_id, text, metadata_json({} if metadata is None else metadata, where), digest.hexdigest()
    )


def check_doc_id(doc_id: Any, where: str = "") -> None:
    """Raise ArgumentError, beginning with `where`, unless this may be a doc_id. Nothing is turned into a string."""
    if not isinstance(doc_id, str):
        raise ArgumentError(f"{where}doc_id {shown(doc_id)} ({type(doc_id).__name__}); pass a string")
    if not doc_id:
        raise ArgumentError(f"{where}doc_id ''; pass a string that is not empty")
    _check_name(doc_id, f"{where}doc_id")


def batches(records: Iterable[Record], tokens: int = 0) -> Iterator[list[Record]]:
    """Cut a stream into batches of bounded text; larger ones for an encoder that computes many tokens at a time."""
    most_records = max(BATCH_RECORDS, tokens // SHORT)
    most_chars = max(BATCH_CHARS, tokens * TOKEN_CHARS)
    batch: list[Record] = []
    chars = 0
    for record in records:
        batch.append(record)
        chars += len(record.text or "")
        if len(batch) >= most_records or chars >= most_chars:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def check_vectors(
    embeddings: TokenEmbeddings, doc_ids: Sequence[Any], dim: int, starts: npt.NDArray[np.int64] | None = None
) -> None:
    """Raise ArgumentError unless there is one passage a doc_id, or starts[i]:starts[i + 1] of the i-th, of `dim`, all
    finite and within float16."""
    if starts is None:
        starts = np.arange(len(doc_ids) + 1)
    if len(embeddings) != starts[-1]:
        raise ArgumentError(f"{len(embeddings)} embeddings for {len(doc_ids)} doc_ids; pass one each")
    if embeddings.dim != dim:
        raise ArgumentError(f"vectors have dim={embeddings.dim}, the index has dim={dim}; pass (n, {dim})")
    # NaN fails the comparison too.
    fine: npt.NDArray[np.bool_] = np.abs(embeddings.vectors).max(axis=1, initial=0.0) <= FLOAT16_MAX
    if not fine.all():
        rows = embeddings.offsets[starts]
        document = int(np.searchsorted(rows, int(np.argmin(fine)), side="right")) - 1
        raise ArgumentError(
            f"doc_id {shown(doc_ids[document])} has a vector with a number that is not finite or beyond "
            f"{FLOAT16_MAX:.0f}; pass unit vectors"
        )


def metadata_json(metadata: Any, where: str) -> str:
    """Metadata as it is stored: what comes back is equal, but for NumPy's numbers, which are numbers.

    Raises ArgumentError, beginning with `where`, for what is no JSON object or could not be read again.
    """
    where = f"{where}metadata"
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"{where} {shown(metadata)}; pass a dict of JSON values with string keys")
    # Sorted, so that the order of keys is not taken for a change.
    text = json.dumps(_json_value(metadata, where, 0), sort_keys=True, allow_nan=False)
    if len(text) > TEXT_BYTES:
        raise ArgumentError(f"{where} of {len(text):,} bytes of JSON; pass at most {TEXT_BYTES:,}")
    return text


def _json_value(value: Any, path: str, depth: int) -> Any:
    # json.dumps alone would turn tuples into lists and number keys into strings, unasked.
    if depth > METADATA_DEPTH:
        raise ArgumentError(f"{path:.100}... nested deeper than {METADATA_DEPTH} levels; pass it flatter")
    if isinstance(value, np.bool_):
        return bool(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_name(value, f"{path} =")
        return value
    if isinstance(value, int | np.integer):
        try:
            float(value)
        except OverflowError:
            raise ArgumentError(f"{path}, an integer beyond float64; pass it as a string") from None
        return int(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise ArgumentError(f"{path} = {value}, which JSON cannot hold; pass None, or leave the key out")
        return float(value)
    if isinstance(value, list):
        return [_json_value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentError(f"{path} with the key {shown(key)}; pass keys that are strings")
            _check_name(key, f"{path} with the key")
        return {key: _json_value(item, f"{path}[{shown(key)}]", depth + 1) for key, item in value.items()}
    raise ArgumentError(
        f"{path} of type {type(value).__name__}; pass JSON values: None, bool, number, string, list, dict"
    )


def _check_name(value: str, what: str) -> None:
    """As `_check_string`, for what filters compare."""
    _check_string(value, what)
    if "\0" in value:  # SQLite's JSON functions end there: a filter would see another value
        raise ArgumentError(f"{what} {shown(value)}, which has a NUL character; take it out")


def _check_string(value: str, what: str) -> None:
    """Raise ArgumentError unless SQLite can store and give back this string."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ArgumentError(
            f"{what} {shown(value)}, which has a lone surrogate; pass valid Unicode"
        ) from None
    if size > TEXT_BYTES:
        raise ArgumentError(f"{what} of {size:,} bytes; pass at most {TEXT_BYTES:,}")
