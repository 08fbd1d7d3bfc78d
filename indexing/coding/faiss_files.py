"""Files of FAISS: what the codec and the segments write, and codes read in place."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import IndexFormatError
from indexing.coding.centroids import faiss_module

__all__ = ["append_codes", "checked", "read_codes", "read_index", "write_index"]

NTOTAL = 8  # where the file of an index has the number of its vectors


def read_codes(path: Path) -> npt.NDArray[np.uint8]:
    """Packed codes (n, id_bytes + code_bytes) of a segment, read in place from the mapped file, read-only."""
    faiss = faiss_module()
    index = checked(read_index(path, faiss.IO_FLAG_MMAP_IFC), "Index2Layer", path)
    if index.ntotal == 0:
        return np.zeros((0, index.code_size), dtype=np.uint8)
    raw = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    codes: npt.NDArray[np.uint8] = np.asarray(_Owned(raw, index)).reshape(index.ntotal, index.code_size)
    codes.flags.writeable = False
    return codes


def write_index(index: Any, path: Path) -> None:
    # Through a file of Python's: FAISS's own tells nobody when the last block of a file finds no room.
    faiss = faiss_module()
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def append_codes(index: Any, path: Path, parts: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write what FAISS would of this empty Index2Layer if it held the codes, (n, code_size) each. A part at a time
    is in memory."""
    head = faiss_module().serialize_index(index)
    assert not head[NTOTAL : NTOTAL + 8].any()
    assert not head[-8:].any()  # the length of the codes in bytes, behind which they lie
    n = 0
    with path.open("wb") as file:
        file.write(head.data)
        for part in parts:
            assert part.shape[1] == index.code_size
            file.write(np.ascontiguousarray(part).data)
            n += len(part)
        for place, number in ((NTOTAL, n), (len(head) - 8, n * index.code_size)):
            file.seek(place)
            file.write(number.to_bytes(8, "little"))


def read_index(path: Path, flags: int = 0) -> Any:
    """FAISS's index in a file. Raises FileNotFoundError, or IndexFormatError for a damaged one."""
    try:
        return faiss_module().read_index(str(path), flags)
    except RuntimeError as error:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from error
        raise IndexFormatError(f"{path} is damaged; restore it or build the index again") from error


def checked(part: Any, kind: str, path: Path) -> Any:
    """A part of a file, which is of that class of FAISS. Raises IndexFormatError for another."""
    if not isinstance(part, getattr(faiss_module(), kind)):
        raise IndexFormatError(
            f"{path} has a FAISS {type(part).__name__} where an index of Latewood has its {kind}; build the index again"
        )
    return part


class _Owned:
    """Lends an array's memory and keeps alive the FAISS index that owns it."""

    def __init__(self, array: npt.NDArray[np.uint8], owner: Any) -> None:
        self.__array_interface__ = array.__array_interface__
        self.owner = owner
