"""Waiting for a device, caught where there is none: `with no_sync(copies=1): ...` on device "cpu"."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SyncError", "no_sync"]

# What gives a number, or a shape, that only the device knows.
WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
COPIES = {"cpu", "tolist", "item", "__array__"}  # not "numpy", which only looks at what `cpu` has brought
MADE_THERE = {"tensor", "as_tensor", "asarray"}  # of numbers that lie in ordinary memory
PLACES = (str, torch.device)


class SyncError(AssertionError):
    pass


class _NoWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [
            a for a in (args[1] if name in ("index", "index_put", "index_put_") else ()) if a is not None
        ]
        if (
            name in WAITS
            or any(mask.dtype in (torch.bool, torch.uint8) for mask in masks)
            or (name == "repeat_interleave" and not (kwargs or {}).get("output_size"))
        ):
            raise SyncError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class _Counter:
    """Copies from the device, of all threads, and copies to it that may yet wait."""

    def __init__(self, uploads: int) -> None:
        self.made, self.uploads = 0, uploads
        self.lock = threading.Lock()


class _Copies(TorchFunctionMode):
    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, named = getattr(func, "__name__", ""), kwargs or {}
        if name in COPIES:
            with self.counter.lock:
                self.counter.made += 1
        there = isinstance(named.get("device", args[1] if len(args) > 1 and name == "to" else None), PLACES)
        # A copy to a GPU waits for all that it still computes, unless it is of page-locked memory and says so.
        if there and (name in MADE_THERE or (name == "to" and not named.get("non_blocking"))):
            with self.counter.lock:
                self.counter.uploads -= 1
            if self.counter.uploads < 0:
                raise SyncError(f"{name} with device=... waits for the device; use encoder.devices.sent")
        return func(*args, **named)


@contextmanager
def no_sync(copies: int | None = 0, uploads: int = 0) -> Iterator[_Counter]:
    """Raises SyncError where torch would wait for a device, in this thread or in one that is started meanwhile.

    copies: of tensors from there, which there must be; None for any number, which is counted. uploads: copies to it
    that may wait."""
    counter = _Counter(uploads)
    run = threading.Thread.run

    def watched(thread: threading.Thread) -> None:  # modes are of a thread
        with _Copies(counter), _NoWaits():
            run(thread)

    with patch.object(threading.Thread, "run", watched), _Copies(counter), _NoWaits():
        yield counter
    if copies is not None and counter.made != copies:
        raise SyncError(f"{counter.made} tensors were copied from the device, not {copies}")
