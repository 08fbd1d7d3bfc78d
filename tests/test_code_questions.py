"""The questions about code: a sound set, whose judged files are in what is installed, and figures by kind."""

from collections import Counter

import pytest

from benchmarks import code_questions
from encoder.jsonl import read_rows
from retriever.evaluation.report import write_run

PACKAGES = {"_pytest", "huggingface_hub", "joblib", "rich"}


def test_the_questions_are_a_sound_set():
    rows = [row.values for row in read_rows(code_questions.DATA / "queries.jsonl")]
    qrels = code_questions.judged()
    assert len({row["_id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows) >= 75
    assert [row["_id"] for row in rows] == list(qrels)
    kinds = Counter(row["metadata"]["kind"] for row in rows)
    assert kinds.keys() == {"symbol", "behaviour", "handling"}
    assert min(kinds.values()) >= 20
    assert {row["metadata"]["package"] for row in rows} == code_questions.installed().keys() == PACKAGES
    for row in rows:
        files = qrels[row["_id"]]
        assert 1 <= len(files) <= 3
        assert set(files.values()) <= {1, 2}
        assert any(g == 2 and f.startswith(row["metadata"]["package"] + "/") for f, g in files.items())
        assert not any(part in {"test", "tests", "externals"} for file in files for part in file.split("/"))


def test_judged_files_are_in_what_is_installed():
    installed = code_questions.installed()
    missing = code_questions.missing({package: folder for package, (folder, _, _) in installed.items()})
    own = [file for file in missing if len(set(installed[file.partition("/")[0]][1:])) == 1]
    assert own == []  # of the versions judged nothing may be missing
    judged = {file for files in code_questions.judged().values() for file in files}
    assert len(missing) <= len(judged) / 10, f"other versions lack {missing}; judge the set anew"


def test_a_file_that_is_not_there_is_named(tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "table.py").write_text("")
    missing = code_questions.missing(dict.fromkeys(PACKAGES, tmp_path))
    assert "rich/panel.py" in missing
    assert len(missing) == len(set(missing)) > 70


def test_figures_are_by_kind(tmp_path):
    texts = {text: (qid, kind) for qid, (text, kind) in code_questions.questions().items()}
    qrels = code_questions.judged()

    def search(text):  # every right file of symbols, best first; of other kinds none
        qid, kind = texts[text]
        right = sorted(qrels[qid], key=lambda file: -qrels[qid][file])
        return right if kind == "symbol" else ["rich/none.py"]

    figures = code_questions.evaluate(search)
    symbols = sum(kind == "symbol" for _, kind in texts.values())
    assert figures == {
        "behaviour": 0.0,
        "handling": 0.0,
        "symbol": 1.0,
        "all": pytest.approx(symbols / len(texts)),
    }


def test_runs_are_measured_and_what_lacks_is_said(tmp_path, monkeypatch, capsys):
    run = tmp_path / "right.trec"
    write_run(
        run,
        {qid: {file: float(g) for file, g in own.items()} for qid, own in code_questions.judged().items()},
    )
    monkeypatch.setattr("sys.argv", ["code_questions.py", str(tmp_path), str(run)])
    code_questions.main()
    said = capsys.readouterr()
    assert said.out == f"{run} behaviour=1.0000 handling=1.0000 symbol=1.0000 all=1.0000\n"
    assert len(said.err.splitlines()) == len(PACKAGES)
    assert "rich/console.py" in said.err


@pytest.mark.slow
def test_baselines_find_files_of_a_copy(tmp_path, monkeypatch):
    package = tmp_path / "installed"
    (package / "tests").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    (package / "shapes.py").write_text("class Circle:\n    radius = 1\n")
    (package / "sizes.py").write_text("def measure(box):\n    return box.width\n")
    (package / "tests" / "test_sizes.py").write_text("def test_it():\n    assert True\n")
    (package / "picture.bin").write_bytes(b"\x00\x01")
    (package / "__pycache__" / "shapes.pyc").write_bytes(b"code")
    monkeypatch.setattr(code_questions, "installed", lambda: {"drawing": (package, "1", "1")})
    copy = tmp_path / "copy"
    code_questions.copy_packages(copy)
    files = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*.*") if path.is_file())
    assert files == ["drawing/shapes.py", "drawing/sizes.py", "drawing/tests/test_sizes.py"]
    for baseline in code_questions.BASELINES.values():
        with baseline(copy) as search:
            assert search("where is Circle")[0] == "drawing/shapes.py"
            assert search("width of a box")[0] == "drawing/sizes.py"
