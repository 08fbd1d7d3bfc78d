"""What is released: the wheel and the sdist hold what they must, and what they say of themselves agrees."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("encoder", "indexing", "retriever")
HIDDEN = {"__pycache__", ".pytest_cache", ".mypy_cache"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel made of it, as `python -m build` does."""
    dist = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--skip-dependency-check",
        "--outdir",
        str(dist),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(dist.glob("*.tar.gz")), next(dist.glob("*.whl"))


def files(folder):
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not HIDDEN & set(path.parts) and path.suffix != ".pyc"
    }


@pytest.mark.slow
def test_the_wheel_holds_the_packages_the_model_and_their_types_and_no_more(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    code = {name for name in names if ".dist-info/" not in name}
    assert code == {"latewood.py"}.union(*map(files, PACKAGES))
    assert {f"{package}/py.typed" for package in PACKAGES} <= code
    assert "encoder/models/latewood-mini/model.safetensors" in code
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_says_what_it_is(built):
    archive = zipfile.ZipFile(built[1])
    said = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(archive.read(said["METADATA"]).decode())
    assert metadata["Name"] == "latewood"
    assert f"version: {metadata['Version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert "latewood = retriever.cli:main" in archive.read(said["entry_points.txt"]).decode()


@pytest.mark.slow
def test_the_sdist_holds_all_that_the_tests_read(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in (*PACKAGES, "tests", "docs", "examples", "benchmarks", "scripts", ".ci"):
        assert files(folder) <= names, folder
    assert {
        "latewood.py",
        "mkdocs.yml",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CITATION.cff",
        "LICENSE",
    } <= names


@pytest.mark.slow
def test_both_pass_twine(built):
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
