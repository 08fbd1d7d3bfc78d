"""A command imports what it needs and no more."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from encoder import Encoder
from indexing import Index, Snapshot

ROOT = Path(__file__).parent.parent.parent
UNWANTED = {
    "encoder.training",
    "indexing.exchange",
    "indexing.index",
    "indexing.writing.writer",
    "ir_measures",
    "matplotlib",
    "pandas",
    "pathspec",
    "regex",
    "retriever.cli.evaluate",
    "retriever.cli.train",
    "retriever.ranking.device",
    "retriever.evaluation",
    "retriever.ranking.tuning",
    "scipy._lib",  # numba tries scipy itself, in vain, and importtime tells of tries too
    "sentence_transformers",
    "sklearn",
    "sqlite_utils",
    "torch",
    "transformers",
}


def imported(*arguments):
    """Modules that a command imports, each by its full name; and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "retriever.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}, done.stdout


@pytest.fixture(scope="module", params=["flat", "compressed"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold") / "x"
    flat_tokens = 300 if request.param == "compressed" else 10**6
    with Index.create(folder, Encoder.load(), flat_tokens=flat_tokens) as index:
        index.add({"doc_id": f"d{i}", "text": f"passage {i} about hearts and banks"} for i in range(60))
        assert {segment.kind for segment in index.snapshot().segments} == {request.param}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["late", "lexical", "hybrid"])
def test_searching_imports_no_torch_no_training_and_no_evaluation(folder, mode):
    modules, output = imported("search", folder, "hearts", "-k", "1", "--mode", mode)
    assert "hearts" in output
    assert "retriever.searcher" in modules
    assert not {"numba", "llvmlite"} & modules
    assert ("faiss" in modules) == (Snapshot(folder).codec is not None)
    assert not {name for name in modules if any(name == u or name.startswith(u + ".") for u in UNWANTED)}
    if mode == "lexical":
        assert not {"safetensors", "tokenizers", "numpy.ma", "numpy.random"} & modules


@pytest.mark.slow
def test_a_folder_where_nothing_changed_is_answered_by_what_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "src").mkdir()
    for i in range(3):
        path = tmp_path / "src" / f"m{i}.py"
        path.write_text(f"def put_{i}(item, basket):\n    basket.append(item)\n")
        os.utime(path, (1e9, 1e9))
    time.sleep(2.1)  # a file that was changed just now is read again
    first, _ = imported("search", tmp_path / "src", "put an item into the basket")
    assert "indexing.writing.writer" in first
    modules, output = imported("search", tmp_path / "src", "basket")
    assert "m0.py" in output
    unwanted = UNWANTED - {"pathspec"}  # .gitignore files are read
    assert not {name for name in modules if any(name == u or name.startswith(u + ".") for u in unwanted)}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("search", "hearts", "--explain"), ("info",), ("compact",)])
def test_other_commands_on_an_index_import_no_torch(folder, arguments):
    command, *rest = arguments
    assert "torch" not in imported(command, folder, *rest)[0]


@pytest.mark.slow
def test_a_few_documents_named_are_encoded_without_torch(tmp_path):
    texts = {"a": "hearts and banks", "b": "rivers and seas", "c": "stars"}
    with Index.create(tmp_path / "x", Encoder.load()) as index:
        index.add([{"doc_id": name, "text": text} for name, text in texts.items()], encode=False)
    code = (
        "import sys; from indexing import Index\n"
        f"with Index.open({str(tmp_path / 'x')!r}, writable=True) as index: index.encode(['c', 'a'])\n"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    with Index.open(tmp_path / "x", writable=True) as index:
        assert index.n_unencoded == 1
        index.encode()
        with index.snapshot() as now:
            stored = {
                names[number]: segment.decode(*segment.offsets[local : local + 2].tolist(), None)
                for segment in now.segments
                for local, number in enumerate(segment.owners.tolist())
                if (names := now.doc_ids([number]))
            }
    exact = Encoder.load().encode_documents(texts.values())
    for name, vectors in zip(texts, exact, strict=True):
        np.testing.assert_allclose(stored[name], vectors, rtol=0, atol=2e-3)  # as float16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"), [("latewood sea", "search"), ("latewood search --wa", "--wait")]
)
def test_completing_a_line_imports_no_torch(line, offered):
    """As the scripts of --install-completion ask, for commands that are made when they are looked at."""
    words = line.split()
    asked = {"_LATEWOOD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['latewood']; from retriever.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=ROOT,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [offered]
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "numba", "faiss"} & modules
    assert ("retriever.searcher" in modules) == (offered == "--wait")


@pytest.mark.slow
def test_completion_is_shown_and_installed(tmp_path):
    start = f"{sys.executable} -c \"import sys; sys.argv[0] = 'latewood'; from retriever.cli import main; main()\""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

    def asked(option):
        return subprocess.run(
            ["bash", "-c", f"{start} {option}; exit $?"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "complete -o default -F _latewood_completion latewood" in asked("--show-completion")
    assert "completion installed" in asked("--install-completion")
    assert "_LATEWOOD_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "latewood.sh").read_text()


@pytest.mark.slow
def test_help_of_a_command_imports_no_torch():
    code = (
        "import sys, typer; from retriever.cli.commands import app, COMMANDS\n"
        "commands = typer.main.get_command(app).commands\n"
        "for name in COMMANDS:\n"
        "    commands[name]; found = {'torch', 'numba', 'faiss', 'ir_measures'} & sys.modules.keys()\n"
        "    assert not found, (name, found)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("evaluate",), ("compare",), ("train", "colbert")])
def test_help_of_what_measures_or_trains_imports_neither(command):
    modules, output = imported(*command, "--help")
    assert "Example: latewood" in " ".join(output.split())
    assert not {"torch", "numba", "faiss", "ir_measures"} & modules
