"""The command line, with the bundled model on a small corpus."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import encoder.progress
import retriever.cli
import retriever.folders
from encoder import Encoder
from encoder.errors import ArgumentError, IndexFormatError
from encoder.light import LightEncoder
from indexing import Index
from retriever.cli import app
from tests.helpers.pages import parse_commands, run_commands
from tests.test_layout import commands

SOURCES = {
    "dates.py": 'from datetime import date\n\n\ndef parse_date(text):\n    """Read an ISO 8601 date."""\n'
    "    return date.fromisoformat(text)\n\n\ndef format_date(day):\n    return day.isoformat()\n",
    "net.py": "import socket\n\n\nclass Client:\n    def connect(self, host, port):\n"
    "        self.socket = socket.create_connection((host, port))\n",
    "notes.md": "# Cooking\n\nBoil the pasta in salted water for nine minutes.\n",
}
DOCUMENTS = {
    "d1": "The heart pumps blood through the body.",
    "d2": "Interest rates were raised by the central bank.",
    "d3": "A compiler translates source code into machine code.",
    "d4": "Volcanoes erupt when magma reaches the surface.",
}
QUERIES = {"q1": "cardiac circulation", "q2": "monetary policy", "q3": "program translation"}


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def index(code, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "code.index"
    result = run("index", code, "--out", out)
    assert result.exit_code == 0, result.output
    assert "3 files" in result.output
    return out


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": i, "title": "", "text": t}) for i, t in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": i, "text": t}) for i, t in QUERIES.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    rows = "".join(f"q{i}\td{i}\t1\n" for i in (1, 2, 3))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.mark.slow
def test_search_shows_file_line_score_and_a_snippet(index):
    result = run("search", index, "read a date in ISO format", "-k", "1")
    assert result.exit_code == 0
    first, *snippet = result.output.splitlines()
    rank, score, where, symbol = first.split()
    assert (rank, where, symbol) == ("1", "dates.py:4", "parse_date")
    assert float(score) > 1
    assert [line.strip() for line in snippet][:2] == ["def parse_date(text):", '"""Read an ISO 8601 date."""']


@pytest.mark.slow
def test_search_as_json(index):
    hits = json.loads(run("search", index, "open a TCP connection", "--json", "-k", "2").stdout)
    assert [h["rank"] for h in hits] == [1, 2]
    assert hits[0]["metadata"]["path"] == "net.py"
    assert hits[0].keys() == {"rank", "score", "doc_id", "text", "metadata", "passage"}
    assert hits[0]["passage"]["first_line"] == hits[0]["metadata"]["start_line"]
    several = json.loads(run("search", index, "pasta", "sockets", "--json", "-k", "1").stdout)
    assert [s["query"] for s in several] == ["pasta", "sockets"]
    assert several[0]["hits"][0]["metadata"]["path"] == "notes.md"


@pytest.mark.slow
def test_search_and_evaluate_by_plain_maxsim(index, beir):
    sharp, plain = [
        json.loads(run("search", index, "open a TCP connection", "--json", *more).stdout)
        for more in ((), ("--sharpness", "0"))
    ]
    # Convex, 0 at 0 and 1 at 1: no cosine counts for more than itself.
    assert sharp[0]["doc_id"] == plain[0]["doc_id"]
    assert 0 < sharp[0]["score"] < plain[0]["score"]
    for given in (0.0, 2.5):
        report = json.loads(run("evaluate", beir, "--sharpness", str(given), "--json").stdout)
        [found] = report if isinstance(report, list) else [report]
        assert found["settings"]["sharpness"] == given


@pytest.mark.slow
def test_search_by_words_and_by_filter(index):
    hits = json.loads(run("search", index, "pasta", "--mode", "lexical", "--json").stdout)
    assert [h["metadata"]["path"] for h in hits] == ["notes.md"]
    hits = json.loads(
        run("search", index, "a date", "--mode", "hybrid", "--filter", "path = 'net.py'", "--json").output
    )
    assert hits
    assert {h["metadata"]["path"] for h in hits} == {"net.py"}


@pytest.mark.slow
def test_indexing_again_costs_nothing_and_adds_what_is_new(code, index):
    again = run("index", code, "--out", index)
    assert "0 documents added, 0 replaced" in again.output
    assert "; 0 tokens in" in again.output


def test_info(index):
    info = json.loads(run("info", index, "--json").stdout)
    assert (info["kind"], info["dim"], info["encoder"]) == ("flat", 128, "bundled")
    assert info["passages"] > 3
    plain = run("info", index, "--verify").output
    assert "every file is as it was written" in plain
    assert "bytes_per_token" in plain


@pytest.mark.slow
def test_several_devices_give_one_index(code, index, tmp_path):
    made = run("index", code, "--out", tmp_path / "x", "--devices", "cpu,cpu")
    assert made.exit_code == 0, made.output
    with Index.open(tmp_path / "x") as found, Index.open(index) as expected:
        assert list(found.ids()) == list(expected.ids())
        assert found.n_tokens == expected.n_tokens
    assert run("search", tmp_path / "x", "read a date").output == run("search", index, "read a date").output


def test_the_doctor_says_what_a_device_does(monkeypatch):
    told = json.loads(run("doctor", "--device", "cpu", "--json").output)["facts"]
    assert told["device"].startswith("cpu, ")
    assert told["attention"] == "SDPA: the packed kernels are for GPUs, and cpu is none"
    assert told["encoder's kernels"] == "torch: cpu is no GPU"
    assert told["query alone"] == "kernels one by one: cpu is no GPU"
    assert run("doctor", "--device", "cuda:97").exit_code != 0


@pytest.mark.slow
def test_compact_leaves_out_what_was_deleted(tmp_path):
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "x"
    corpus.write_text("".join(f'{{"doc_id": "{i}", "text": "passage {i} of a few"}}\n' for i in range(6)))
    assert run("index", corpus, "--out", folder).exit_code == 0
    with Index.open(folder, writable=True) as index:
        index.delete(["1", "3"])
    result = run("compact", folder)
    assert result.exit_code == 0, result.output
    assert "4 documents" in result.output
    info = json.loads(run("info", folder, "--json").stdout)
    assert (info["documents"], info["passages"], info["segments"]) == (4, 4, 1)
    assert isinstance(run("compact", tmp_path / "nowhere").exception, IndexFormatError)


@pytest.mark.slow
def test_evaluate_prints_the_metrics_and_writes_a_run(beir, tmp_path):
    run_file = tmp_path / "run.trec"
    result = run("evaluate", beir, "--write-run", run_file, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {"nDCG@10", "R@100", "RR@10"} <= report.keys()
    assert report["R@100"] == 1.0
    assert report["nDCG@10"] == pytest.approx(1.0)  # three plain questions, four short texts
    rows = [line.split() for line in run_file.read_text().splitlines()]
    assert len(rows) == 12
    assert rows[0][:4] == ["q1", "Q0", "d1", "1"]
    text = run("evaluate", beir).output
    assert "nDCG@10  1.0000" in text


@pytest.mark.slow
def test_flat_and_compressed_indexes_can_be_kept_and_are_not_mixed_up(beir, tmp_path):
    flat = json.loads(run("evaluate", beir, "--flat", "--index", tmp_path / "i", "--json").stdout)
    assert flat["kind"] == "flat"
    again = json.loads(run("evaluate", beir, "--flat", "--index", tmp_path / "i", "--json").stdout)
    assert again["nDCG@10"] == flat["nDCG@10"]


@pytest.mark.slow
def test_where_nothing_is_found_it_is_said_why(index, tmp_path):
    def told(*arguments):
        result = run("search", *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    nowhere = "path = 'nowhere.py'"
    assert told(index, "zebra", "--filter", nowhere) == "no hits: the filter matches nothing\n"
    assert (
        told(index, "zebra", "--mode", "lexical")
        == "no hits: no document has a word of the query, stop words aside\n"
    )
    both = told(index, "zebra", "--mode", "lexical", "--filter", "path = 'net.py'")
    assert both == "no hits: no document that meets the filter has a word of the query, stop words aside\n"
    assert (
        told(index, "zebra", "--code", "--mode", "lexical")
        == "no hits: no document has a word of the query, stop words aside\n"
    )
    assert told(index, "zebra", "--code", "--filter", nowhere) == "no hits: the filter matches nothing\n"
    assert "no document is in that language" in told(index, "zebra", "--lang", "rust")
    with Index.open(index) as opened:
        encoder = Encoder.load(**opened.settings.encoder)
    with Index.create(tmp_path / "empty", encoder):
        pass
    for options in ([], ["--mode", "lexical"], ["--mode", "hybrid"], ["--code"], ["--lang", "py"]):
        assert told(tmp_path / "empty", "zebra", *options) == "no hits: the index is empty\n"


@pytest.mark.slow
def test_an_output_may_be_a_link_whose_target_is_still_to_be_made(code, beir, tmp_path):
    def link(name):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        return tmp_path / name

    def made(*arguments):
        result = run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)

    made("index", code, "--out", link("a.index"))
    made("index", code, "--out", link("b.index"), "--update")
    made("evaluate", beir, "--out", link("results"), "--index", link("c.index"), "--plot", link("q.png"))
    made("evaluate", beir, "--report", link("r.json"), "--write-run", link("run.trec"))
    made("compare", tmp_path / "r.json", tmp_path / "r.json", "--out", link("c.md"), "--plot", link("c.png"))
    names = {"a.index", "b.index", "c.index", "results", "q.png", "r.json", "run.trec", "c.md", "c.png"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == names
    assert all((tmp_path / name).is_symlink() for name in names)
    assert (tmp_path / "disk" / "results" / "report.md").is_file()
    made("search", tmp_path / "a.index", "a date")


@pytest.mark.parametrize("more", [[], ["--explain"], ["--code"]])
def test_what_a_text_would_do_to_a_terminal_is_written_out(tmp_path, more):
    """Sequences that colour, set a title, fill the clipboard or turn the text around, in a path and in a text."""
    evil = "\x1b]52;c;ZXZpbA==\x07\x9b31m\u202enoitcerid"
    with Index.create(tmp_path / "x.index", LightEncoder.load()) as index:
        where = {"path": f"a{evil}\nb.py", "start_line": 1, "end_line": 2, "symbol": f"f{evil}"}
        index.add([{"doc_id": f"a{evil}", "text": f"def giraffe(): {evil}\n    return 1", "metadata": where}])
    result = CliRunner().invoke(app, ["search", str(tmp_path / "x.index"), "giraffe", *more], color=True)
    assert result.exit_code == 0, result.output
    own = re.sub(r"\x1b\[[0-9;]*m", "", result.output)  # our colours
    assert "giraffe" in own
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", own)
    written = r"\x1b]52;c;ZXZpbA==\x07\x9b31m\u202enoitcerid"
    assert own.startswith("  1  ") == ("--code" not in more)
    assert rf"a{written}\nb.py:1  f{written}" in own


def mistakes(tmp_path, index, beir):
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"_id": "1", "text": "fine"}\n{"_id": "2"}\n')
    return {
        "no such source": ["index", tmp_path / "none", "--out", tmp_path / "o1"],
        "an empty folder": ["index", empty, "--out", tmp_path / "o2"],
        "a bad line": ["index", bad, "--out", tmp_path / "o3"],
        "no such model": ["index", bad, "--out", tmp_path / "o4", "--model", tmp_path / "nomodel"],
        "no such device": ["index", bad, "--out", tmp_path / "o6", "--device", "cuda:97"],
        "not an index": ["search", empty, "query"],
        "no index": ["info", tmp_path / "none"],
        "no BEIR folder": ["evaluate", empty],
        "no such split": ["evaluate", beir, "--split", "dev"],
        "nrerank too small": ["evaluate", beir, "--nrerank", 5],
        "no such mode": ["search", index, "query", "--mode", "both"],
        "a filter that cannot be read": ["search", index, "query", "--filter", "lang = "],
        "no training file": ["train", "distill", tmp_path / "none.jsonl", "--out", tmp_path / "o5"],
        "no such sharpness": ["search", index, "query", "--sharpness", -1],
        "k of nothing": ["search", index, "query", "-k", 0],
        "k beyond all": ["search", index, "query", "-k", 10**20],
        "an empty query": ["search", index, "query", " "],
        "a window of nothing": ["index", bad, "--out", tmp_path / "o7", "--window", 0],
        "a window that is too long": ["index", bad, "--out", tmp_path / "o8", "--window", 99999],
        "patterns for a file": ["index", bad, "--out", tmp_path / "o9", "--exclude", "*.py"],
        "patterns for a collection": ["estimate", beir, "--exclude", "*.py"],
        "to follow a file": ["watch", bad, "--out", tmp_path / "o10"],
    }


NAMED = {  # what the line is to name, where it is easily another
    "k beyond all": "k=100000000000000000000; pass k <= 2147483647",
    "a window of nothing": "window=0 leaves",
    "a window that is too long": "window=99999 exceeds",
    "to follow a file": "is no folder; pass one, for a file is not followed",
}


@pytest.mark.slow
def test_a_users_mistake_is_one_line_and_exit_code_2(index, beir, tmp_path, monkeypatch, capsys):
    for name, arguments in mistakes(tmp_path, index, beir).items():
        monkeypatch.setattr(sys, "argv", ["latewood", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            retriever.cli.main()
        error = capsys.readouterr().err
        assert stop.value.code == 2, name
        assert "Traceback" not in error, name
        assert NAMED.get(name, "") in error, name
        if error.startswith("latewood: "):  # ours; typer words its own (a bad option) in its own frame
            assert error.count("\n") == 1, name
        else:
            assert "Invalid value" in error, name


@pytest.mark.slow
def test_the_command_is_installed_and_starts_without_its_models():
    """`python -m retriever.cli --help` in a process of its own: no warning, no traceback."""
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "retriever.cli", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for command in ("index", "search", "info", "evaluate", "train"):
        assert command in done.stdout


LONG = {
    "search": (["{code}", "pasta", "--wait"], {"reading", "words", "encoding"}),
    "index": (["{code}", "--out", "{new}"], {"encoding"}),
    "info": (["{index}", "--verify"], {"verifying"}),
    "compact": (["{index}"], {"compressing"}),
    "estimate": (["{code}"], {"estimating"}),
    "tune": (["{compressed}", "-n", "3", "--dry-run"], {"tuning"}),
    "evaluate": (["{beir}", "--mode", "lexical"], {"tiny: index", "tiny: search"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG)
def test_long_commands_say_how_far_they_are_as_json_or_not_at_all(
    command, code, index, beir, tmp_path, monkeypatch
):
    monkeypatch.setattr(encoder.progress, "EVERY", 0.001)
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    if command == "tune":
        with Index.create(tmp_path / "x", Encoder.load(), flat_tokens=300) as small:
            small.add({"doc_id": f"d{i}", "text": f"passage {i} about hearts and banks"} for i in range(60))
    places = {"code": code, "index": index, "beir": beir, "compressed": tmp_path / "x"}
    if command == "compact":
        places["index"] = shutil.copytree(index, tmp_path / "copy")
    arguments, phases = LONG[command]

    def said(*options):
        places["new"] = tmp_path / f"new{len(options)}"
        retriever.folders.forget(code)
        if command == "compact":  # once with something to leave out, then with nothing
            with Index.open(places["index"], writable=True) as whole:
                whole.delete(list(whole.ids("path = 'notes.md'")))
        result = run(command, *(a.format(**places) for a in arguments), *options)
        assert result.exit_code == 0, result.output
        return result.stderr

    steps = [json.loads(line) for line in said("--progress", "json").splitlines()]
    assert {step["phase"] for step in steps if step["ended"]} == phases
    assert all(step["done"] == step["total"] for step in steps if step["ended"] and step["total"] is not None)
    assert any(phase in said() for phase in phases)
    assert said("--quiet") == ""


@pytest.mark.slow
def test_progress_options_that_cannot_be_met_are_one_line(code):
    for options in (["--progress", "xml"], ["--quiet", "--progress", "json"]):
        result = run("search", code, "pasta", *options)
        assert isinstance(result.exception, ArgumentError)
    assert "--quiet" in run("watch", "--help").stdout


@pytest.mark.slow
def test_the_size_of_codes_is_chosen_when_an_index_is_made(code, tmp_path):
    out = tmp_path / "x"
    for size, message in (
        (11, "bytes_per_token=11; pass 12 to 132"),
        (133, "bytes_per_token=133; pass 12 to 132"),
    ):
        refused = run("index", code, "--out", out, "--bytes-per-token", size)
        assert isinstance(refused.exception, ArgumentError)
        assert message in str(refused.exception)
        assert not out.exists()
    assert run("index", code, "--out", out, "--bytes-per-token", 32).exit_code == 0
    with Index.open(out) as made:
        assert made.settings.bytes_per_token == 32
    assert run("index", code, "--out", out).exit_code == 0
    assert run("index", code, "--out", out, "--bytes-per-token", 32).exit_code == 0
    other = run("index", code, "--out", out, "--bytes-per-token", 48)
    assert isinstance(other.exception, ArgumentError)
    assert "was made with --bytes-per-token 32; leave it out, or index anew" in str(other.exception)


# The examples of --help, in an order in which each finds what it speaks of. Others need a model of the hub, hours, or
# do not end; all are read by the command line.
EXAMPLES = {
    "latewood index": "documents added",
    "latewood search": "dates.py",
    "latewood info": "every file is as it was written",
    "latewood compact": "documents",
    "latewood tune": "<- chosen",
    "latewood estimate": "token vectors",
    "latewood evaluate": "nfcorpus",
    "latewood compare": "nDCG@10",
    "latewood forget": "removed",
}


@pytest.mark.slow
def test_the_examples_of_help_run(code, beir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATEWOOD_CACHE", str(tmp_path / "cache"))
    shutil.copytree(code, "src")
    shutil.copytree(beir, "nfcorpus")
    examples = {
        name: re.search(r"Example: (.+?)(\n\n|$)", command.help, re.DOTALL)[1]
        for name, command in commands(typer.main.get_command(app))
    }
    assert EXAMPLES.keys() <= examples.keys()
    for name, example in examples.items():
        assert parse_commands(example, name) == 1
    for name, printed in EXAMPLES.items():
        if name == "latewood tune":  # of an index with a codec
            shutil.rmtree("src.index")
            with Index.create("src.index", Encoder.load(), flat_tokens=300) as small:
                small.add({"doc_id": f"d{i}", "text": f"Passage {i} about hearts."} for i in range(99))
        if name == "latewood compare":
            for report in ("before.json", "after.json"):
                shutil.copy("results/report.json", report)
        assert printed in run_commands(examples[name], tmp_path), name
