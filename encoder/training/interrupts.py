"""Ctrl-C and SIGTERM while a run trains: the step ends whole, so that its state can be saved."""

import signal
import threading
import time
from types import FrameType, TracebackType

__all__ = ["Interrupts"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within `with`, a signal is noted in `caught`; a second Ctrl-C, or any signal while `at_once`, ends at once.

    The second is one that comes a second later: torchrun passes on what the terminal has sent to all already.
    A signal that is ignored (nohup) or that another thread would get stays as it is.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.at_once = False
        self.since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.caught is not None and number == signal.SIGINT and now > self.since + 1
        if self.caught is None:
            self.caught, self.since = number, now
        if again or self.at_once:
            self.at_once = False
            raise KeyboardInterrupt
