"""Ray, where it is installed: joining a cluster, and what an error on it was caused by."""

import json
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from encoder import errors
from encoder.errors import ArgumentError, LatewoodError, MissingDependencyError

__all__ = ["LOCAL", "cause_of", "joined", "passed_on", "ray_module"]

LOCAL = "local"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Of what Ray says on its own of tasks, actors and nodes that end and are begun again: only why memory ended them.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"(?is)\A(?!.*(low on memory|out of memory issue|due to memory pressure))",
}
OPENS, ENDS = "<latewood>", "</latewood>"


def ray_module(*, serving: bool = False) -> Any:
    """Ray with its parts. Raises MissingDependencyError naming the extra."""
    for name, value in QUIET.items():  # some of which Ray reads when it is imported
        os.environ.setdefault(name, value)
    try:
        import fsspec  # noqa: F401
        import pyarrow.parquet  # noqa: F401
        import ray
        import ray.data

        if serving:
            import ray.serve  # and FastAPI
    except ImportError as error:
        raise MissingDependencyError(
            f"a cluster needs {error.name}, which is not installed; pip install 'latewood[ray]'"
        ) from error
    return ray


@contextmanager
def joined(address: str, cpus: float = 1.0) -> Iterator[Any]:
    """Ray, within a cluster: "auto" for the one that this machine is part of, "local" for one of its own, else a
    head's address. What this process has joined already it goes on with.

    cpus: that the work takes at the least; a cluster of one's own has as many.
    Raises ArgumentError where there is none.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says is raised as well
    own: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # or what else runs here leaves it next to nothing
        own = {"num_cpus": math.ceil(max(cpus, os.cpu_count() or 1)), "include_dashboard": False}
    try:
        with _unheard():  # that it has read its log level
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


@contextmanager
def _unheard() -> Iterator[None]:
    """What is written to stderr is lost; errors are raised as ever."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def passed_on() -> Iterator[None]:
    """For what runs on a cluster: a LatewoodError within reaches `cause_of`, however Ray wraps what a task raises."""
    try:
        yield
    except Exception as error:
        if (cause := cause_of(error)) is None:
            raise
        raise RuntimeError(f"{OPENS}{json.dumps([type(cause).__name__, str(cause)])}{ENDS}") from None


def cause_of(error: BaseException) -> LatewoodError | None:
    """The LatewoodError by which a task or an actor failed, if one did: the innermost, for Ray's own are one, too."""
    if found := re.search(f"{OPENS}(.*?){ENDS}", str(error)):
        kind, message = json.loads(found[1])
        return getattr(errors, kind)(message)  # type: ignore[no-any-return]
    cause: LatewoodError | None = None
    seen: BaseException | None = error
    while seen is not None:
        cause = seen if isinstance(seen, LatewoodError) else cause
        seen = getattr(seen, "cause", None) or seen.__cause__
    return cause
