"""The `latewood` command.

Exit codes: 2 for a user's mistake, 1 for the machine's fault (a full disk), both with one line on standard error;
130 after Ctrl-C, with one line that says what was kept; 141 where the reader of standard output has gone.
"""

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retriever.cli.commands import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    if name == "app":
        from retriever.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command of `sys.argv` and exit. Ctrl-C is a line from the first moment: nothing is imported before."""
    # torch's and FAISS's threads would wait for each other by spinning, which beside another busy program takes several
    # times as long; they read this when they are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Most objects of a short command are its modules', which stay: looking for garbage among them takes 0.03 s.
    gc.set_threshold(50_000)
    try:
        from retriever.cli.running import run

        code = run()
    except KeyboardInterrupt as stop:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # again, while threads and workers end: at once
        code = 130
        print(f"latewood: interrupted; {str(stop) or 'nothing was begun'}", file=sys.stderr)
    sys.exit(code)
