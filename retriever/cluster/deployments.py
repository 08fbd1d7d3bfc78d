"""An index on Ray Serve: a deployment a shard, and a router with the routes of `latewood serve`."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import ray.util
from ray import serve

from indexing.storage.sharded import open_snapshot
from retriever.cluster.asking import Answer, Ask
from retriever.cluster.handles import Handles
from retriever.cluster.holding import Holder
from retriever.cluster.merging import ClusterSearcher
from retriever.cluster.settings import ClusterSettings
from retriever.serving.indexes import Served, Serving
from retriever.serving.listening import listening, server
from retriever.serving.settings import TOKEN_VARIABLE, ServeSettings

__all__ = ["APP", "Router", "ShardReplica", "application", "serving", "shards_of"]

APP = "latewood"
BATCH = 8  # asks that are ranked together, each of a router's batch
ONGOING = 1000  # requests that a process has at once, beyond which they wait at whoever asks
AT_ONCE = 3  # batches of a router: one that it encodes, one that shards rank, one that it makes hits of
EVERYWHERE = ("0.0.0.0", "::")
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


class Router:
    """Answers over HTTP, by a server of its own: Ray Serve's proxy would pass on every request, and every answer."""

    def __init__(
        self, settings: ServeSettings, cluster: ClusterSettings, token: str | None, *shards: Any
    ) -> None:
        """token: that the settings had where they were made. shards: handles of deployments."""
        from retriever.serving.app import create_app

        if token is not None:
            os.environ[TOKEN_VARIABLE] = token
        [(name, folder)] = settings.indexes.items()
        handles = Handles(shards, patience=cluster.patience, seconds=settings.limits.timeout)
        searcher = ClusterSearcher(
            open_snapshot(folder), handles, scoring=settings.scoring, all_shards=cluster.all_shards
        )
        served = Served(name, searcher)
        served.at_once = AT_ONCE
        self._server = server(create_app(settings, Serving({name: served})), settings.limits.timeout)
        bound = listening(settings.host, settings.port, shared=True)
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="http", daemon=True)
        self._thread.start()
        while not self._server.started:
            self.check_health()
            time.sleep(0.01)

    def check_health(self) -> None:
        """Ray Serve asks, and replaces what raises."""
        if not self._thread.is_alive():
            raise RuntimeError("the server has ended")

    def __del__(self) -> None:
        """Ray Serve's word for the end: what is being answered is answered."""
        self._server.should_exit = True
        self._thread.join()


def application(settings: ServeSettings, cluster: ClusterSettings) -> serve.Application:
    """What `serve.run` takes. settings: of one index, for reading. Raises IndexFormatError and ArgumentError."""
    [(name, folder)] = settings.indexes.items()
    settings = replace(settings, indexes={name: folder.resolve()})
    actor = {"num_cpus": cluster.cpus}  # of which Ray makes OMP_NUM_THREADS
    common: dict[str, Any] = {
        "max_ongoing_requests": ONGOING,
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 10,
        "logging_config": LOGGING,
    }
    shards = [
        serve.deployment(
            name=f"shard-{i:03d}",
            num_replicas=cluster.replicas,
            ray_actor_options=actor | {"num_gpus": cluster.gpus},
            **common,
        )(ShardReplica).bind(folder.resolve(), settings.device)
        for i in range(shards_of(folder))
    ]
    # An address of this machine is none of others.
    here = {} if settings.host in EVERYWHERE else {f"node:{ray.util.get_node_ip_address()}": 0.001}
    router: Any = serve.deployment(
        name="router", num_replicas=cluster.routers, ray_actor_options=actor | {"resources": here}, **common
    )(Router)
    bound: serve.Application = router.bind(settings, cluster, settings.token, *shards)
    return bound


def shards_of(folder: Path) -> int:
    """How many an index has; 1 of one without."""
    with open_snapshot(folder) as snapshot:
        return len(snapshot.parts)


@contextmanager
def serving(settings: ServeSettings, cluster: ClusterSettings) -> Iterator[None]:
    """Within, the index is served at the settings' host and port, by the cluster that this process has joined."""
    with listening(settings.host, settings.port):
        pass  # known before anything is started
    logging.getLogger("ray.serve").setLevel(LOGGING["log_level"])
    serve.start(proxy_location="Disabled", logging_config=LOGGING)
    try:
        serve.run(application(settings, cluster), name=APP, route_prefix=None)
        yield
    finally:
        serve.delete(APP)
        if not serve.status().applications:
            serve.shutdown()
