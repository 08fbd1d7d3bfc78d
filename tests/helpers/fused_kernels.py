"""The fused kernels on arguments of every kind that the encoder may give them: `cases()`.

python -m tests.helpers.fused_kernels, under TRITON_INTERPRET=1, compares them with torch's functions.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from encoder.model.fused import PLAIN

__all__ = ["SHAPES", "cases"]

# (hidden size, heads, intermediate size): bundled, base and large, and one of no power of two anywhere.
SHAPES = [(256, 4, 384), (768, 12, 1152), (1024, 16, 2624), (60, 3, 50)]


def cases(
    dtypes: tuple[torch.dtype, ...], shapes: list[tuple[int, int, int]] = SHAPES, tokens: int = 3
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The name of one of `Passes`, and arguments of it."""
    made = torch.Generator().manual_seed(0)

    def rows(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    for (width, heads, inner), dtype in itertools.product(shapes, dtypes):
        angles = 100 * rows(tokens, width // heads // 2)
        yield "rotate", (rows(tokens, 3, heads, width // heads).to(dtype), angles.cos(), angles.sin())
        yield "geglu", (rows(tokens, 2 * inner).to(dtype),)
        for bias in (None, rows(width).to(dtype)):
            x, delta, weight = 3 * rows(tokens, width), rows(tokens, width) + 5, 1 + rows(width) / 2
            yield "add_norm", (x.to(dtype), delta.to(dtype), weight.to(dtype), bias, 1e-5)


def main() -> None:
    from encoder.model import triton_fused

    done = 0
    with torch.no_grad():
        for name, given in cases((torch.float32, torch.float16)):
            copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
            exact = [a.double() if isinstance(a, torch.Tensor) else a for a in given]
            found, plain = getattr(triton_fused, name)(*given), getattr(PLAIN, name)(*copies)
            if name == "rotate":  # whose plain function computes in float32
                exact[0] = exact[0].float()
            best = getattr(PLAIN, name)(*exact)
            for ours, theirs, wanted in zip(*map(as_tuple, (found, plain, best)), strict=True):
                assert ours.dtype == theirs.dtype
                errors = [float((rows.double() - wanted.double()).abs().max()) for rows in (ours, theirs)]
                # No worse than twice what torch's own rounding costs.
                assert errors[0] <= 2 * errors[1] + 1e-5, (name, [a.shape for a in given[:1]], errors)
            done += 1
    print("equal", done)


def as_tuple(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


if __name__ == "__main__":
    main()
