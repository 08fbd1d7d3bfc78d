"""The Dockerfile and the compose file. No test runs Docker: they are linted, and what they call is called here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from retriever.cli import app

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def run(*command, cwd=ROOT):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("hadolint", ["Dockerfile"]),
        ("check-jsonschema", ["--builtin-schema", "vendor.compose-spec", "compose.yaml"]),
    ],
)
def test_linters_find_nothing(tool, arguments):
    place = shutil.which(tool) or shutil.which(tool, path=Path(sys.executable).parent)
    assert place is not None, f"{tool} is not installed; pip install -e '.[dev]'"
    run(place, *arguments)


def words(instruction):
    [found] = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(found)


@pytest.mark.parametrize(
    "arguments", [words("CMD"), ["src=/indexes/src.index", "--token-file", "/run/secrets/token"]]
)
def test_the_command_line_is_read(arguments):
    program, name, *first = words("ENTRYPOINT")
    assert (program, name) == ("latewood", "serve")
    command = typer.main.get_command(app).commands["serve"]
    with command.make_context("serve", [*first, *arguments]) as context:
        assert context.params["host"] == "0.0.0.0"
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert json.dumps(arguments) in compose + DOCKERFILE


@pytest.mark.slow
def test_what_docker_is_given_makes_the_wheel(tmp_path):
    """Of what .dockerignore lets through."""
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    for name in (
        "retriever/serving/page/index.html",
        "retriever/serving/page/app.js",
        "retriever/serving/app.py",
    ):
        assert name in listed
