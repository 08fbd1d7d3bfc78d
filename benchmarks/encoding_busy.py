"""Encoding on all cores of a machine, idle and beside one process that spins: encoding.py --busy.

Ways to use the cores take turns, each a process of its own that stays; a turn idle and a turn beside the spinning
process follow each other. Speeds are tokens per second of the clock, medians over turns; ratios to one thread are
medians of the turns' own. "others" says how many cores the rest of the machine took meanwhile (worker processes are
counted in): an idle column means something where that is near 0.
"""

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from encoding import Worker

__all__ = ["WAYS", "compare", "table"]

# way: contender of encoding_worker.py, whether it has all cores, and what is set before torch is loaded
WAYS: dict[str, tuple[str, bool, dict[str, str]]] = {
    "one thread": ("latewood", False, {}),
    "batches on threads (the default)": ("latewood", True, {}),
    "operations on torch's threads": ("operations", True, {}),
    "the same, OMP_WAIT_POLICY=PASSIVE": ("operations", True, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "worker processes": ("processes", True, {}),
}
Turn = tuple[float, float]  # tokens per second, cores taken by others


def compare(folder: Path, texts: Path, names: list[str], turns: int) -> dict[str, Any]:
    """Speeds of each way on each set of texts, idle and busy: {set: {way: {"idle": [Turn], "busy": [Turn]}}}."""
    cores = os.cpu_count() or 1
    workers = {
        way: Worker(contender, folder, texts, cores if whole else 1, environment)
        for way, (contender, whole, environment) in WAYS.items()
    }
    found: dict[str, Any] = {name: {way: defaultdict(list) for way in WAYS} for name in names}
    for name in names:
        for worker in workers.values():  # what the first call loads is not timed
            worker.ask(set=name, batch=1)
        for _ in range(turns):
            for column in ("idle", "busy"):
                spinning = [sys.executable, "-c", "while True: pass"]
                process = subprocess.Popen(spinning) if column == "busy" else None
                try:
                    for way, worker in workers.items():
                        found[name][way][column].append(_turn(worker, name, process is not None))
                finally:
                    if process is not None:
                        process.kill()
                        process.wait()
    for worker in workers.values():
        worker.stop()
    return found


def _turn(worker: Worker, name: str, busy: bool) -> Turn:
    before, started = _taken(), time.perf_counter()
    answer = worker.ask(set=name, batch=1)
    clock = time.perf_counter() - started
    others = (_taken() - before - answer["cpu"]) / clock - busy
    return answer["tokens"] / answer["wall"], max(0.0, others)


def _taken() -> float:
    """Seconds of all processors together that were not idle."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def table(found: dict[str, Any]) -> str:
    """As Markdown, a row a way: speed, and ratio to one thread in the same column."""
    lines = []
    for name, ways in found.items():
        lines += [f"\n| {name} | idle | one core busy | others, idle / busy |", "|---|---|---|---|"]
        for way, columns in ways.items():
            cells, others = [], []
            for column in ("idle", "busy"):
                own, one = columns[column], ways["one thread"][column]
                ratio = statistics.median(a / b for (a, _), (b, _) in zip(own, one, strict=True))
                cells.append(f"{statistics.median(speed for speed, _ in own):,.0f} ({ratio:.2f})")
                others.append(f"{statistics.median(other for _, other in own):.1f}")
            lines.append(f"| {way} | {' | '.join(cells)} | {' / '.join(others)} |")
    return "\n".join(lines)
