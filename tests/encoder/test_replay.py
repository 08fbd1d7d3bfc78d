"""Kernels launched together: the same lines uncaptured on "cpu", and the recording by a stand-in for CUDA's graphs."""

import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch

from encoder import replay
from encoder.replay import WARM_UP, Replay

CPU = torch.device("cpu")


def triangle(numbers):
    """Sums up to each place of the buffer, twice."""
    return 2 * numbers.cumsum(0)


def put(values):
    def fill(numbers):
        numbers.zero_()
        numbers[: len(values)] = torch.tensor(values)

    return fill


def test_each_call_has_its_own_numbers():
    made = Replay(triangle, (4,), torch.int64, CPU)
    first = made(put([1, 2, 3, 4]))
    assert first.tolist() == [2, 6, 12, 20]
    assert made(put([5])).tolist() == [10, 10, 10, 10]
    assert first.tolist() == [2, 6, 12, 20]


def test_threads_take_turns():
    made, found = Replay(triangle, (3,), torch.int64, CPU), {}

    def work(i):
        for _ in range(200):
            found.setdefault(i, set()).add(tuple(made(put([i, i])).tolist()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: {(2 * i, 4 * i, 4 * i)} for i in range(4)}


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def cuda(monkeypatch):
    """In place of CUDA's graphs: what ran while one was recorded runs again when it is replayed, on the tensors that it
    was recorded with, and puts its result where it was then. Also what was done in which order."""
    done = []

    class Graph:
        def replay(self):
            done.append("replay")
            self.out.copy_(triangle(self.given))

    @contextmanager
    def graph(made, *, stream, capture_error_mode):
        done.append(f"recording {capture_error_mode}")
        assert isinstance(stream, Stream)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(replay, "stream_on", lambda device: Stream())
    return done, Graph


def recorded(function):
    made = Replay(function, (4,), torch.int64, CPU)
    with torch.inference_mode():
        made._launch = made._recorded()
    return made


def test_a_recording_is_made_once_and_replayed_on_its_own_tensors(cuda, monkeypatch):
    done, graph = cuda

    def function(numbers):
        done.append("run")
        graph.given, graph.out = numbers, triangle(numbers)
        return graph.out

    made = recorded(function)
    assert done == ["run"] * WARM_UP + ["recording thread_local", "run"]
    done.clear()
    first = made(put([1, 2, 3, 4])).clone()  # on a GPU it comes back by a copy
    assert (first.tolist(), made(put([5])).tolist()) == ([2, 6, 12, 20], [10, 10, 10, 10])
    assert done == ["replay", "replay"]


def test_what_cannot_be_recorded_runs_each_time_and_one_line_says_so(cuda):
    done, _ = cuda

    def function(numbers):
        if done:
            done.clear()
            raise RuntimeError(
                "operation not permitted when stream is capturing\nCUDA kernel errors might be ..."
            )
        return triangle(numbers)

    with pytest.warns(
        RuntimeWarning,
        match=r"^kernels on cpu cannot be recorded \(operation not permitted when stream is capturing\); they are",
    ):
        made = recorded(function)
    assert made(put([1, 2, 3, 4])).tolist() == [2, 6, 12, 20]
