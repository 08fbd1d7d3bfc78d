"""Metrics in Prometheus' form: requests, seconds by stage, sizes of batches, who waits, and what is served."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retriever.serving.indexes import Answer, Asked, Served

__all__ = ["Counted", "Metrics"]

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"}
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "latewood_requests",
            "Requests that were answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "latewood_seconds",
            "Seconds of a stage: a whole request; of a batch of queries, its encoding and its search",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram(
            "latewood_batch_queries",
            "Queries of a batch",
            ["index"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.reloads = Counter(
            "latewood_reloads", "Commits that were moved to", ["index"], registry=self._registry
        )

    def search_of(self, served: Served) -> Callable[[Sequence[Asked]], Sequence[Answer]]:
        """`served.search`, counted."""

        def search(asked: Sequence[Asked]) -> Sequence[Answer]:
            answers = served.search(asked)
            self.batches.labels(served.name).observe(len(asked))
            for answer in answers[:1]:
                self.seconds.labels("encode").observe(answer.seconds.encode)
                self.seconds.labels("search").observe(answer.seconds.search)
            return answers

        return search

    @contextmanager
    def watching(
        self, serving: Mapping[str, Served], waiting: Callable[[], Mapping[str, int]]
    ) -> Iterator[None]:
        """Within, tell of indexes and queues, as they are when metrics are asked for."""
        now = _Now(serving, waiting)
        self._registry.register(now)
        yield
        self._registry.unregister(now)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Now(Collector):
    def __init__(self, serving: Mapping[str, Served], waiting: Callable[[], Mapping[str, int]]) -> None:
        self._serving, self._waiting = serving, waiting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        documents = GaugeMetricFamily("latewood_documents", "Documents of an index", labels=["index"])
        unencoded = GaugeMetricFamily(
            "latewood_unencoded", "Documents that only words can find yet", labels=["index"]
        )
        for name, served in self._serving.items():
            now = served.snapshot
            documents.add_metric([name], len(now))
            unencoded.add_metric([name], now.n_unencoded)
        waiting = GaugeMetricFamily("latewood_waiting", "Requests that wait, by queue", labels=["queue"])
        for name, n in self._waiting().items():
            waiting.add_metric([name], n)
        yield from (documents, unencoded, waiting)


class Counted:
    """An ASGI middleware outside all others that counts requests and their seconds, by route and not by path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.seconds.labels("request").observe(time.perf_counter() - started)
