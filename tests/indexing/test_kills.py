"""A writer killed at random instants, and readers beside a writer.

Short here. `scripts/crash-test` runs the same for longer: LATEWOOD_KILLS says how many kills, LATEWOOD_READ_SECONDS how
many seconds of reading.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
KILLS = int(os.environ.get("LATEWOOD_KILLS", "15"))
SECONDS = float(os.environ.get("LATEWOOD_READ_SECONDS", "2"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills what it forked")


def run(*arguments: object) -> dict[str, Any]:
    """Runs tests/helpers/kills.py in a process that has not started FAISS's threads, so that it may fork."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.helpers.kills", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
def test_a_writer_killed_at_any_instant_leaves_the_last_commit(tmp_path: Path) -> None:
    told = run("kill", tmp_path, KILLS)
    assert sum(told["struck in"].values()) == KILLS
    assert told["steps"] > KILLS
    assert len(told["struck in"]) > 2


@pytest.mark.slow
def test_readers_see_whole_commits_while_a_writer_works(tmp_path: Path) -> None:
    told = run("read", tmp_path, SECONDS)
    assert told["steps"] >= 24
    assert told["reads"] >= told["of a newer commit"] > 0
