"""How long an update of an index takes: on a synthetic tree, first, unchanged, and after a few edits.

Run: python benchmarks/fresh.py --files 10000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def update(tree: Path, out: Path) -> str:
    """Seconds of the whole command, and what it said."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "retriever.cli", "index", str(tree), "--out", str(out), "--update"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-2]
    return f"{time.perf_counter() - started:6.1f} s  {told}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    n = parser.parse_args().files
    with tempfile.TemporaryDirectory() as place:
        tree, out = Path(place) / "tree", Path(place) / "tree.index"
        for i in range(n):
            file = tree / f"package{i // 1000}" / f"part{i // 50 % 20}" / f"module{i}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"def f{i}(x):\n    return x + {i}\n")
        (tree / ".gitignore").write_text("*.log\nbuild/\n")
        print("first    ", update(tree, out), flush=True)
        for name in ("unchanged", "unchanged"):
            print(name, update(tree, out), flush=True)
        for file in sorted(tree.rglob("module*1.py"))[:10]:
            file.write_text(file.read_text().replace("x +", "x *"))
        print("10 edits ", update(tree, out), flush=True)
        (tree / "package1").rename(tree / "renamed")
        print("1,000 renamed", update(tree, out), flush=True)


if __name__ == "__main__":
    main()
