"""The house rules that a machine can hold: import direction, __all__, help with examples."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import typer

import encoder
import indexing
import latewood
import retriever
from retriever.cli import app
from scripts.site_hooks import command_reference, commands

ROOT = Path(__file__).parent.parent
PACKAGES = {"encoder": 0, "indexing": 1, "retriever": 2}  # each may import itself and what is lower
MODULES = [
    module.name
    for package in (encoder, indexing, retriever)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
# Inside a package, from below to above: a module imports of its own folder and of the lines before its own. A file that
# stands here by itself belongs where it stands, and not where its folder does.
LAYERS = {
    "encoder": """
        errors hiding
        arguments
        closing compiling devices reading replay threads
        progress
        embeddings maxsim jsonl options pooling tokenizer
        others
        model checkpoints.folder checkpoints.places
        checkpoints.formats checkpoints.hf checkpoints.parts
        checkpoints.tokenizer_files asking base model.late_interaction
        checkpoints
        batches model.heads
        on_device
        workers
        encode
        light checkpoints.doctor training
    """,
    "indexing": """
        coding reading
        settings
        storage
        writing
        index
        writing.sources writing.estimate exchange
    """,
    "retriever": """
        options kernels explaining
        hits ranking
        searcher reranking
        ranking.tuning code mining folders agreement
        importing doctor
        evaluation integrations
        serving
        cluster
        cli
    """,
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or ""


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 3
    for path in files:
        for name in imported(path):
            top = name.partition(".")[0]
            assert PACKAGES.get(top, -1) <= PACKAGES[package], f"{path} imports {name}"
            assert top not in ("tests", "benchmarks", "examples"), f"{path} imports {name}"


def dependencies(package):
    """{module: modules of the same package that it imports when it runs}; what only types need is left out."""
    found = {}
    names = {name for name in MODULES if name.startswith(f"{package}.")} | {package}
    for name in names - {package}:
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        found[name] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= (inner & names) or {node.module}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & names
    return found


def place(name, layers):
    """(line, unit) of a module: of the longest entry that it is or lies in."""
    parts = name.split(".")[1:]
    entries = {unit: i for i, line in enumerate(layers.split("\n")) for unit in line.split()}
    for n in range(len(parts), 0, -1):
        if (unit := ".".join(parts[:n])) in entries:
            return entries[unit], unit
    raise AssertionError(f"{name} stands in no line of LAYERS")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_inside_a_package_imports_go_one_way(package):
    layers = LAYERS[package]
    for name, imports in dependencies(package).items():
        line, unit = place(name, layers)
        for other in imports - {package}:  # a package's surface is lazy, or stands in for what it gives
            lower, of = place(other, layers)
            assert unit == of or lower < line, f"{name} imports {other}, which stands no lower"


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_in_a_circle(package):
    TopologicalSorter(dependencies(package)).prepare()  # raises CycleError, which names it


@pytest.mark.parametrize("package", [encoder, indexing, retriever, latewood])
def test_the_public_surface_is_complete(package):
    """Every name is there, sorted, once; what types see, what is loaded and what is listed are the same."""
    names = package.__all__
    assert len(names) == len(set(names))
    assert all(getattr(package, name) is not None for name in names)
    assert set(names) <= set(dir(package))
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES
        for alias in node.names
    }
    assert seen == {name for name in names if not name.startswith("__")}
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


def test_the_names_of_latewood_are_those_of_its_packages():
    for name in set(latewood.__all__) - {"__version__"}:
        homes = [package for package in (encoder, indexing, retriever) if name in package.__all__]
        assert [getattr(home, name) for home in homes] == [getattr(latewood, name)]


def test_import_latewood_takes_nothing_heavy():
    """Neither does its version, nor asking for a name that it has not."""
    code = "import latewood; latewood.__version__; hasattr(latewood, 'zzz')"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "latewood" in loaded
    assert not {"torch", "numpy", "numba", "faiss", "transformers", "sqlite3", *PACKAGES} & loaded


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name):
    """Public functions and classes of a module are in its __all__, and what is in it exists."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    assert listed is not None, f"{name} has no __all__"
    assert sorted(listed) == sorted(set(listed))
    for attribute in listed:
        assert hasattr(module, attribute), f"{name}.{attribute}"


@pytest.mark.slow
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


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))))
def test_every_command_has_an_example_and_is_in_the_reference(name, command):
    assert f"Example: {name} " in " ".join((command.help or "").split())
    _, found, section = f"\n{command_reference()}".partition(f"\n## {name}\n")
    assert found
    section = section.partition("\n## ")[0]
    for parameter in command.params:
        option = parameter.opts[0].startswith("-")
        named = parameter.opts[-1] if option else parameter.metavar or parameter.name.upper()
        assert parameter.hidden or f"`{named}`" in section, f"{name}: {named}"


def test_contributing_names_every_folder():
    house = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            name = f"{path.parent.name}/ "
            assert name in house, f"{path.parent.relative_to(ROOT)} is not in CONTRIBUTING's tree"
