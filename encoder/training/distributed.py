"""torchrun: which process this is, of how many, and means over all of them. Without a launcher there is one."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average", "process_group", "rank", "world_size"]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    return dist.get_world_size() if _joined() else 1


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields the device that this one is to use."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    launched = "RANK" in os.environ and not _joined()
    if cuda:
        torch.cuda.set_device(device)
    if launched:
        dist.init_process_group("nccl" if cuda else "gloo")
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
