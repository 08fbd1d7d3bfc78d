"""Packages that a library imports when it finds them, though nothing that is used here needs them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hidden"]


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """As if packages were not installed, but for those that are imported already. For a program's own process: whoever
    imports Latewood as a library may need them."""
    hide = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hide))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hide:
            del sys.modules[name]
