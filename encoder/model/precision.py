"""How a model computes: float32, half precision, or 8-bit integers in its linear layers on a CPU."""

import warnings
from typing import TypeVar

import torch
from torch import Tensor, nn

from encoder.arguments import shown
from encoder.errors import ArgumentError

__all__ = ["PRECISIONS", "Int8Linear", "apply_precision", "default_precision", "encoding_precision"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
Model = TypeVar("Model", bound=nn.Module)
OLDEST_BF16 = (8, 0)  # Ampere
TINY = 1e-12  # keeps the scale of a row of zeros above zero
# Of inputs as unsigned bytes: x86 multiplies unsigned by signed ones. Where both are signed and the processor has
# no AMX, oneDNN's products are a plain loop, thousands of times as slow.
MIDDLE = 128


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: weights scaled by row, inputs by token as they come.

    A scale for each token, and not for a batch of them, is what keeps a text's vectors independent of
    the texts beside it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # Without VNNI the processor adds two products in 16 bits, which full 8-bit weights overflow.
        top = 127 if torch.cpu._is_vnni_supported() else 63
        weight = linear.weight.detach().float()
        self.scale = weight.abs().amax(1).div_(top).clamp_(min=TINY)  # (out,)
        rows = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rows, None)
        self.zeros = torch.zeros(len(rows), dtype=torch.int32)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(total_tokens, in) float32 → (total_tokens, out) float32."""
        scale = x.abs().amax(-1, keepdim=True).div_(127).clamp_(min=TINY)  # (total_tokens, 1)
        given = (x / scale).round_().add_(MIDDLE).to(torch.uint8), 1.0, MIDDLE
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *given, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = out.mul_(scale)
        return out if self.bias is None else out.add_(self.bias)


def default_precision(device: torch.device) -> str:
    """Half precision pays on a GPU, whose packed attention kernels know nothing else: bf16, or fp16 where it is too
    old for that; on a CPU float32."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= OLDEST_BF16 else "fp16"


def encoding_precision(device: torch.device) -> str:
    """`default_precision`, for an encoder; one line says so where it is not the best there is."""
    precision = default_precision(device)
    if precision == "fp16":
        warnings.warn(f"{device} is too old for bf16; it encodes in fp16", RuntimeWarning, stacklevel=3)
    return precision


def apply_precision(model: Model, precision: str, device: torch.device) -> Model:
    """The model on its device in that precision; its parameters are changed in place.

    Raises ArgumentError for an unknown name, and for int8 elsewhere than on an x86 CPU.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ArgumentError(f"precision={shown(precision)}; pass one of {', '.join(PRECISIONS)}")
    if precision == "int8" and (device.type != "cpu" or not _has_int8_products()):
        here = f"the device is {device}" if device.type != "cpu" else "this torch has no such products"
        raise ArgumentError(f"precision='int8' is for x86 CPUs, {here}; pass bf16 or fp32")
    model = model.to(device, PRECISIONS[precision]).eval()
    if precision == "int8":
        _replace_linears(model)
    return model


def _has_int8_products() -> bool:
    return hasattr(torch.ops.onednn, "qlinear_prepack")


def _replace_linears(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            _replace_linears(child)
