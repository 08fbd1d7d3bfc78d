"""What the router of a cluster asks of a shard, and what it is answered. Plain values: Ray carries them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from indexing.storage.fulltext import Texts
from retriever.ranking.ranker import Plan, Rankings

__all__ = ["Answer", "Ask", "Asked", "Asking", "Lost", "Version"]

# A text, its vectors (n_query, dim), and a plan, whose selection the shard makes anew.
Asked: TypeAlias = tuple[str | None, npt.NDArray[np.float32] | None, Plan]


@dataclass(frozen=True)
class Version:
    """One commit of a shard. name: of its folder within the index's. texts: of all shards, for BM25."""

    name: str
    generation: int
    texts: Texts


@dataclass(frozen=True, eq=False)
class Ask:
    """Queries for one shard. shard: its place among all. frequencies: FTS5 query → how many documents of all shards it
    finds, for every word of the queries."""

    shard: int
    version: Version
    queries: Sequence[Asked]
    frequencies: Mapping[str, int]


class Lost(Enum):
    """Why there are no rankings. GONE: the shard has been committed to since, or its folder is no more; ask for what is
    there now. MISSING: nobody answers for it."""

    GONE = "gone"
    MISSING = "missing"


# A query's rankings each, by the numbers of the shard's passages.
Answer: TypeAlias = Sequence[Rankings] | Lost
Asking: TypeAlias = Callable[[Sequence[Ask]], Sequence[Answer]]  # one answer an ask
