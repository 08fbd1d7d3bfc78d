"""What is asked of a model when it is loaded, whatever computes it. Imports no torch."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_integer, as_path, as_strings
from encoder.checkpoints.places import BUNDLED, resolve_folder
from encoder.errors import ArgumentError
from encoder.model.config import DenseConfig
from encoder.pooling import check_pool_factor
from encoder.tokenizer import LateTokenizer

__all__ = ["Asked", "check_length", "fingerprint"]


@dataclass(frozen=True)
class Asked:
    """The arguments of `Encoder.load` that say which vectors it makes; see there. How and where they are computed is a
    choice of the machine."""

    name: str | Path = BUNDLED
    revision: str | None = None
    projection: str | Path | None = None
    query_length: int | None = None
    document_length: int | Literal["max"] | None = None
    skiplist_words: Sequence[str] | None = None
    do_query_expansion: bool | None = None
    pool_factor: int = 1

    @cached_property
    def folder(self) -> Path:
        return resolve_folder(self.name, self.revision)

    @property
    def projection_path(self) -> Path | None:
        return None if self.projection is None else as_path(self.projection)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """TokenizerSettings fields that go before the folder's own; None where nothing is asked."""
        longest, words = self.document_length, self.skiplist_words
        whole = isinstance(longest, str) and longest == "max"
        return {
            "query_length": _integer(self.query_length, "query_length"),
            "document_length": longest if whole else _integer(longest, "document_length"),
            "skiplist_words": None if words is None else tuple(as_strings(words, "skiplist_words")),
            "do_query_expansion": self.do_query_expansion,
        }

    def again(self, tokenizer: LateTokenizer, positions: int) -> dict[str, Any]:
        """The arguments that make the same encoder again, on any day and from any working directory.

        tokenizer: as loaded. Raises ArgumentError for lengths beyond the model's positions.
        """
        own = tokenizer.settings
        check_length("query_length", own.query_length, positions)
        check_length("document_length", own.document_length, positions)
        # A hub name stays one; a folder must be found from any working directory.
        here = str(self.name) != BUNDLED and as_path(self.name).is_dir()
        again: dict[str, Any] = {"name": str(self.folder.resolve()) if here else str(self.name)}
        again |= {key: value for key, value in self.settings.items() if value is not None}
        # What is kept of a document is named even where the model's folder says it: an index stays as it is when the
        # folder changes, and a value given is the same as that value by default.
        again |= {"document_length": own.document_length, "skiplist_words": sorted(set(own.skiplist_words))}
        if self.pool_factor != 1:
            again["pool_factor"] = check_pool_factor(self.pool_factor)
        if self.revision is not None:
            again["revision"] = self.revision
        if self.projection is not None:
            again["projection"] = str(Path(self.projection).resolve())
        return again


def _integer(value: Any, name: str) -> int | None:
    return None if value is None else as_integer(value, name)


def check_length(key: str, value: int, positions: int) -> None:
    if value > positions:
        raise ArgumentError(f"{key}={value} exceeds the model's {positions} positions; pass <= {positions}")


def _least(array: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """In float16 where that loses nothing, else in float32: half as many bytes to hash, of what was saved so."""
    array = np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16, copy=False)
    return half if half is array or np.array_equal(half, array) else array.astype(np.float32, copy=False)


def fingerprint(
    weights: Iterable[tuple[str, npt.NDArray[np.floating[Any]]]],
    config: object,
    head: Sequence[DenseConfig],
    tokenizer: LateTokenizer,
    own_expansion: bool | None,
) -> str:
    """Hex digest of all that decides whether a query fits a document's vectors: weights, vocabulary,
    markers and expansion. Lengths, the skiplist and pooling say how much of a text is kept, and are left out;
    so is an expansion asked for by argument, which changes no document.

    weights: float32 or float16, named as in a LateInteractionModel; what float16 holds exactly is the same in both.
    own_expansion: see `Checkpoint`.
    """
    digest = hashlib.sha256()
    for key, array in sorted(weights, key=lambda pair: pair[0]):
        digest.update(key.encode())
        digest.update(_least(array).data)
    digest.update(repr(config).encode())
    digest.update(repr(list(head)).encode())
    digest.update(tokenizer.tokenizer.to_str().encode())
    s = tokenizer.settings
    expansion = s.do_query_expansion if own_expansion is None else own_expansion
    markers = [s.query_prefix, s.document_prefix, expansion, s.attend_to_expansion_tokens]
    markers += [s.query_prompt, s.document_prompt, s.do_lower_case]
    digest.update(repr(markers).encode())
    return digest.hexdigest()[:32]
