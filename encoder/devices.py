"""Devices by name."""

from typing import TYPE_CHECKING

from encoder.errors import ArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["as_device"]


def as_device(device: "str | torch.device") -> "torch.device":
    """The torch device of that name, with its number. Raises ArgumentError, with torch's reason, for one that this
    machine has not."""
    import torch  # takes seconds, and most who open an index name no device

    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch says of one that is not there
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"device={str(device)!r} cannot be used ({reason}); pass one that torch has, or leave it out"
        ) from None
