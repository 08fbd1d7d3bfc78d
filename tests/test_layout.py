"""The house rules that a machine can hold: import direction, __all__, help with examples."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
import typer

import encoder
import indexing
import retriever
from retriever.cli import app

ROOT = Path(__file__).parent.parent
PACKAGES = {"encoder": 0, "indexing": 1, "retriever": 2}  # each may import itself and what is lower
MODULES = [
    module.name
    for package in (encoder, indexing, retriever)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 3
    for path in files:
        for name in imported(path):
            top = name.partition(".")[0]
            assert PACKAGES.get(top, -1) <= PACKAGES[package], f"{path} imports {name}"
            assert top not in ("tests", "benchmarks", "examples"), f"{path} imports {name}"


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name):
    """Public functions and classes of a module are in its __all__, and what is in it exists."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    assert listed is not None, f"{name} has no __all__"
    assert sorted(listed) == sorted(set(listed))
    for attribute in listed:
        assert hasattr(module, attribute), f"{name}.{attribute}"


def test_nothing_unpickles_or_evaluates():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert not {"pickle", "marshal", "shelve"} & {a.name for a in node.names}, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"


def commands(command, path=("latewood",)):
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(path), command
    for name, child in children.items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))))
def test_every_command_has_an_example_and_is_in_the_readme(name, command):
    assert f"Example: {name} " in " ".join((command.help or "").split())
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_every_folder():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            name = f"{path.parent.name}/"
            assert name in readme, f"{path.parent.relative_to(ROOT)} is not in the README's tree"
