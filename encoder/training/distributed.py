"""torchrun: which process this is, of how many, and what they tell one another. Without a launcher there is one."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "any_says",
    "average",
    "first_says",
    "gather_rows",
    "process_group",
    "rank",
    "say",
    "wait_for_all",
    "world_size",
]

PATIENCE = timedelta(
    hours=4
)  # others wait while the first process evaluates; torch gives up after 10 minutes


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    return dist.get_world_size() if _joined() else 1


@contextmanager
def process_group(threads: int = 0) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields the device that this one is to use.

    threads: of the CPU; 0 leaves their number to torch.
    """
    if threads:
        torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    launched = "RANK" in os.environ and not _joined()
    if cuda:
        torch.cuda.set_device(device)
    if launched:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        if launched:
            dist.destroy_process_group()


def average(tensors: Iterable[Tensor]) -> None:
    """Put into every tensor its mean over all processes, which must each give the same shapes in the same order."""
    if world_size() == 1:
        return
    pending = [(t, dist.all_reduce(t, async_op=True)) for t in tensors]
    for tensor, work in pending:
        work.wait()
        tensor.div_(world_size())


def gather_rows(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Every process's rows, in the order of the processes; no gradient flows through.

    rows: (n, dim), n this process's own number in `counts`, which all processes know.
    """
    if world_size() == 1:
        return [rows]
    padded = rows.new_zeros(max(counts), rows.shape[1])  # gloo gathers equal shapes only
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return [part[:n] for part, n in zip(found, counts, strict=True)]


def any_says(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether one process at least has the flag, on all processes. device: where this one computes."""
    if world_size() == 1:
        return flag
    told = torch.tensor(float(flag), device=device)
    dist.all_reduce(told)
    return bool(told)


def first_says(value: float, device: torch.device | str = "cpu") -> float:
    """The first process's value, on all processes. device: where this one computes."""
    if world_size() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return float(told)


def wait_for_all() -> None:
    """No process goes on before all are here."""
    if world_size() > 1:
        dist.barrier()


def say(line: str) -> None:
    """Print, once for all processes."""
    if rank() == 0:
        print(line, flush=True)
