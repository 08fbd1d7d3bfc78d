"""What `estimate` foretells of a build, and what the build then takes: time, disk, peak memory.

    python benchmarks/estimate.py SOURCE...

Each half runs in a process of its own, one after the other, with the bundled model and its defaults. Time is CPU time
of the process (time.process_time), so that other work on the machine shifts it less than a clock on the wall; with one
thread (OMP_NUM_THREADS=1) the two would be equal on an idle machine. Prints predicted / actual.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from encoder import Encoder
from indexing import Index
from indexing.reading.corpus import read_source
from indexing.writing.estimate import estimate

WHAT = ("tokens", "seconds", "disk_bytes", "memory_bytes")


def main() -> None:
    for source in sys.argv[1:]:
        found = [half(name, source) for name in ("predict", "build")]
        print(f"{Path(source).name}: {found[1]['tokens']:,} tokens")
        for what in WHAT:
            predicted, actual = found[0][what], found[1][what]
            print(f"  {what:13s} {predicted:16,.1f} {actual:16,.1f}   {predicted / actual:.2f}", flush=True)


def half(name: str, source: str) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--{name}", source]
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def predict(source: str) -> dict[str, Any]:
    encoder = Encoder.load()
    encoder.encode_documents(["a text"])
    found = estimate(read_source(source), encoder, clock=time.process_time, resident=resident)
    return {what: getattr(found, what) for what in WHAT}


def resident() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024


def build(source: str) -> dict[str, Any]:
    encoder = Encoder.load()
    encoder.encode_documents(["a text"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docs.index"
        started = time.process_time()
        with Index.create(path, encoder) as index:
            index.add(read_source(source))
            seconds, tokens = time.process_time() - started, index.n_tokens
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux's unit
    return {"tokens": tokens, "seconds": seconds, "disk_bytes": disk, "memory_bytes": memory}


if __name__ == "__main__":
    if sys.argv[1:2] in (["--predict"], ["--build"]):
        print(json.dumps((predict if sys.argv[1] == "--predict" else build)(sys.argv[2])))
    else:
        main()
