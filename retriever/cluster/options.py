"""What `latewood cluster` may be told. Imports nothing heavy, for help is made from it."""

from dataclasses import dataclass

from encoder.arguments import as_integer
from encoder.errors import ArgumentError
from encoder.options import check, option

__all__ = ["BuildOptions"]


@dataclass(frozen=True)
class BuildOptions:
    """What a build makes, and what it takes of a cluster."""

    shards: int = option(1, "Indexes that the documents are dealt to.", least=1)
    address: str = option(
        "auto", 'The cluster: "auto", "local" for one of this machine alone, or a head\'s HOST:PORT.'
    )
    actors: int | None = option(
        None, "Processes that encode; by default as many as the cluster has room for."
    )
    cpus: float = option(1.0, "CPU cores for each of them.")
    gpus: float = option(0.0, "GPUs for each of them.", least=0)

    def __post_init__(self) -> None:
        check(self)
        if self.actors is not None:
            as_integer(self.actors, "actors", 1)
        if self.cpus <= 0:
            raise ArgumentError(f"cpus={self.cpus}; pass a number above 0")
