"""What a command says of what it kept, where Ctrl-C ends it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from encoder.errors import LatewoodError

__all__ = ["index_kept", "keeping"]


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C within goes on to `main` with what was kept as its text, unless it says so itself."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or kept()) from None


def index_kept(folder: Path) -> str:
    from indexing import Index

    try:
        with Index.open(folder) as index:
            return f"{folder} is whole and holds {len(index):,} documents; run the same again to go on"
    except LatewoodError:  # no index yet
        return "nothing was kept"
