"""`latewood cluster serve` before it begins anything: what it imports, and what it refuses."""

import re
import subprocess
import sys
from contextlib import ExitStack

import pytest

from encoder.errors import ArgumentError
from indexing import Index
from retriever.cluster.joining import QUIET
from retriever.serving.listening import listening
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


def test_routers_share_a_port_that_nobody_else_gets():
    with ExitStack() as stack:
        first = stack.enter_context(listening("127.0.0.1", 0, "", shared=True))
        port = first.getsockname()[1]
        stack.enter_context(listening("127.0.0.1", port, "", shared=True))
        with pytest.raises(ArgumentError, match=f"cannot listen on 127.0.0.1 port {port}: .*; pass another"):
            listening("127.0.0.1", port, "pass another")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("A worker died or was killed while executing a task by an unexpected system error.\nLease ID: 0d0", False),
        ("Raylet is terminated. Possible reasons include: (1) SIGKILL by the user or system OOM killer", False),
        ("Task MapWorker.submit failed. There are infinite retries remaining, so the task will be retried.", False),
        ("2 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed", True),
        ("Task was killed due to the node running low on memory.\nMemory on the node was 15 GB", True),
    ],
)  # fmt: skip
def test_of_what_ray_says_by_itself_only_a_lack_of_memory_is_shown(line, shown):
    assert (re.search(QUIET["RAY_DEDUP_LOGS_SKIP_REGEX"], line) is None) == shown
