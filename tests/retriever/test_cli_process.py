"""The command as a process: Ctrl-C, closed output, terminals without colours, the version."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from indexing import Index
from retriever.folders import cache_of, forget
from tests.helpers.fakes import FakeEncoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "FORCE_COLOR")}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
LATEWOOD = [sys.executable, "-m", "retriever.cli"]

# A real SIGINT where the argument says: at the import of a module, or when a function is called.
INTERRUPTED = """
import importlib, os, signal, sys, threading, time
from retriever.cli import main

def stop(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL if "KILLED" in os.environ else signal.SIGINT)
    time.sleep(30 if threading.current_thread() is threading.main_thread() else 1)  # others are waited for

class Finder:
    def find_spec(self, name, *_):
        if name == place:
            stop()

place = sys.argv.pop(1)
module, _, function = place.partition(":")
if function:
    target = importlib.import_module(module)
    *owners, last = function.split(".")
    for owner in owners:
        target = getattr(target, owner)
    setattr(target, last, stop)
else:
    sys.meta_path.insert(0, Finder())
main()
"""


def latewood(*arguments, **options):
    return subprocess.run(
        [*LATEWOOD, *map(str, arguments)],
        **{"capture_output": True, "text": True, "env": ENVIRONMENT, "check": False, **options},
    )


def interrupted(place, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, place, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=100,
    )
    assert done.returncode == 130, done.stderr
    line = done.stderr
    assert line.startswith("latewood: interrupted; "), line
    assert line.count("\n") == 1, line
    return line.removeprefix("latewood: interrupted; ").strip()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A BEIR folder of four texts, indexed by the bundled model as `index` beside it."""
    folder = tmp_path_factory.mktemp("process") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = ["the heart pumps blood", "interest rates rise", "compilers translate code", "volcanoes erupt"]
    write(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": t} for i, t in enumerate(texts)])
    write(folder / "queries.jsonl", [{"_id": f"q{i}", "text": t} for i, t in enumerate(texts)])
    rows = "".join(f"q{i}\td{i}\t1\n" for i in range(4))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    done = latewood("index", folder, "--out", folder.with_name("index"))
    assert done.returncode == 0, done.stderr
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# Ctrl-C -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["retriever.cli.running", "numpy", "retriever.cli.index"])
def test_ctrl_c_while_it_still_imports(place, tmp_path):
    assert interrupted(place, "index", tmp_path, "--out", tmp_path / "x") == "nothing was begun"
    assert not (tmp_path / "x").exists()


def test_ctrl_c_in_index_says_what_the_index_holds(corpus, tmp_path):
    out = tmp_path / "x"
    place = "encoder.encode:Encoder.encode_documents"
    assert interrupted(place, "index", corpus, "--out", out) == (
        f"{out} is whole and holds 0 documents; run the same again to go on"
    )
    assert (
        interrupted("encoder.encode:Encoder.load", "index", corpus, "--out", tmp_path / "y")
        == "nothing was kept"
    )
    assert latewood("index", corpus, "--out", out).returncode == 0
    more = tmp_path / "more.jsonl"
    write(more, [{"_id": "d9", "text": "another text"}])
    assert "holds 4 documents" in interrupted(place, "index", more, "--out", out)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("def f():\n    return 1\n")
    assert "holds 4 documents" in interrupted(place, "index", folder, "--out", out, "--update")
    with Index.open(out) as index:
        index.verify()


def test_ctrl_c_in_the_other_commands(corpus, tmp_path):
    index = corpus.with_name("index")
    encode = "encoder.light:LightEncoder.encode_queries"
    assert interrupted(encode, "search", index, "a query") == "nothing was changed"
    assert interrupted(encode, "search", index, "a query", "--code") == "nothing was changed"
    assert (
        interrupted("indexing.storage.inspection:hash_file", "info", index, "--verify")
        == "nothing was changed"
    )
    documents = "encoder.encode:Encoder.encode_documents"
    assert interrupted(documents, "estimate", corpus) == "nothing was changed"
    assert interrupted("encoder.checkpoints.doctor:examine", "doctor") == "nothing was changed"
    with Index.open(index, writable=True) as opened:
        opened.delete(["d3"])
    shrunk = interrupted("indexing.writing.writer:Writer.compact", "compact", index)
    assert shrunk == f"{index} is whole and holds 3 documents; run the same again to go on"
    assert latewood("index", corpus, "--out", index).returncode == 0
    no_report = interrupted(documents, "evaluate", corpus)
    assert no_report == "no result was kept; pass --out or --report to keep each"
    out = tmp_path / "out"
    assert latewood("evaluate", corpus, "--out", out).returncode == 0
    both = interrupted(documents, "evaluate", corpus, "--out", out, "--baseline", "dense")
    assert both == f"1 results are in {out / 'report.json'}; run the same again to go on"
    compressed = tmp_path / "compressed"
    with Index.create(compressed, FakeEncoder(), flat_tokens=256) as opened:
        opened.add({"doc_id": str(i), "text": f"a few words of text {i}"} for i in range(200))
    assert interrupted("retriever.ranking.tuning:tune", "tune", compressed) == "nothing was stored"
    report = out / "report.json"
    assert (
        interrupted("retriever.evaluation.comparing:compare", "compare", report, report)
        == "nothing was changed"
    )


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        "indexing.storage.tables:create",
        "indexing.writing.sources:_read",
        "indexing.storage.store:Store.commit",
        "encoder.light:LightEncoder.encode_documents",
    ],
)
def test_a_first_search_of_a_folder_that_is_interrupted_is_simply_repeated(
    place, killed, tmp_path, monkeypatch
):
    """No lock, no half index and no process stays, whether by Ctrl-C or by SIGKILL."""
    folder, cache = tmp_path / "shop", tmp_path / "cache"
    folder.mkdir()
    for i in range(40):
        (folder / f"m{i}.py").write_text(f"def basket{i}():\n    return {i}\n")
    environment = ENVIRONMENT | {"LATEWOOD_CACHE": str(cache)}
    question = ("search", folder, "basket7", "-k", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, place, *map(str, question)],
        env=environment | ({"KILLED": "1"} if killed else {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    told = process.communicate(timeout=100)[1]
    assert process.returncode == (-signal.SIGKILL if killed else 130)
    assert told == "" if killed else f"what was read and encoded of {folder} is kept" in told
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left
    again = latewood(*question, env=environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("m7.py:1  basket7")
    assert "another process" not in again.stderr
    monkeypatch.setenv("LATEWOOD_CACHE", str(cache))
    with Index.open(cache_of(folder), writable=True) as index:
        index.verify()
        assert len(index) == 40
    assert forget(folder)
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_ctrl_c_at_a_terminal_ends_a_watch(corpus, tmp_path):
    """To the whole group of processes, as a terminal sends it."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("def f():\n    return 1\n")
    command = [*LATEWOOD, "watch", str(folder), "--out", str(tmp_path / "x")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        assert any(line.startswith("watching") for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == (
        f"latewood: interrupted; stopped watching; {tmp_path / 'x'} is whole and holds 1 documents; "
        "run the same again to go on"
    )
    assert "Traceback" not in error


def test_a_file_that_ends_too_early_is_a_line_and_not_aborted():
    program = "import encoder.checkpoints.doctor as d\ndef fails(*a, **k): raise EOFError('it ends here')\n"
    program += "d.examine = fails\nfrom retriever.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "latewood: it ends here; get the file anew\n")


# Standard output that is closed, or whose reader has gone ---------------------------------------------------


def shell(command, **variables):
    values = {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT | values, check=False
    )


COMMANDS = [
    "search $I heart",
    "search --code $I heart",
    "info $I --json",
    "evaluate $C --quiet",  # a line of progress comes every few seconds, on a busy machine
    "index $C --out $I --quiet",
    "--help",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_standard_output_is_a_line(corpus, command):
    """As `ls >&-` says it. What was to be stored is stored; no file becomes standard output."""
    done = shell(
        f"$P -m retriever.cli {command} >&-",
        P=sys.executable,
        I=corpus.with_name("index"),
        C=corpus,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == "latewood: standard output: Bad file descriptor\n"
    with Index.open(corpus.with_name("index")) as index:
        index.verify()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_gone_is_no_news(corpus, command):
    """The pipe has no reader from the start, so that the first byte meets none."""
    program = f"exec 3> >(exit 0); sleep 0.2; $P -m retriever.cli {command} >&3"
    done = shell(program, P=sys.executable, I=corpus.with_name("index"), C=corpus)
    assert done.returncode == (1 if command == "--help" else 141), done.stderr  # rich ends a help
    assert done.stderr == ""


def test_nothing_is_said_where_standard_error_has_gone_too(corpus):
    done = shell(
        "exec 3> >(exit 0); sleep 0.2; $P -m retriever.cli search $I heart >&3 2>&1; echo $?; "
        "$P -m retriever.cli info nowhere >&3 2>&1; echo $?; $P -m retriever.cli info nowhere 2>&-; echo $?",
        P=sys.executable,
        I=corpus.with_name("index"),
    )
    assert done.stdout.split() == ["141", "2", "2"]


def test_a_full_disk_under_standard_output_is_a_line(corpus):
    done = shell("$P -m retriever.cli info $I > /dev/full", P=sys.executable, I=corpus.with_name("index"))
    assert (done.returncode, done.stderr) == (1, "latewood: No space left on device\n")


# Terminals --------------------------------------------------------------------------------------------------


def on_a_terminal(*command, **variables):
    """What a command writes, standard error too, where both are a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = ENVIRONMENT | {name: str(value) for name, value in variables.items()}
    with subprocess.Popen(list(map(str, command)), stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        written = b""
        while True:
            try:
                some = os.read(ours, 1 << 16)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not some:
                break
            written += some
    os.close(ours)
    return written.decode()


FAILS = """
import encoder.checkpoints.doctor
def fails(*a, **k): raise RuntimeError("a fault of ours")
encoder.checkpoints.doctor.examine = fails
from retriever.cli import main
main()
"""


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_control_sequence_where_none_is_wanted(corpus, variables):
    index = corpus.with_name("index")
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["search", index, "heart", "-k", "0"],
        ["search", index, "heart", "--explain"],
        ["search", "--code", index, "heart"],
    ):
        written = on_a_terminal(*LATEWOOD, *arguments, **variables)
        assert len(written) > 20, arguments
        assert "\x1b" not in written, arguments
    written = on_a_terminal(sys.executable, "-c", FAILS, "doctor", **variables)
    assert "RuntimeError: a fault of ours" in written
    assert "\x1b" not in written


def test_colours_where_they_are_wanted(corpus):
    index = corpus.with_name("index")
    assert "\x1b[" in on_a_terminal(*LATEWOOD, "--help")
    assert "\x1b[" in on_a_terminal(*LATEWOOD, "search", index, "heart", "--explain")
    assert "\x1b[" in on_a_terminal(*LATEWOOD, "search", "--code", index, "heart")


def test_bars_on_a_terminal_and_lines_on_a_dumb_one(corpus, tmp_path):
    bar = on_a_terminal(*LATEWOOD, "index", corpus, "--out", tmp_path / "a")
    assert "\rencoding: " in bar
    dumb = on_a_terminal(*LATEWOOD, "index", corpus, "--out", tmp_path / "b", TERM="dumb")
    assert "4 documents added" in dumb
    assert not set("\r\x1b") & set(dumb.replace("\r\n", "\n"))


# The version ------------------------------------------------------------------------------------------------


def test_version():
    [stated] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    done = latewood("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"latewood {stated}\n", "")


# Threads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_libraries_do_not_spin_unless_told_to(tmp_path, given, found):
    """OpenMP itself says what it read when torch was loaded."""
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = latewood("doctor", tmp_path / "nothing", env=environment)
    assert done.returncode == 2, done.stderr
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr
