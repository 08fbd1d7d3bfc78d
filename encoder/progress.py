"""How far long work is: a bar on a terminal, a line every few seconds elsewhere, nothing unless asked for."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["EVERY", "Progress"]

EVERY = 5.0  # seconds between lines

T = TypeVar("T")


class Progress(Generic[T]):
    """Counts what is taken from `items`, or what `update` is told, and says so on standard error.

    Lines come by the clock, so that work that is slow between two items is seen to go on; a terminal that cannot
    move its cursor (TERM=dumb) gets them too. total: of items, where known and they have no length.
    """

    def __init__(
        self, items: Iterable[T] | None = None, *, desc: str, unit: str, show: bool, total: int | None = None
    ) -> None:
        self.items = items
        self.desc = desc
        self.unit = unit
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self.done = 0
        self._bar: Any = None
        self._ended = threading.Event()
        self._held = False
        self._said = False
        self._started = time.monotonic()
        if not show or sys.stderr is None:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, unit=unit, desc=desc)
        else:
            threading.Thread(target=self._say_until_ended, name="progress", daemon=True).start()

    def update(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._ended.is_set() and self._said:
            self._say()
        self._ended.set()

    def __iter__(self) -> Iterator[T]:
        try:
            for item in () if self.items is None else self.items:
                yield item
                self.update()
        finally:
            if not self._held:  # else work goes on after the last item, until the `with` block ends
                self.close()

    def __enter__(self) -> "Progress[T]":
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say_until_ended(self) -> None:
        while not self._ended.wait(EVERY):
            self._said = True
            self._say()

    def _say(self) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        of = "" if self.total is None else f" of {self.total:,} ({100 * self.done // max(self.total, 1)} %)"
        try:
            print(
                f"{self.desc}: {self.done:,}{of}, {self.done / seconds:,.1f} {self.unit}/s, {seconds:,.0f} s",
                file=sys.stderr,
                flush=True,
            )
        except (OSError, ValueError):  # a reader that has gone, a closed file: no reason to stop the work
            self._ended.set()
