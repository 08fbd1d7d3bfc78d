"""How long `import latewood` takes beyond starting Python, in turns with `pass`.

Run: python benchmarks/starting.py [--turns 30]

Each start is a process of its own. What counts is the difference of the medians (goal: at most 0.1 s) and their ratio,
which another program on the machine shifts less.
"""

import argparse
import statistics
import subprocess
import sys
import time

WAYS = ("pass", "import latewood")


def measure(turns: int) -> dict[str, float]:
    """Median seconds of each way."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns + 1):
        for way, some in times.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", way], check=True)
            if turn:  # the first one reads files that later ones find in memory
                some.append(time.perf_counter() - started)
    return {way: statistics.median(some) for way, some in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=30)
    found = measure(parser.parse_args().turns)
    for way, seconds in found.items():
        beyond = seconds - found["pass"]
        print(
            f"{way:30s} {1000 * seconds:8.1f} ms, {1000 * beyond:8.1f} more, {seconds / found['pass']:.2f} times"
        )


if __name__ == "__main__":
    main()
