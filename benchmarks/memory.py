"""What a process that searches an index holds, on Linux: private memory and what the searcher counts of it by name.

    python benchmarks/memory.py INDEX QUERY...

Prints `Private_Dirty` of /proc/self/smaps_rollup, in MiB, after each step: what no other process shares
and no file backs.
"""

import sys
from pathlib import Path


def main() -> None:
    folder, *queries = sys.argv[1:]
    say("Python")
    from retriever import Searcher

    say("retriever imported")
    with Searcher.open(folder) as searcher:
        say("index opened")
        searcher.search(queries[0])
        say("first search, with its encoder")
        for query in 20 * queries:
            searcher.search(query)
        say("idle after more searches")
        for name, size in searcher.memory().items():
            print(f"  {name:20s} {size / 2**20:8.1f}")
    print("torch loaded" if "torch" in sys.modules else "torch not loaded")


def say(step: str) -> None:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
    print(f"{step:32s} {kib / 1024:8.1f}", flush=True)


if __name__ == "__main__":
    main()
