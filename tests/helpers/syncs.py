"""Waiting for a device, caught where there is none: `with no_sync(copies=1): ...` on device "cpu"."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
COPIES = {"cpu", "numpy", "tolist", "item", "__array__"}


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


class _Copies(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in COPIES and name != "numpy":  # which only looks at what `cpu` has brought
            self.made += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync(copies: int | None = 0) -> Iterator["_Copies"]:
    """Raises SyncError where torch would wait for a device, but for `copies` copies of tensors from there; None for
    any number, which is counted."""
    counted = _Copies()
    with counted, _NoWaits():
        yield counted
    if copies is not None and counted.made != copies:
        raise SyncError(f"{counted.made} tensors were copied from the device, not {copies}")
