"""What `latewood cluster serve` may be told. Imports nothing heavy, for help is made from it."""

from dataclasses import dataclass

from encoder.options import check, option

__all__ = ["ClusterSettings"]


@dataclass(frozen=True)
class ClusterSettings:
    """How many processes answer, and what becomes of a search when some do not."""

    replicas: int = option(2, "Processes that hold each shard.", least=1)
    routers: int = option(1, "Processes that take requests, encode queries and ask the shards.", least=1)
    cpus: int = option(1, "Cores of each process: Ray sets them aside, and as many threads work.", least=1)
    gpus: float = option(0.0, "Share of a GPU that Ray sets aside for each process of a shard.", least=0)
    all_shards: bool = option(
        False,
        "Refuse a search by 503 where a shard does not answer, rather than answer in part.",
        "--all-shards",
    )
    patience: float = option(
        2.0, "Seconds in which a shard must show that it is there, when its answer takes long.", least=0.1
    )
    address: str = option(
        "auto", 'The cluster: "auto", "local" for one of this machine alone, or a head\'s HOST:PORT.'
    )

    def __post_init__(self) -> None:
        check(self)
