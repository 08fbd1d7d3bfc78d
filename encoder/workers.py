"""Batches encoded by several processes, one a device, with results in the order of the batches."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.errors import ArgumentError, LatewoodError
from encoder.model.packing import pack
from encoder.pooling import pool_tokens

if TYPE_CHECKING:
    from encoder.model.late_interaction import LateInteractionModel

__all__ = ["Job", "Vectors", "WorkerPool", "run_job", "worker_devices"]

Vectors = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Job:
    """A batch of tokenised texts. places: whose they are; kept: see TokenizedTexts; pool_factor: 1 for none."""

    places: list[int]
    ids: list[list[int]]
    n_keys: list[int]
    kept: list[npt.NDArray[np.bool_]] | None
    pool_factor: int


@torch.inference_mode()
def run_job(model: "LateInteractionModel", device: torch.device, job: Job) -> Vectors:
    """The vectors of each text of a batch: (n_tokens, dim) float32."""
    rows = model(pack(job.ids, job.n_keys).to(device)).cpu().numpy()
    vectors = np.split(rows, np.cumsum([len(i) for i in job.ids])[:-1])
    if job.kept is not None:
        vectors = [v[k] for v, k in zip(vectors, job.kept, strict=True)]
    if job.pool_factor > 1:
        vectors = [pool_tokens(v, job.pool_factor) for v in vectors]
    return vectors


def worker_devices(device: str | torch.device | None, workers: int | None) -> list[str]:
    """The device of each process; [] or one entry where this process does the work itself.

    "cuda" without a number means every GPU, in turn.
    """
    if workers is not None and workers < 1:
        raise ArgumentError(f"workers={workers}; pass at least 1")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    n_gpus = torch.cuda.device_count() if place.type == "cuda" and place.index is None else 0
    if workers is None:
        workers = n_gpus if device is not None else 1
    return [f"cuda:{i % n_gpus}" if n_gpus else str(place) for i in range(workers)]


class WorkerPool:
    """One process a device, each with the whole model; started by the first job.

    Processes are spawned, so a script that uses them keeps its own work under `if __name__ == "__main__"`.
    """

    def __init__(self, devices: Sequence[str], arguments: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        waiting: Queue[str] = context.Queue()
        for device in devices:
            waiting.put(device)
        n_cpu = sum(torch.device(device).type == "cpu" for device in devices)
        threads = max(1, torch.get_num_threads() // max(1, n_cpu))
        self.n_workers = len(devices)
        self._executor = ProcessPoolExecutor(
            self.n_workers, context, initializer=_start, initargs=(waiting, threads, arguments)
        )

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Vectors]]:
        """Each job with its result, in order. Only a few are under way at once, whatever the corpus."""
        under_way: deque[tuple[Job, Future[Vectors]]] = deque()
        try:
            for job in jobs:
                under_way.append((job, self._executor.submit(_run, job)))
                if len(under_way) > 3 * self.n_workers:
                    first, future = under_way.popleft()
                    yield first, future.result()
            while under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise LatewoodError(
                f"one of {self.n_workers} encoding processes ended early (out of memory, or a script without "
                '`if __name__ == "__main__"`); pass fewer devices, or none'
            ) from error
        finally:
            for _, future in under_way:
                future.cancel()

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


# In a worker process ----------------------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start(waiting: "Queue[str]", threads: int, arguments: dict[str, Any]) -> None:
    from encoder.encode import Encoder  # it imports this module

    torch.set_num_threads(threads)
    _worker["encoder"] = Encoder.load(**arguments, device=waiting.get())


def _run(job: Job) -> Vectors:
    encoder = _worker["encoder"]
    return run_job(encoder.model, encoder.device, job)
