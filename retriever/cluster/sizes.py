"""What a cluster takes to build and to answer, by the formulae of docs/guides/cluster.md. Imports nothing heavy."""

import math
import os
from dataclasses import dataclass

from encoder.arguments import as_integer
from encoder.options import check, option
from indexing.writing.estimate import Estimate

__all__ = ["ClusterOptions", "ClusterSizes", "cluster_sizes"]

QUERY_TOKENS, DEPTH = 32, 30  # of a typical query; documents of each ranking that k=10 fuses
VECTOR_BYTES = 4  # of a query's number
LATE_BYTES, WORD_BYTES = 12, 16  # of a document in an answer, by vectors and by words
MESSAGE_BYTES = 1500  # of a call and of its answer, beside these
PROCESS_BYTES = 250_000_000  # of a process with Ray, the encoder and the kernels
# docs/benchmarks.md, "Growth": one core's milliseconds for a million tokens, and how they grow.
SEARCH_MS, SEARCH_POWER = 1.64, 0.43
# docs/lab/2026-11-29-ray-serve.md: milliseconds for a query, beside its search by vectors.
SERVER_MS = 6.0  # of a core, of one among many: encoding, words, texts, HTTP, its share of calls of shards
CALL_MS = 15.0  # more for one alone, which shares them with none


@dataclass(frozen=True)
class ClusterOptions:
    """A cluster on paper."""

    shards: int | None = option(None, "Also for a cluster: shards of the index.")
    machines: int | None = option(None, "Also for a cluster: machines like this one.")
    replicas: int = option(2, "Of a cluster: processes that hold each shard.", least=1)
    whole: int | None = option(
        None, "Documents of the whole corpus, where the source is only a sample of them."
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("shards", "machines", "whole"):
            if (value := getattr(self, name)) is not None:
                as_integer(value, name, 1)


@dataclass(frozen=True)
class ClusterSizes:
    """shard_tokens, shard_bytes: of each shard. processes, disk_bytes, memory_bytes: of each machine, whose memory
    holds the files of its shards. build_seconds: with every machine busy. query_bytes: through the network, of
    a query. query_ms: of a query alone, on idle machines; queries_per_second: of all machines."""

    shards: int
    machines: int
    replicas: int
    shard_tokens: int
    shard_bytes: int
    processes: int
    disk_bytes: int
    memory_bytes: int
    build_seconds: float
    query_bytes: int
    query_ms: float
    queries_per_second: float


def cluster_sizes(
    one: Estimate, wanted: ClusterOptions, dim: int, cores: int | None = None
) -> ClusterSizes | None:
    """None where neither shards nor machines are wanted; one of each is the least.

    one: of the same corpus as a single index. cores: of a machine; as many as this one has where None.
    """
    if wanted.shards is None and wanted.machines is None:
        return None
    shards, machines = wanted.shards or 1, wanted.machines or 1
    tokens, own = one.tokens / shards, one.disk_bytes / shards
    here = math.ceil(shards * wanted.replicas / machines)
    search_ms = SEARCH_MS * (tokens / 1e6) ** SEARCH_POWER
    core_ms = SERVER_MS + shards * search_ms
    answer_bytes = DEPTH * (LATE_BYTES + 2 * WORD_BYTES)
    return ClusterSizes(
        shards,
        machines,
        wanted.replicas,
        shard_tokens=round(tokens),
        shard_bytes=round(own),
        processes=here,
        disk_bytes=round(here * own),
        memory_bytes=round(here * (own + PROCESS_BYTES)),
        build_seconds=one.seconds / machines,
        query_bytes=shards * (QUERY_TOKENS * dim * VECTOR_BYTES + answer_bytes + MESSAGE_BYTES),
        query_ms=SERVER_MS + CALL_MS + search_ms,
        queries_per_second=1000 * machines * (cores or os.cpu_count() or 1) / core_ms,
    )
