"""How far long work is: told to a callable, step by step; shown as a bar, as lines or as JSON."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from encoder.arguments import shown
from encoder.closing import Closing
from encoder.errors import ArgumentError

__all__ = ["EVERY", "Progress", "Step", "Told", "progress_as_json", "progress_shown"]

EVERY = 4.0  # seconds between lines

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """phase: what is done now, as "encoding". done, total: of `unit`s; total is None where nobody knows it. started:
    when the phase began; at: when so many were done, both by `time.monotonic`. ended: of this phase the last."""

    phase: str
    unit: str
    done: int
    total: int | None
    started: float
    at: float
    ended: bool = False

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.done / max(self.at - self.started, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds still to go at this rate, where that can be told."""
        if self.total is None or not self.done:
            return None
        return max(0.0, self.at + (self.total - self.done) / self.rate - time.monotonic())

    def __str__(self) -> str:
        if self.total == 1:  # one thing has no rate
            return f"{self.phase}, {self.seconds:,.0f} s"
        of = "" if self.total is None else f" of {self.total:,} ({100 * self.done // max(self.total, 1)} %)"
        left = "" if self.left is None or self.ended else f", {self.left:,.0f} s left"
        return f"{self.phase}: {self.done:,}{of}, {self.rate:,.1f} {self.unit}/s, {self.seconds:,.0f} s{left}"


Told: TypeAlias = Callable[[Step], object]
"""What long work takes as `progress`: called with each step, in the thread that does the work."""


class Progress(Closing, Generic[T]):
    """Counts what is taken from `items`, or what `update` is told, and tells it. total: of items, where known and they
    have no length."""

    def __init__(
        self,
        items: Iterable[T] | None = None,
        *,
        phase: str,
        unit: str,
        told: Told | None,
        total: int | None = None,
    ) -> None:
        if told is not None and not callable(told):
            raise ArgumentError(
                f"progress={shown(told)}; pass a function that is called with each Step, as progress_shown(), or None"
            )
        self.items = items
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self.done = 0
        self._phase, self._unit, self._told = phase, unit, told
        self._held = False
        self._started = time.monotonic()
        self._tell()

    def update(self, n: int = 1) -> None:
        self.done += n
        self._tell()

    def close(self) -> None:
        self._tell(ended=True)
        self._told = None

    def _tell(self, *, ended: bool = False) -> None:
        if self._told is not None:
            times = self._started, time.monotonic()
            self._told(Step(self._phase, self._unit, self.done, self.total, *times, ended))

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


def progress_shown() -> Told | None:
    """For `progress=`: bars where standard error is a terminal, else a line every few seconds."""
    if sys.stderr is None:
        return None
    return _Bars() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else _Lines(str)


def progress_as_json() -> Told | None:
    """For `progress=`: on standard error an object a line, every few seconds and where a phase begins and ends."""

    def line(step: Step) -> str:
        figures = {"seconds": round(step.seconds, 2), "rate": round(step.rate, 2)}
        left = None if step.left is None else round(step.left, 2)
        shown = {"phase": step.phase, "done": step.done, "total": step.total, "unit": step.unit}
        return json.dumps(shown | figures | {"left": left, "ended": step.ended})

    return None if sys.stderr is None else _Lines(line, ends=True)


class _Clock:
    """Says the newest step again by the clock, so that work that is slow between two is seen to go on."""

    def __init__(self) -> None:
        self._open: dict[str, Step] = {}  # phases under way, the innermost last
        self._last = time.monotonic()
        self._ended = threading.Event()

    def __call__(self, step: Step) -> None:
        if step.ended:
            self._open.pop(step.phase, None)
        elif self._open:
            self._open[step.phase] = step
        else:
            self._open[step.phase] = step
            self._ended = threading.Event()
            threading.Thread(target=self._by_clock, args=(self._ended,), name="progress", daemon=True).start()
        if not self._open:
            self._ended.set()

    def _by_clock(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, self._last + EVERY - time.monotonic())):
            for step in list(self._open.values())[-1:]:
                self._say(step)
            self._last = time.monotonic()

    def _say(self, step: Step) -> None:
        raise NotImplementedError


class _Lines(_Clock):
    """ends: also where a phase begins and ends; else only a phase of which something was said has a last line."""

    def __init__(self, line: Callable[[Step], str], *, ends: bool = False) -> None:
        super().__init__()
        self._line, self._ends = line, ends
        self._said: set[str] = set()

    def __call__(self, step: Step) -> None:
        begins = step.phase not in self._open
        super().__call__(step)
        if (self._ends and (begins or step.ended)) or (step.ended and step.phase in self._said):
            self._say(step)
            self._last = time.monotonic()
            self._said.discard(step.phase)

    def _say(self, step: Step) -> None:
        self._said.add(step.phase)
        try:
            print(self._line(step), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # a reader that has gone, a closed file: no reason to stop the work
            self._ended.set()


class _Bars(_Clock):
    def __init__(self) -> None:
        super().__init__()
        self._bars: dict[str, Any] = {}

    def __call__(self, step: Step) -> None:
        super().__call__(step)
        if step.phase not in self._bars:
            from tqdm import tqdm

            self._bars[step.phase] = tqdm(total=step.total, unit=step.unit, desc=step.phase)
        bar = self._bars[step.phase]
        bar.update(step.done - bar.n)
        if step.ended:
            self._bars.pop(step.phase).close()

    def _say(self, step: Step) -> None:
        if bar := self._bars.get(step.phase):
            bar.refresh()
