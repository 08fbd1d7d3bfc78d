"""Builds the Triton kernels for a real GPU on a machine that has none: python -m tests.helpers.compile_kernels 90.

The real host function runs on the processor's tensors. A stand-in driver names the target, and `warmup=True` builds PTX
and cubin, with the signature and the specialisations that the actual arguments give, and launches nothing.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from retriever.kernels import triton_codes
from retriever.kernels.torch_codes import Codes, Tables


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
    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.built: list[Any] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        def build(*args: Any, **named: Any) -> None:
            self.built.append(self.kernel.run(*args, grid=grid, warmup=True, **named))

        return build


def main(capability: int) -> None:
    driver.set_active(NoGpu(capability))
    kernel = CompileOnly(triton_codes._residual_maxsim)
    triton_codes._residual_maxsim = kernel
    for n_query, m, sharpness in ((1, 8, 0.0), (7, 16, 2.5), (40, 16, 0.0), (40, 16, 2.5)):
        tables = Tables(
            torch.zeros(4, n_query),
            torch.zeros(m, 256, n_query),
            torch.zeros(256),
            torch.zeros(n_query),
            sharpness,
        )
        ids, codes = torch.zeros(5, dtype=torch.int32), torch.zeros(5, m + 1, dtype=torch.uint8)
        triton_codes.residual_maxsim(tables, Codes(ids, codes, torch.tensor([0, 5])), torch.tensor([0]))
    for one in kernel.built:
        assert f"sm_{capability}" in one.asm["ptx"]
        assert one.asm["cubin"].startswith(b"\x7fELF")
        # Rows of whole vectors of 4 floats, not single ones.
        narrow, wide = one.asm["ptx"].count("ld.global.b32"), one.asm["ptx"].count("ld.global.v")
        assert wide >= 8
        print(f"sm_{capability}: {len(one.asm['cubin']):,} bytes, loads {narrow} narrow, {wide} wide")
    print("compiled", len(kernel.built))


if __name__ == "__main__":
    main(int(sys.argv[1]))
