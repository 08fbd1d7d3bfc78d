"""Memory of long documents: peaks of processes of their own, since a process never gives its peak back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from encoder.model.config import EncoderConfig

pytest.importorskip("resource")  # POSIX
SCRIPT = Path(__file__).parent.parent / "helpers" / "peak_memory.py"
BASE = EncoderConfig()


def peaks(layers, *lengths):
    """MiB once loaded, and the peak after each length."""
    command = [sys.executable, str(SCRIPT), layers, *map(str, lengths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SCRIPT.parent.parent)
    found = json.loads(done.stdout)
    return found["loaded"], found["peaks"]


@pytest.mark.slow
def test_8192_tokens_through_the_base_model_stay_under_3_gb():
    """Two layers, a global and a local one, are run; the weights of the other twenty are added to their peak."""
    _, (peak,) = peaks("2", 8192)
    matrices = 4 * BASE.hidden_size**2 + 3 * BASE.hidden_size * BASE.intermediate_size
    others = (BASE.num_layers - 2) * matrices * 4 / 2**20
    assert others > 300
    assert peak + others < 3000


@pytest.mark.slow
def test_memory_of_local_layers_is_linear_in_the_length():
    loaded, (short, long) = peaks("local:1", 2048, 8192)
    assert short > loaded + 5
    # Linear are about 60 and 240 MiB, give or take what the allocator keeps; one mask of 8,192 x 8,192 has 256 more.
    assert long - loaded < 400
