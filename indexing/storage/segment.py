"""A segment: an immutable run of passages, memory-mapped from its folder.

both:        offsets.npy, owners.npy, spans.npy   tokens, document and place in its text of each passage
flat:        vectors.npy                          float16 vectors, nothing trained
             token_ids.npy                        maybe: the vocabulary id of each token
compressed:  codes.faiss, lists.npz               the codec's codes, and which centroids are in which passages
             sampled.npy, originals.npy           a few passages with their vectors as they were given
"""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from encoder.errors import IndexFormatError
from indexing.coding.codec import CHUNK, Codec, write_codes
from indexing.coding.faiss_files import read_codes
from indexing.coding.sizes import id_bytes
from indexing.storage.originals import Originals
from indexing.storage.tables import SegmentRow

__all__ = ["Layout", "Segment", "as_float32", "token_places", "write_segment"]

Kind = Literal["flat", "compressed"]
FLAT: Kind = "flat"
COMPRESSED: Kind = "compressed"


@dataclass(frozen=True, eq=False)
class Layout:
    """Which passages lie in a segment. lengths: tokens of each, (n,). owners: the number of each one's document, (n,);
    a document's passages are neighbours. spans: [start, end) of each in its document's text, in characters, (n, 2).
    token_ids: the vocabulary id of each token, (n_tokens,), NO_ID where there is none; None for all of them.
    """

    lengths: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int32]
    token_ids: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, live: npt.NDArray[np.bool_]) -> "Layout":
        """Those passages alone."""
        ids = None if self.token_ids is None else self.token_ids[np.repeat(live, self.lengths)]
        return Layout(self.lengths[live], self.owners[live], self.spans[live], ids)

    @classmethod
    def joined(cls, layouts: Sequence["Layout"]) -> "Layout":
        lengths, owners, spans = (
            np.concatenate([getattr(x, name) for x in layouts]) for name in ("lengths", "owners", "spans")
        )
        ids = [x.known_ids for x in layouts] if any(x.token_ids is not None for x in layouts) else None
        return cls(lengths, owners, spans, None if ids is None else np.concatenate(ids))

    @property
    def known_ids(self) -> npt.NDArray[np.int32]:
        """token_ids, all NO_ID where they are None."""
        return np.full(self.lengths.sum(), NO_ID, np.int32) if self.token_ids is None else self.token_ids


