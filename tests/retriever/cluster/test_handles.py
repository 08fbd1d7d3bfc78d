"""Another replica for one that dies, and shards that nobody answers for, with deployments that do as they are told."""

import time

import pytest
from ray.exceptions import RayActorError

from retriever.cluster import handles
from retriever.cluster.asking import Ask, Lost, Version
from retriever.cluster.handles import Handles

pytestmark = pytest.mark.slow
TICK = 0.05


class Response:
    """Done after some seconds; raises, where what it gives is an error."""

    def __init__(self, found, seconds=0.0):
        self.found, self.until, self.cancelled = found, time.monotonic() + seconds, False

    def result(self, timeout_s):
        left = self.until - time.monotonic()
        if left > timeout_s:
            time.sleep(timeout_s)
            raise TimeoutError
        time.sleep(max(0.0, left))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def cancel(self):
        self.cancelled = True


class Deployment:
    """answers: what each call of `answer` gives, in order; the last for all that follow. there: seconds until `alive`
    is answered."""

    def __init__(self, *answers, there=0.0):
        self.answers, self.there, self.calls = list(answers), there, 0
        self.answer, self.alive = self, Alive(self)

    def remote(self, ask):
        self.calls += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Response(*found) if isinstance(found, tuple) else Response(found)


class Alive:
    def __init__(self, deployment):
        self.deployment, self.calls = deployment, 0

    def remote(self):
        self.calls += 1
        return Response(None, self.deployment.there)


def asks(n):
    return [Ask(i, Version(f"v0001/{i:03d}", 1, None), [], {}) for i in range(n)]


def handles_of(*deployments):
    return Handles(deployments, patience=2 * TICK, seconds=10 * TICK)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(handles, "TICK", TICK)


def test_another_replica_is_asked_for_one_that_dies():
    deployments = Deployment(["a"]), Deployment(RayActorError(), RayActorError(), ["b"])
    assert handles_of(*deployments)(asks(2)) == [["a"], ["b"]]
    assert deployments[1].calls == 3


def test_a_shard_of_which_every_replica_dies_is_missing():
    deployments = Deployment(RayActorError()), Deployment(["b"])
    assert handles_of(*deployments)(asks(2)) == [Lost.MISSING, ["b"]]
    assert deployments[0].calls == handles.TRIES


def test_a_slow_answer_is_waited_for_as_long_as_somebody_is_there():
    assert handles_of(Deployment((["a"], 3 * TICK)))(asks(1)) == [["a"]]
    assert handles_of(Deployment((["a"], 99 * TICK)))(asks(1)) == [
        Lost.MISSING
    ]  # beyond the time of a request


def test_what_nobody_answers_for_is_left_out_at_once_until_somebody_does():
    silent = [Deployment((["late"], 99.0), there=99.0) for _ in range(3)]
    ask = handles_of(Deployment(["a"]), *silent)
    started = time.monotonic()
    assert ask(asks(4)) == [["a"], *[Lost.MISSING] * 3]
    assert time.monotonic() - started < 8 * TICK  # found out together
    started = time.monotonic()
    assert ask(asks(4)) == [["a"], *[Lost.MISSING] * 3]
    assert time.monotonic() - started < TICK
    assert [one.calls for one in silent] == [1, 1, 1]
    assert [one.alive.calls for one in silent] == [1, 1, 1]
    for call, _ in ask._calls.values():
        call.until = 0.0  # a replica has come up, and answers the call that waits
    silent[0].answers = [["b"]]
    assert ask(asks(2)) == [["a"], ["b"]]


def test_shards_of_a_later_version_are_dealt_round():
    deployments = Deployment(["a"]), Deployment(["b"])
    assert handles_of(*deployments)(asks(5)) == [["a"], ["b"], ["a"], ["b"], ["a"]]
