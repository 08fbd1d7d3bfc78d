"""scripts/device-check: every figure has a value or the reason why it has none; without a device none is made up."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ON_A_GPU = {
    "a query alone: largest difference from a batch",
    "fused kernels: error, in parts of torch's own",
    "MaxSim kernel: largest difference from torch",
    "base, share of the bf16 peak",
    "base at 512 tokens, memory",
    "base at the longest, memory",
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def check(tmp_path, *arguments):
    done = subprocess.run(
        ["scripts/device-check", *arguments, "--json", str(tmp_path / "figures.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.slow
def test_a_processor_runs_every_part(tmp_path):
    printed, kept = check(tmp_path, "--device", "cpu", "--tiny")
    values = {row["figure"]: row["value"] for row in kept["figures"]}
    missing = {name for name, value in values.items() if value is None}
    assert missing == ON_A_GPU, kept["figures"]
    assert all(value > 0 for value in values.values() if value is not None)
    assert values["recall@10 of the processor's exact ten"] > 0.99
    assert printed.count("not measured (cpu") == len(ON_A_GPU)
    assert "goal" not in printed  # goals are of a GPU
    assert printed.splitlines()[-1].count("| not measured ") == len(ON_A_GPU)


@pytest.mark.slow
def test_without_the_device_no_figure_is_made_up(tmp_path):
    printed, kept = check(tmp_path, "--device", "cuda:97")
    assert {row["value"] for row in kept["figures"]} == {None}
    assert printed.count("not measured (device='cuda:97' cannot be used") == len(kept["figures"])


@pytest.mark.slow
def test_parts_for_which_no_time_is_left_are_named(tmp_path):
    printed, _ = check(tmp_path, "--device", "cpu", "--tiny", "--seconds", "-1")
    assert printed.count("not measured (no time was left after -1 s)") > 10


@pytest.mark.slow
def test_a_part_may_have_a_process_of_its_own(tmp_path):
    """As on a GPU."""
    apart = "--device", "cpu", "--tiny", "--apart", "--part"
    printed, kept = check(tmp_path, *apart, "training at 512")
    [speed, memory] = kept["figures"]
    assert speed["value"] > 0
    assert (memory["value"], memory["why"]) == (None, "cpu is no GPU")
    printed, kept = check(tmp_path, *apart, "coding", "--seconds", "0.5")
    assert printed.count("not measured (no time was left: ended after 0 s)") == len(kept["figures"]) == 2


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("os.abort()", "failed: its process ended by SIGABRT"),
        ("sys.exit(3)", "failed: its process ended by exit code 3"),
        ("", None),
    ],
)
def test_a_part_that_ends_its_process_keeps_its_figures_and_says_so(script, last, why):
    code = f"import os, sys; print('[\"x\", 1.5]', flush=True); {last}"
    told = list(script("device").told_by([sys.executable, "-c", code], 60))
    assert told == [("x", 1.5), *([("", why)] if why else [])]


def test_a_part_that_fails_says_so_in_one_line(script):
    def section(device, sizes):
        yield "x", 1.5
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging ...")

    told = list(script("device").told_here(section, "a device", tiny=True))
    assert told == [
        ("x", 1.5),
        ("", "failed: RuntimeError: CUDA error: an illegal memory access was encountered"),
    ]
