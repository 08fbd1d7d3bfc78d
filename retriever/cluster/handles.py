"""Handles: asks shards by Ray Serve, another replica where one fails, and tells which shards nobody answers for."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from retriever.cluster.asking import Answer, Ask, Lost

__all__ = ["Handles"]

TICK = 0.5  # seconds after which it is asked whether a shard that has not answered is there at all
TRIES, PAUSE = 4, 0.05  # of an ask whose replica fails; seconds before the next, once more each time
FAULTS = (RayError, RayServeException)
log = logging.getLogger("latewood")


class Handles:
    """For ClusterRanker; several threads may ask at once.

    A replica that dies is found out by its call failing; no replica, by nobody answering `alive`. Then the shard is
    left out at once, until somebody does.
    """

    def __init__(self, handles: Sequence[Any], *, patience: float, seconds: float) -> None:
        """handles: of deployments; shards beyond are dealt round. patience: seconds for `alive`. seconds: for all."""
        self._handles, self._patience, self._seconds = handles, patience, seconds
        # shard's place → the call of `alive` that has not been answered, and until when it should
        self._calls: dict[int, tuple[Any, float]] = {}

    def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        started = time.monotonic()
        waiting = {
            i: self._handle(ask.shard).answer.remote(ask)
            for i, ask in enumerate(asks)
            if ask.shard not in self._calls or self._is_there(ask.shard)
        }
        answers: list[Answer] = [Lost.MISSING] * len(asks)
        for i in list(waiting):
            answers[i] = self._answer(i, asks, waiting, started)
            del waiting[i]
        return answers

    def _handle(self, shard: int) -> Any:
        return self._handles[shard % len(self._handles)]

    def _answer(self, i: int, asks: Sequence[Ask], waiting: dict[int, Any], started: float) -> Answer:
        shard, tries = asks[i].shard, 0
        until = started + TICK
        while True:
            try:
                found: Answer = waiting[i].result(timeout_s=max(0.0, until - time.monotonic()))
                return found
            except TimeoutError:
                now = time.monotonic()
                for other in waiting:  # so that several that are gone are found out at once
                    self._call(asks[other].shard)
                if now > started + self._seconds or not self._is_there(shard):
                    log.warning("%s: nobody answers", asks[i].version.name)
                    waiting[i].cancel()
                    return Lost.MISSING
                until = now + TICK
            except FAULTS as error:
                tries += 1
                log.warning("%s: %s", asks[i].version.name, str(error).partition("\n")[0])
                if tries == TRIES:
                    return Lost.MISSING
                time.sleep(PAUSE * tries)
                waiting[i] = self._handle(shard).answer.remote(asks[i])
                until = time.monotonic() + TICK

    def _call(self, shard: int) -> None:
        if shard not in self._calls:
            call = self._handle(shard).alive.remote()
            self._calls[shard] = call, time.monotonic() + self._patience

    def _is_there(self, shard: int) -> bool:
        """Whether a replica answers in time."""
        self._call(shard)
        call, until = self._calls[shard]
        try:
            call.result(timeout_s=max(0.0, until - time.monotonic()))
        except TimeoutError:
            return False
        except FAULTS:  # it was there, and died
            self._calls.pop(shard, None)
            return False
        self._calls.pop(shard, None)
        return True