class Segment:
    """An open segment. Arrays are read-only views of mapped files, good after the files are unlinked.

    kind: "flat" or "compressed". Passage i of the segment has the tokens offsets[i]:offsets[i + 1], maybe none.
    offsets: (n_passages + 1,) int64. owners: (n_passages,) int64. spans: (n_passages, 2) int32; see Layout.
    vectors (flat): (n_tokens, dim) float16. stored_ids (flat): (n_tokens,) int32, or None; see Layout.
    codes (compressed): (n_tokens, id_bytes + code_bytes) uint8, FAISS's bytes: centroid id, then the code.
    residual_codes (compressed): (n_tokens, code_bytes) uint8, a view of codes: m bytes of residual code and the byte
    of the scale.
    originals (compressed): a sample of passages with their vectors as they were given.
    list_offsets (nlist + 1,) int64 and list_pids uint16 or int32 (compressed): passages with a token in list c are
    list_pids[list_offsets[c]:list_offsets[c + 1]], numbers within the segment, ascending and unique.
    passage_offsets (n_passages + 1,) int64 and passage_lists (n, 2 or 3) uint8 (compressed): the same the other way
    round: bytes of the lists, ascending and unique, that passage i is in.
    """

    def __init__(self, root: Path, row: SegmentRow, *, dim: int, codec: Codec | None) -> None:
        """Raises IndexFormatError naming the file whose shape is not what the store says."""
        folder = root / row.folder
        self.segment_id = row.segment_id
        self.n_passages, self.n_tokens = row.n_passages, row.n_tokens
        self.kind: Kind = FLAT if row.kind == FLAT else COMPRESSED
        self.offsets: npt.NDArray[np.int64] = _map_npy(
            folder / "offsets.npy", (row.n_passages + 1,), np.int64
        )
        self.owners: npt.NDArray[np.int64] = _map_npy(folder / "owners.npy", (row.n_passages,), np.int64)
        self.spans: npt.NDArray[np.int32] = _map_npy(folder / "spans.npy", (row.n_passages, 2), np.int32)
        if self.kind == FLAT:
            self.vectors: npt.NDArray[np.float16] = _map_npy(
                folder / "vectors.npy", (row.n_tokens, dim), np.float16
            )
            path = folder / "token_ids.npy"
            self.stored_ids: npt.NDArray[np.int32] | None = (
                _map_npy(path, (row.n_tokens,), np.int32) if path.exists() else None
            )
            return
        if codec is None:
            raise IndexFormatError(f"{root / 'index.db'} lists a compressed segment and no codec")
        path = folder / "codes.faiss"
        width = id_bytes(codec.nlist)
        self.codes = read_codes(path)
        _check_shape(path, self.codes.shape, (row.n_tokens, width + codec.code_bytes))
        self.residual_codes = self.codes[:, width:]
        self._width = width
        lists = _map_lists(folder / "lists.npz", codec.nlist, row.n_passages)
        self.list_offsets, self.list_pids, self.passage_offsets, self.passage_lists = lists
        self.originals = _map_originals(folder, self.offsets, dim)

    def centroid_ids(self, tokens: slice | npt.NDArray[np.int64] = slice(None)) -> npt.NDArray[Any]:
        """Of the tokens of a compressed segment: a view of codes up to nlist 65,536, beyond it a copy in int32."""
        return _centroid_ids(self.codes[tokens], self._width)

    def lists_at(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Centroids by their places in passage_lists."""
        return _centroid_ids(self.passage_lists[places], self.passage_lists.shape[1])

    @property
    def memory(self) -> int:
        """Bytes held beyond mapped files: a list of lists that had to be made longer."""
        mapped = self.kind == FLAT or not self.list_offsets.flags.owndata
        return 0 if mapped else self.list_offsets.nbytes

    @cached_property
    def one_each(self) -> bool:
        """Whether no document has more than one passage here."""
        return bool((self.owners[1:] != self.owners[:-1]).all())

    @property
    def layout(self) -> Layout:
        ids = self.stored_ids if self.kind == FLAT else None
        return Layout(np.diff(self.offsets), self.owners, self.spans, ids)

    def decode(self, start: int, stop: int, codec: Codec | None) -> npt.NDArray[np.float32]:
        """Vectors of tokens start to stop as MaxSim sees them: (stop - start, dim) float32."""
        if self.kind == FLAT:
            return as_float32(self.vectors[start:stop])
        assert codec is not None
        return codec.decode(self.centroid_ids(slice(start, stop)), self.residual_codes[start:stop])

    def token_ids(
        self, tokens: slice | npt.NDArray[np.int64], codec: Codec | None
    ) -> npt.NDArray[np.int32] | None:
        """Vocabulary ids of tokens, (n,), None where nothing is known of them. Of codes those of their centroids, which
        belong to one id each."""
        if self.kind == FLAT:
            stored = self.stored_ids
        else:
            stored = None if codec is None or codec.owners is None else codec.owners.tokens
            tokens = self.centroid_ids(tokens)
        ids: npt.NDArray[np.int32] | None = None if stored is None else stored[tokens]
        return ids

    def take(self, tokens: npt.NDArray[np.int64], codec: Codec | None) -> npt.NDArray[np.float32]:
        """Vectors of the tokens named, (n,) -> (n, dim) float32."""
        if self.kind == FLAT:
            return as_float32(self.vectors[tokens])
        assert codec is not None
        return codec.decode(self.centroid_ids(tokens), self.residual_codes[tokens])


def as_float32(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """The same numbers, which are finite, in an eighth of the time of numpy's own.

    All bits but the sign stand 13 places further left in a float32, and its exponents begin 112 lower.
    """
    wide = np.ascontiguousarray(halves).view(np.int16).astype(np.int32)
    wide <<= 13
    wide &= _ALL_BUT_COPIES_OF_THE_SIGN
    floats: npt.NDArray[np.float32] = wide.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


_ALL_BUT_COPIES_OF_THE_SIGN = np.array(0x8FFFE000, np.uint32).view(np.int32)


def write_segment(
    folder: Path,
    parts: Iterable[npt.NDArray[Any]],
    layout: Layout,
    *,
    dim: int,
    codec: Codec | None,
    originals: Originals | None = None,
) -> None:
    """Write a segment's files. originals: a sample beside codes.

    parts: the passages' rows end to end, cut anywhere: float16 vectors (n, dim) without a codec,
    packed codes (n, id_bytes + code_bytes) uint8 with one.
    """
    offsets = np.zeros(len(layout) + 1, dtype=np.int64)
    np.cumsum(layout.lengths, out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "owners.npy", layout.owners)
    np.save(folder / "spans.npy", layout.spans)
    if codec is None:
        _save_parts(folder / "vectors.npy", parts, (int(offsets[-1]), dim))
        if layout.token_ids is not None and (layout.token_ids != NO_ID).any():
            np.save(folder / "token_ids.npy", layout.token_ids)
        return
    write_codes(folder / "codes.faiss", codec, parts)
    lists = invert(read_codes(folder / "codes.faiss"), layout.lengths, codec.nlist)
    np.savez(folder / "lists.npz", **lists._asdict())
    if originals is not None and len(originals.passages):
        np.save(folder / "sampled.npy", originals.passages)
        np.save(folder / "originals.npy", originals.vectors)


class Lists(NamedTuple):
    """Which centroids are in which passages: see Segment."""

    list_offsets: npt.NDArray[np.int64]
    list_pids: npt.NDArray[Any]
    passage_offsets: npt.NDArray[np.int64]
    passage_lists: npt.NDArray[np.uint8]


def invert(codes: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], nlist: int) -> Lists:
    """Of packed codes (n_tokens, at least id_bytes), of passages with `lengths` tokens each. Holds what it returns, and
    some tens of bytes for each token of a block.

    Raises IndexFormatError for a centroid that there is not.
    """
    offsets = _ends(lengths)
    counts, list_counts, rows = _of_passages(codes, offsets, nlist)
    passage_offsets, list_offsets = _ends(counts), _ends(list_counts)
    pids = np.empty(len(rows), np.uint16 if len(lengths) <= 1 << 16 else np.int32)
    free = list_offsets[:-1].copy()  # the next place in each list
    for start, stop in _blocks(offsets):
        ids = _centroid_ids(rows[passage_offsets[start] : passage_offsets[stop]], rows.shape[1])
        bits = (stop - start - 1).bit_length()
        pairs = ids.astype(np.int64) << bits
        pairs |= np.repeat(np.arange(stop - start), counts[start:stop])
        pairs.sort()
        ids, own = pairs >> bits, pairs & ((1 << bits) - 1)
        here = np.bincount(ids, minlength=nlist)
        pids[(free - _ends(here)[:-1])[ids] + np.arange(len(ids))] = start + own
        free += here
    return Lists(list_offsets, pids, passage_offsets, rows)


def _of_passages(
    codes: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], nlist: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """How many lists each passage is in, how many passages in each list, and `passage_lists`."""
    width, bits = id_bytes(nlist), (nlist - 1).bit_length()
    counts, list_counts, n = np.zeros(len(offsets) - 1, np.int64), np.zeros(nlist, np.int64), 0
    rows = np.empty((len(codes), max(width, 2)), np.uint8)
    for start, stop in _blocks(offsets):
        ids = _centroid_ids(codes[offsets[start] : offsets[stop]], width)
        if (most := int(ids.max(initial=0))) >= nlist:
            raise IndexFormatError(
                f"codes name centroid {most} of {nlist}; restore the index or build it again"
            )
        pairs = np.repeat(np.arange(stop - start) << bits, np.diff(offsets[start : stop + 1]))
        pairs |= ids
        pairs = np.unique(pairs)
        counts[start:stop] = np.bincount(pairs >> bits, minlength=stop - start)
        ids = pairs & ((1 << bits) - 1)
        list_counts += np.bincount(ids, minlength=nlist)
        rows[n : n + len(ids)] = ids.astype("<i4").view(np.uint8).reshape(-1, 4)[:, : rows.shape[1]]
        n += len(ids)
    return counts, list_counts, rows[:n]


def _blocks(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Passages from, and to, of about CHUNK tokens."""
    start = 0
    while start < len(offsets) - 1:
        stop = max(int(np.searchsorted(offsets, offsets[start] + CHUNK, "right")) - 1, start + 1)
        yield start, stop
        start = stop


def _ends(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def token_places(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of some passages' tokens, end to end: lengths[0] from starts[0] on, then those of the next."""
    firsts = np.cumsum(lengths) - lengths
    places: npt.NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - firsts, lengths)
    return places


def _centroid_ids(codes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[Any]:
    if width == 1:
        return codes[:, 0]
    if width == 2:
        ids: npt.NDArray[Any] = codes[:, :2].view("<u2")[:, 0]
        return ids
    low = codes[:, :2].view("<u2")[:, 0].astype(np.int32)
    wide: npt.NDArray[Any] = low | (codes[:, 2].astype(np.int32) << 16)
    return wide


def _save_parts(path: Path, parts: Iterable[npt.NDArray[Any]], shape: tuple[int, int]) -> None:
    # np.save of the concatenation, without making it: a commit's vectors are the most memory a build holds.
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype="<f2").data)


def _map_npy(path: Path, shape: tuple[int, ...] | None, dtype: Any) -> npt.NDArray[Any]:
    try:
        array = _plain(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise IndexFormatError(f"{path} is damaged; restore it or build the index again") from error
    if shape is not None:
        _check_shape(path, array.shape, shape)
    if array.dtype != dtype:
        raise IndexFormatError(f"{path} holds {array.dtype}, not {np.dtype(dtype)}")
    return array


def _map_originals(folder: Path, offsets: npt.NDArray[np.int64], dim: int) -> Originals:
    path = folder / "sampled.npy"
    if not path.exists():
        none = np.zeros(0, np.int64)
        return Originals(none, none, np.zeros((0, dim), np.float16))
    sampled = _map_npy(path, None, np.int64)
    if len(sampled) and not 0 <= sampled[0] <= sampled[-1] < len(offsets) - 1:
        raise IndexFormatError(f"{path} is damaged; restore it or build the index again")
    lengths = np.diff(offsets)[sampled]
    return Originals(
        sampled, lengths, _map_npy(folder / "originals.npy", (int(lengths.sum()), dim), np.float16)
    )


def _map_lists(path: Path, nlist: int, n_passages: int) -> Lists:
    # np.load maps no npz, but numpy stores its members uncompressed, so each can be mapped where it lies.
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            list_offsets, list_pids, passage_offsets, passage_lists = (
                _map_member(archive.getinfo(f"{name}.npy"), file, path) for name in Lists._fields
            )
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise IndexFormatError(f"{path} is damaged; restore it or build the index again") from error
    if not 2 <= len(list_offsets) <= nlist + 1:
        raise IndexFormatError(
            f"{path} has {len(list_offsets) - 1} lists for {nlist} centroids; restore it or build the index again"
        )
    _check_shape(path, list_pids.shape, (int(list_offsets[-1]),))
    _check_shape(path, passage_offsets.shape, (n_passages + 1,))
    _check_shape(path, passage_lists.shape, (len(list_pids), max(id_bytes(nlist), 2)))
    if len(list_offsets) < nlist + 1:  # the codec has got more centroids since; no passage here is under them
        list_offsets = np.pad(list_offsets, (0, nlist + 1 - len(list_offsets)), mode="edge")
        list_offsets.flags.writeable = False
    return Lists(list_offsets, list_pids, passage_offsets, passage_lists)


# Numbers of the arrays that are not <i8.
_KINDS: dict[str, tuple[Any, ...]] = {"list_pids": (np.uint16, np.int32), "passage_lists": (np.uint8,)}


def _map_member(member: zipfile.ZipInfo, file: Any, path: Path) -> npt.NDArray[Any]:
    # A local header is 30 bytes, then a name and an extra field whose lengths are its last four bytes.
    file.seek(member.header_offset)
    header = file.read(30)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    np.lib.format.read_magic(file)
    shape, transposed, dtype = np.lib.format.read_array_header_1_0(file)
    name = member.filename.removesuffix(".npy")
    if (
        dtype not in _KINDS.get(name, (np.int64,))
        or len(shape) != 1 + (name == "passage_lists")
        or transposed
    ):
        raise ValueError(f"{member.filename} holds {dtype} of shape {shape}")
    if shape[0] == 0:
        return np.zeros(shape, dtype=dtype)
    return _plain(np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape))


def _plain(mapped: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # A memmap makes a memmap of each part that is taken, at ten times the cost: a twentieth of a search.
    return mapped.view(np.ndarray)


def _check_shape(path: Path, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise IndexFormatError(
            f"{path} has shape {shape}, the index needs {wanted}; restore it or build the index again"
        )
