"""Kernels of Triton that launch nothing, and note where they would be."""

from contextlib import contextmanager

import pytest
import torch

__all__ = ["noted"]


def noted(monkeypatch: pytest.MonkeyPatch, module: object, *kernels: str) -> list:
    """In place of a module's kernels: a list of (grid, torch's current device, arguments), one a launch."""
    current, launched = ["cuda:0"], []

    @contextmanager
    def device(wanted):
        current.append(str(wanted))
        yield
        current.pop()

    class Recorder:
        def __getitem__(self, grid):
            return lambda *given, **named: launched.append((grid, current[-1], given))

    monkeypatch.setattr(torch.cuda, "device", device)
    for kernel in kernels:
        monkeypatch.setattr(module, kernel, Recorder())
    return launched
