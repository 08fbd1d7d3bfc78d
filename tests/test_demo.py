"""scripts/demo as in a fresh clone, but for an install that is there already and a library of four files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("concurrent/futures", "http", "json", "urllib")  # of the standard library, as the demo takes them


@pytest.mark.slow
def test_the_demo_answers_from_a_fresh_clone(tmp_path: Path) -> None:
    library, commands = tmp_path / "library", tmp_path / ".venv" / "bin"
    for part in PARTS:
        (library / part).mkdir(parents=True)
        shutil.copyfile(Path(json.__file__).parents[1] / part / "__init__.py", library / part / "x.py")
    scripts = {
        tmp_path / "scripts" / "install": "sleep 4.5",
        commands / "python": f"echo {library}",
        commands / "latewood": f'exec {sys.executable} -m retriever.cli "$@"',
    }
    for path, text in scripts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copy(ROOT / "scripts" / "demo", tmp_path / "scripts" / "demo")
    done = subprocess.run(
        [tmp_path / "scripts" / "demo"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LATEWOOD_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "   installing, 4 s\n" in done.stdout
    assert done.stdout.count("# parse an ISO 8601 date and time\n") == 2
    assert "Try it on a folder of your own:" in done.stdout
    assert (tmp_path / "demo.library" / "json" / "x.py").is_file()
