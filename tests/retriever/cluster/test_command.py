"""`latewood cluster serve` before it begins anything: what it imports, and what it refuses."""

import subprocess
import sys

import pytest

from indexing import Index
from tests.helpers.fakes import DIM, FakeEncoder


def refused(*arguments, blocked=()):
    """Its one line, with modules that are not there."""
    code = f"import sys; sys.modules.update(dict.fromkeys({list(blocked)}))\nfrom retriever.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "cluster", "serve", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "named"), [("ray", "ray"), ("fastapi", "fastapi")])
def test_without_ray_the_extra_is_named(tmp_path, missing, named):
    line = refused(tmp_path, blocked=[missing])
    assert f"needs {named}, which is not installed; pip install 'latewood[ray]'" in line


@pytest.mark.slow
def test_help_imports_no_ray():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "retriever.cli", "cluster", "serve", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "--replicas" in done.stdout
    assert not {"ray", "torch", "numba", "faiss", "fastapi", "pyarrow"} & loaded


@pytest.mark.slow
def test_what_cannot_be_served_is_refused_before_ray_begins(tmp_path):
    assert "is not an index" in refused(tmp_path)
    with Index.create(tmp_path / "x", FakeEncoder(DIM), shards=2) as index:
        index.add([{"doc_id": "a", "text": "w1"}])
    assert "port=0; pass" in refused(tmp_path / "x", "--port", "0")
