"""Devices by name, numbers on their way there, and what is said of one whose memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoder.arguments import shown
from encoder.errors import ArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["as_device", "parse_device", "roomy", "sent", "why_full"]


def as_device(device: "str | torch.device") -> "torch.device":
    """The torch device of that name, with its number. Raises ArgumentError, with torch's reason, for one that this
    machine has not."""
    import torch  # takes seconds, and most who open an index name no device

    try:
        return torch.empty(0, device=parse_device(device)).device
    except (RuntimeError, AssertionError) as error:  # what torch says of one that is not there
        raise _refused(device, error) from None


def parse_device(device: "str | torch.device") -> "torch.device":
    """The torch device of that name, whether it is there or not. Raises ArgumentError for what is no name."""
    import torch

    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _refused(device, error) from None


def sent(array: npt.NDArray[Any], device: "torch.device") -> "torch.Tensor":
    """A copy of an array on a device. Nothing waits for it, nor does it wait for what the device still computes."""
    import torch

    if device.type != "cuda":
        return torch.tensor(array).to(device, non_blocking=True)
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    # Page-locked: from other memory a copy begins when all is done that was asked of the device before.
    here = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    here.numpy()[...] = array
    return here.to(device, non_blocking=True)


@contextmanager
def roomy(consequence: str) -> Iterator[None]:
    """Raises ArgumentError where a device's memory runs out: `consequence`, with {reason} in it."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ArgumentError(consequence.format(reason=why_full(error))) from None


def why_full(error: BaseException) -> str:
    """The first sentence of torch's, which goes on with numbers."""
    return str(error).partition(". ")[0]


def _refused(device: "str | torch.device", error: Exception) -> ArgumentError:
    reason = str(error).partition("\n")[0]
    return ArgumentError(
        f"device={shown(str(device))} cannot be used ({reason}); pass one that torch has, or leave it out"
    )
