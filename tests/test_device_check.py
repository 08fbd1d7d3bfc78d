"""scripts/device-check: every figure has a value or the reason why it has none; without a device none is made up."""

import json
import subprocess
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
