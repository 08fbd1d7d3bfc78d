"""An index on Ray Serve: a deployment a shard, and a router with the routes of `latewood serve`."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from ray import serve
from ray.serve.config import HTTPOptions

from indexing.storage.sharded import open_snapshot
from retriever.cluster.asking import Answer, Ask
from retriever.cluster.handles import Handles
from retriever.cluster.holding import Holder
from retriever.cluster.merging import ClusterSearcher
from retriever.cluster.settings import ClusterSettings
from retriever.serving.indexes import Served, Serving
from retriever.serving.listening import listening
from retriever.serving.settings import TOKEN_VARIABLE, ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["APP", "ShardReplica", "application", "serving", "shards_of"]

APP = "latewood"
BATCH = 8  # asks that are ranked together, each of a router's batch
ONGOING = 1000  # requests that a process has at once, beyond which they wait at whoever asks
AT_ONCE = 3  # batches of a router: one that it encodes, one that shards rank, one that it makes hits of
LOGGING: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}


class ShardReplica:
    """Ranks by the shards that it is asked for. A version is opened when it is first named."""

    def __init__(self, folder: Path, device: str | None) -> None:
        self._holder = Holder(folder, device)
        self._holder.load_kernels()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def answer(self, asks: list[Ask]) -> list[Answer]:
        return await anyio.to_thread.run_sync(self._holder.answer, asks)

    async def alive(self) -> None:
        """Answers beside whatever is ranked."""


def application(settings: ServeSettings, cluster: ClusterSettings) -> serve.Application:
    """What `serve.run` takes. settings: of one index, for reading. Raises IndexFormatError and ArgumentError."""
    [folder] = settings.indexes.values()
    n = shards_of(folder)
    actor = {"num_cpus": cluster.cpus}  # of which Ray makes OMP_NUM_THREADS
    common: dict[str, Any] = {
        "max_ongoing_requests": ONGOING,
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 10,
        "logging_config": LOGGING,
    }
    shards = [
        serve.deployment(
            name=name,
            num_replicas=cluster.replicas,
            ray_actor_options=actor | {"num_gpus": cluster.gpus},
            **common,
        )(ShardReplica).bind(folder.resolve(), settings.device)
        for name in _names(n)
    ]
    ingress = serve.ingress(_builder(settings, cluster, n))()
    router: Any = serve.deployment(
        name="router", num_replicas=cluster.routers, ray_actor_options=actor, **common
    )(ingress)
    bound: serve.Application = router.bind(*shards)
    return bound


def shards_of(folder: Path) -> int:
    """How many an index has; 1 of one without."""
    with open_snapshot(folder) as snapshot:
        return len(snapshot.parts)


def _names(n: int) -> list[str]:
    return [f"shard-{i:03d}" for i in range(n)]


def _builder(settings: ServeSettings, cluster: ClusterSettings, n: int) -> "Callable[[], FastAPI]":
    """What makes the router's application, in its process."""
    token = settings.token
    [(name, folder)] = settings.indexes.items()
    folder = folder.resolve()

    def build() -> "FastAPI":
        from retriever.serving.app import create_app

        if token is not None:
            os.environ[TOKEN_VARIABLE] = token
        handles = Handles(
            [serve.get_deployment_handle(shard, APP) for shard in _names(n)],
            patience=cluster.patience,
            seconds=settings.limits.timeout,
        )
        searcher = ClusterSearcher(
            open_snapshot(folder), handles, scoring=settings.scoring, all_shards=cluster.all_shards
        )
        served = Served(name, searcher)
        served.at_once = AT_ONCE
        return create_app(settings, Serving({name: served}))

    return build


@contextmanager
def serving(settings: ServeSettings, cluster: ClusterSettings) -> Iterator[None]:
    """Within, the index is served at the settings' host and port, by the cluster that this process has joined."""
    with listening(settings.host, settings.port, "pass another --host or --port"):
        pass  # known before anything is started
    logging.getLogger("ray.serve").setLevel(LOGGING["log_level"])
    serve.start(
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        logging_config=LOGGING,
    )
    try:
        serve.run(application(settings, cluster), name=APP, route_prefix="/")
        yield
    finally:
        serve.delete(APP)
        if not serve.status().applications:
            serve.shutdown()
