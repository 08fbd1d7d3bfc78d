"""Ray, where it is installed: joining a cluster, and what an error on it was caused by."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from encoder.errors import ArgumentError, LatewoodError, MissingDependencyError

__all__ = ["LOCAL", "cause_of", "joined", "ray_module"]

LOCAL = "local"


def ray_module() -> Any:
    """Ray with its parts. Raises MissingDependencyError naming the extra."""
    try:
        import ray
        import ray.data
        import ray.serve
    except ImportError as error:
        raise MissingDependencyError(
            f"a cluster needs {error.name}, which is not installed; pip install 'latewood[ray]'"
        ) from error
    return ray


@contextmanager
def joined(address: str, cpus: float = 1.0) -> Iterator[Any]:
    """Ray, within a cluster: "auto" for the one that this machine is part of, "local" for one of its own, else a
    head's address. What this process has joined already it goes on with.

    cpus: that the work takes at the least; a cluster of one's own has as many, and one more for what reads.
    Raises ArgumentError where there is none.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {"num_cpus": 1 + math.ceil(max(cpus, os.cpu_count() or 1)), "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ArgumentError(
            f"no Ray cluster at {address!r} ({reason}); start one by ray start --head, or pass --address local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def cause_of(error: BaseException) -> LatewoodError | None:
    """The LatewoodError that made a task or an actor fail, if one did."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LatewoodError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
