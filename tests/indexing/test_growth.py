"""An index that grew is as good as one built at once, and no build takes more memory for a larger corpus."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing import Index
from indexing.coding.codec import Codec
from indexing.writing.memory import parse_bytes

ROOT = Path(__file__).parent.parent.parent
DIM, LENGTH, PASSAGES = 32, 10, 1200


@pytest.mark.slow
def test_what_came_later_is_coded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each part of the corpus has themes of its own, so a codec trained on the first knows little of the last.
    random = np.random.default_rng(0)
    themes = random.standard_normal((120, DIM))
    chosen = np.repeat(np.arange(6) * 20, PASSAGES // 6 * LENGTH) + random.integers(0, 20, PASSAGES * LENGTH)
    x = themes[chosen] + 0.3 * random.standard_normal((PASSAGES * LENGTH, DIM))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    errors = {}
    for name, steps in (("at once", 1), ("grown", 20), ("without new centroids", 20)):
        if name == "without new centroids":
            monkeypatch.setattr(Codec, "extended", lambda codec, *_, **__: codec)
        with Index.create(tmp_path / name, dim=DIM, flat_tokens=4200) as index:
            for part in np.array_split(np.arange(PASSAGES), steps):
                rows = x[part[0] * LENGTH : (part[-1] + 1) * LENGTH]
                offsets = np.arange(len(part) + 1) * LENGTH
                index.add_embeddings([f"d{i}" for i in part], TokenEmbeddings(rows, offsets))
            now = index.snapshot()
            decoded = np.concatenate([s.decode(0, s.n_tokens, now.codec) for s in now.segments])
            assert all(s.kind == "compressed" for s in now.segments)
            index.verify()
        errors[name] = float(np.square(decoded - x).sum(axis=1)[-PASSAGES * LENGTH // 6 :].mean())
        with Index.open(tmp_path / name) as index:
            now = index.snapshot()
            again = np.concatenate([s.decode(0, s.n_tokens, now.codec) for s in now.segments])
        np.testing.assert_array_equal(again, decoded)
    assert errors["grown"] < 0.5 * errors["without new centroids"]


# The peak of a build of so many tokens, over what the process had before, in MB.
PEAK = """
import resource, sys
import numpy as np
from encoder.embeddings import TokenEmbeddings
from indexing.writing import memory
from indexing import Index
from indexing.coding.codec import Codec

memory.BASE = memory.ENCODER = 0
memory.LEAST = 1

class Encoder:
    name, fingerprint, dim, load_arguments = "random", "0", 128, {"name": "random"}
    def encode_documents(self, texts):
        random = np.random.default_rng(len(texts[0]))
        x = random.standard_normal((len(texts) * 200, 128), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return TokenEmbeddings(x, np.arange(len(texts) + 1) * 200)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

with Index.create(sys.argv[1], Encoder(), memory="16MB") as index:
    small = ({"doc_id": f"d{i}", "text": "x" * 5000} for i in range(int(sys.argv[2]) // 200))
    index.add(small)
    assert index.snapshot().codec is not None
    print(index.n_tokens, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for tokens in (80_000, 320_000):
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / str(tokens)), str(tokens)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        stored, peak = ran.stdout.split()
        assert int(stored) == tokens
        peaks.append(float(peak))
    # The 240,000 tokens between are 61 MB of float16.
    assert peaks[1] - peaks[0] < 25, peaks


@pytest.mark.parametrize(
    ("text", "n"), [("1GB", 10**9), ("1.5 gb", 15 * 10**8), ("800MB", 8 * 10**8), (123, 123), ("5", 5)]
)
def test_sizes_are_read(text: int | str, n: int) -> None:
    assert parse_bytes(text) == n


@pytest.mark.parametrize("memory", ["lots", "-1GB", "1MB", 0])
def test_memory_that_cannot_do_is_refused(tmp_path: Path, memory: int | str) -> None:
    with pytest.raises(ArgumentError, match="memory="):
        Index.create(tmp_path / "docs.index", dim=DIM, memory=memory)
    assert not (tmp_path / "docs.index").exists()
