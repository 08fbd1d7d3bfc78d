"""Batches encoded side by side, by threads or by one process a device, with results in the order of the batches."""

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from multiprocessing.managers import BaseManager
from queue import LifoQueue
from typing import Any, Protocol

import torch

from encoder.arguments import as_integer
from encoder.batches import Job, Vectors, vectors_of
from encoder.devices import parse_device
from encoder.errors import ArgumentError, LatewoodError
from encoder.model.late_interaction import LateInteractionModel
from encoder.model.packing import pack
from encoder.threads import computing_threads, end_with_parent, in_order

__all__ = ["WorkerPool", "batches_at_once", "run_job", "run_jobs", "worker_devices"]


# Multiplications of one layer's largest product in a batch, about 3 ms on one core: with less to do, torch's threads
# gain little on an idle machine and lose much on a busy one.
SHARED_PRODUCT = 150_000_000
CALLS = 3  # of a process at once: one's vectors are sent, one is computed, one is to be computed next


@torch.inference_mode()
def run_job(model: LateInteractionModel, device: torch.device, job: Job) -> Vectors:
    """The vectors of each text of a batch: (n_tokens, dim) float32."""
    rows = model(pack(job.ids, job.n_keys).to(device)).cpu().numpy()
    return vectors_of(rows, job)


def batches_at_once(device: torch.device) -> int:
    """How many batches `run_jobs` works on at a time: as many as the caller's torch has threads on a processor."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def run_jobs(
    model: LateInteractionModel, device: torch.device, jobs: Iterable[Job]
) -> Iterator[tuple[Job, Vectors]]:
    """Each job with its result, in order, on a processor: each is computed by one thread (encoder/threads.py), but for
    a job that comes alone and is large: torch's threads share that one. Elsewhere: on_device.py."""
    run = partial(run_job, model, device)
    threads = batches_at_once(device)
    jobs = iter(jobs)
    first = list(islice(jobs, 2))
    alone = len(first) == 1 and _product(model, first[0]) > SHARED_PRODUCT
    if threads == 1 or alone:
        return ((job, run(job)) for job in chain(first, jobs))
    pool = computing_threads(threads)
    return in_order(lambda job: pool.submit(run, job), chain(first, jobs), 2 * threads)


def _product(model: LateInteractionModel, job: Job) -> int:
    return 3 * model.backbone.config.hidden_size**2 * sum(map(len, job.ids))


def worker_devices(device: str | torch.device | None, workers: int | None) -> list[str]:
    """The device of each process; [] or one entry where this process does the work itself.

    "cuda" without a number, or "all", means every GPU, in turn; "cuda:0,cuda:1" these. Raises ArgumentError for what is
    no device's name.
    """
    if workers is not None:
        workers = as_integer(workers, "workers", least=1)
    several = [] if device is None else [name.strip() for name in str(device).split(",")]
    if len(several) > 1:
        if workers not in (None, len(several)):
            raise ArgumentError(f"workers={workers} with {len(several)} devices; leave workers out")
        return [str(parse_device(name)) for name in several]
    if several == ["all"]:
        device = "cuda"
    place = parse_device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    n_gpus = torch.cuda.device_count() if place.type == "cuda" and place.index is None else 0
    if workers is None:
        workers = n_gpus if device is not None else 1
    return [f"cuda:{i % n_gpus}" if n_gpus else str(place) for i in range(workers)]


class LoadedEncoder(Protocol):
    """What a worker process needs of the encoder that it loads."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]: ...


class WorkerPool:
    """One process a device, each with the whole model; started by the first job.

    Processes are spawned, so a script that uses them keeps its own work under `if __name__ == "__main__"`. They end
    with the process that started them, however that ends, and when none of the `users` is left.
    """

    def __init__(self, devices: Sequence[str], load: Callable[..., LoadedEncoder]) -> None:
        """load(device=...) gives a process its encoder."""
        n_cpu = sum(torch.device(device).type == "cpu" for device in devices)
        self.threads = max(1, torch.get_num_threads() // n_cpu) if n_cpu else 1
        self.n_workers = len(devices)
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._devices, self._load = devices, load
        self._starting = threading.Lock()
        self._processes: list[_Process] = []
        # Each process CALLS times; on top the one that has just sent something.
        self._free: LifoQueue[Any] = LifoQueue()
        self._threads = ThreadPoolExecutor(CALLS * self.n_workers, thread_name_prefix="workers")

    @property
    def batches_at_once(self) -> int:
        return self.n_workers * self.threads

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]:
        """Each job with its result, in order. A process takes as many at once as it has threads, and sends the vectors
        of some while it computes others."""
        jobs = iter(jobs)
        groups = iter(lambda: list(islice(jobs, self.threads)), [])
        try:
            self._start()
            for group, found in in_order(
                lambda g: self._threads.submit(self._call, g), groups, CALLS * self.n_workers
            ):
                yield from zip(group, found, strict=True)
        except (EOFError, ConnectionError, FileNotFoundError) as error:  # of a process that is gone
            raise LatewoodError(
                f"one of {self.n_workers} encoding processes ended early (out of memory, or a script without "
                '`if __name__ == "__main__"`); pass fewer devices, or none'
            ) from error

    def leave(self, user: object) -> None:
        """The processes end when their last user leaves."""
        self.users.discard(user)
        if not self.users:
            self._threads.shutdown(cancel_futures=True)
            for process in self._processes:
                process.shutdown()

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been started."""
        return [process.work().pid() for process in self._processes]

    def _start(self) -> None:
        with self._starting:
            if not self._processes:
                with ThreadPoolExecutor(self.n_workers) as together:
                    self._processes = list(together.map(self._started, self._devices))
                for work in CALLS * [process.work() for process in self._processes]:
                    self._free.put(work)

    def _started(self, device: str) -> "_Process":
        process = _Process(ctx=multiprocessing.get_context("spawn"))
        process.start(_start, (device, self.threads, self._load))
        return process

    def _call(self, jobs: list[Job]) -> list[Vectors]:
        work = self._free.get()
        try:
            found: list[Vectors] = work.run(jobs)
            return found
        finally:
            self._free.put(work)


class _Process(BaseManager):
    """Each thread of this process that calls one has a thread of its own there, which also sends what it returns."""

    work: Callable[[], Any]  # a `_Work` there


# In a worker process ----------------------------------------------------------------------------------------

_worker: dict[str, Any] = {}


class _Work:
    def run(self, jobs: list[Job]) -> list[Vectors]:
        with _worker["turn"]:
            encoder: LoadedEncoder = _worker["encoder"]
            return [vectors for _, vectors in encoder.run(jobs)]

    def pid(self) -> int:
        return os.getpid()


_Process.register("work", _Work)


def _start(device: str, threads: int, load: Callable[..., LoadedEncoder]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    torch.set_num_threads(threads)
    # On a GPU what is next waits in its queue.
    _worker["turn"] = threading.Semaphore(1 if torch.device(device).type == "cpu" else CALLS - 1)
    _worker["encoder"] = load(device=device)
