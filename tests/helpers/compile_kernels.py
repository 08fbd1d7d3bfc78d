"""Builds the Triton kernels for a real GPU on a machine that has none: python -m tests.helpers.compile_kernels 90.

The real host function runs on the processor's tensors. A stand-in driver names the target, and `warmup=True` builds PTX
and cubin, with the signature and the specialisations that the actual arguments give, and launches nothing.
"""

import importlib.util
import itertools
import sys
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from encoder.model import triton_fused
from retriever.kernels import triton_codes
from retriever.kernels.torch_codes import Codes, Scan, Tables
from tests.helpers.fused_kernels import SHAPES, cases


class NoGpu:
    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class CompileOnly:
    """Stands in for a kernel of a module, so that its host function builds and launches nothing."""

    def __init__(self, module: Any, name: str, built: list[Any]) -> None:
        self.kernel = getattr(module, name)
        self.built = built
        setattr(module, name, self)

    def __getitem__(self, grid: tuple[int]) -> Any:
        def build(*args: Any, **named: Any) -> None:
            self.built.append(self.kernel.run(*args, grid=grid, warmup=True, **named))

        return build


def main(capability: int, fused: Any) -> None:
    driver.set_active(NoGpu(capability))
    for kind, built in (("fused", build_fused(fused)), ("maxsim", build_maxsim())):
        for one in built:
            assert f"sm_{capability}" in one.asm["ptx"]
            assert one.asm["cubin"].startswith(b"\x7fELF")
            narrow, wide = one.asm["ptx"].count("ld.global.b32"), one.asm["ptx"].count("ld.global.v")
            # Rows of whole vectors of 4 floats, not single ones.
            assert kind != "maxsim" or wide >= 8
            print(
                f"sm_{capability}: {one.metadata.name}, {len(one.asm['cubin']):,} bytes, "
                f"loads {narrow} narrow, {wide} wide"
            )
        print("compiled", kind, len(built))


def build_maxsim() -> list[Any]:
    built: list[Any] = []
    CompileOnly(triton_codes, "_residual_maxsim", built)
    scan = Scan(np.zeros(1, np.int64), np.array([0, 5]), torch.device("cpu"))
    for (n_query, m, sharpness), batch in itertools.product(
        ((1, 8, 0.0), (7, 16, 2.5), (40, 16, 0.0), (40, 16, 2.5)), (1, 64)
    ):
        tables = Tables(
            torch.zeros(4, batch, n_query),
            torch.zeros(m, 256, batch, n_query),
            torch.zeros(256, 2),
            torch.zeros(batch, n_query),
            sharpness,
        )
        ids, codes = torch.zeros(5, dtype=torch.int32), torch.zeros(5, m + 1, dtype=torch.uint8)
        worth = None if batch == 1 else torch.ones(batch, 1, dtype=torch.bool)
        triton_codes.residual_maxsim(tables, Codes(ids, codes, torch.tensor([0, 5])), scan, worth)
    return built


def build_fused(module: Any) -> list[Any]:
    built: list[Any] = []
    for name in ("_rotate", "_geglu", "_add_norm"):
        CompileOnly(module, name, built)
    for name, given in cases((torch.bfloat16,)):
        getattr(module, name)(*given)
    for name, given in cases((torch.float16, torch.float32), shapes=SHAPES[:1]):
        getattr(module, name)(*given)
    return built


def load(path: str) -> Any:
    """A module from a file of its own, in place of the encoder's."""
    spec = importlib.util.spec_from_file_location("altered", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(int(sys.argv[1]), load(sys.argv[2]) if len(sys.argv) > 2 else triton_fused)
