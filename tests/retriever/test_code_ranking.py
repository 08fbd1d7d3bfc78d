"""Rules by which code is ranked."""

import re
from pathlib import Path

import pytest

from retriever.code.ranking import (
    DECAY,
    RULES,
    SHARE,
    WORDS,
    Candidate,
    Question,
    Ranked,
    by_file,
    combined,
    defines,
    file_name,
    is_copy,
    is_prose,
    is_test,
    named_for,
)


def candidate(path="a.py", late=1.0, lexical=None, **metadata):
    return Candidate(f"{path}::{metadata.get('symbol', '')}", {"path": path, **metadata}, late, lexical)


@pytest.mark.parametrize(
    ("question", "symbol", "expected"),
    [
        ("parse_args", "parse_args", 1.0),
        ("where is parse_args defined?", "Parser.parse_args", 1.0),
        ("where are args parsed?", "parse_args", 0.0),
        ("SessionStore", "SessionStore", 1.0),
        ("http.client.HTTPConnection", "HTTPConnection", 1.0),
        ("retry", "retry", 1.0),
        ("how does retry work", "retry", 0.0),
        ("parse_args", "", 0.0),
    ],
)
def test_what_defines_the_name_that_is_asked_for(question, symbol, expected):
    assert defines(Question(question), candidate(symbol=symbol)) == expected


def test_rules_by_paths_and_kinds():
    question = Question("where are sessions expired?")
    assert file_name(question, candidate("web/session_store.py")) == 0.5
    assert file_name(question, candidate("web/sessions.py")) == 1.0
    assert named_for(question, candidate(symbol="Store.expire_session")) == 1.0
    for path in ("tests/test_a.py", "a/test/b.py", "x_test.go", "src/a.test.ts", "conftest.py"):
        assert is_test(question, candidate(path)) == 1.0, path
        assert is_test(Question("which tests cover sessions?"), candidate(path)) == 0.0
    for path in ("latest.py", "contest/a.py", "attestation.go"):
        assert is_test(question, candidate(path)) == 0.0, path
    for path in ("pkg/_vendor/a.py", "third_party/b.c", "a_pb2.py", "node_modules/x.js"):
        assert is_copy(question, candidate(path)) == 1.0, path
    assert is_copy(question, candidate("vendors.py")) == 0.0
    assert is_prose(question, candidate(kind="section")) == 1.0
    assert is_prose(question, candidate(kind="function")) == 0.0


def test_scores_are_the_sum_of_their_reasons_and_ties_go_by_doc_id():
    found = [
        candidate("b.py", 3.0, 2.0, symbol="retry", kind="function"),
        candidate("a.py", 1.0, 4.0, kind="module"),
        candidate("tests/c.py", 2.0, None, kind="function"),
        candidate("d.py", None, 1.0, kind="module"),
        candidate("e.py", None, 1.0, kind="module"),
    ]
    ranked = {one.path: one for one in combined(Question("retry"), found)}
    for one in ranked.values():
        assert one.score == pytest.approx(sum(one.reasons.values()))
    assert ranked["b.py"].reasons["meaning"] == 1.0
    assert ranked["b.py"].reasons["defines the name"] == RULES["defines the name"][1]
    assert ranked["b.py"].reasons["words"] == pytest.approx(WORDS * 0.1**0.5 / 2)  # one word, not ten
    assert ranked["a.py"].reasons["meaning"] == 0.0
    assert ranked["tests/c.py"].reasons["is a test"] == RULES["is a test"][1] < 0
    order = [one.path for one in combined(Question("retry"), found)]
    assert order.index("d.py") < order.index("e.py")
    assert combined(Question("x"), []) == []
    alone = combined(Question("retry"), [candidate("b.py", None, 2.0), candidate("a.py", None, 4.0)])
    assert [one.reasons["words"] for one in alone] == [1.0, 0.5]


def test_a_file_counts_as_its_best_chunk_and_a_little_more():
    chunks = [
        Ranked("a1", "a.py", 1.0),
        Ranked("b1", "b.py", 0.98),
        Ranked("b2", "b.py", 0.9),
        Ranked("c1", "c.py", 0.5),
        Ranked("a2", "a.py", 0.0),
    ]
    files = by_file(chunks)
    assert [[one.doc_id for one in file] for file in files] == [["b1", "b2"], ["a1", "a2"], ["c1"]]
    assert 0.98 + SHARE * 0.9 > 1.0 + SHARE * DECAY * 0.0


def test_the_guide_has_every_part_of_a_score_with_its_weight():
    page = Path(__file__).parents[2] / "docs" / "guides" / "search-code.md"
    table = page.read_text(encoding="utf-8").partition("| part | weight | is |")[2].partition("\n\n")[0]
    shown = {
        name: float(weight) for name, weight in re.findall(r"^\| (.+?) \| (-?[\d.]+) \|", table, re.MULTILINE)
    }
    assert shown == {"meaning": 1, "words": WORDS} | {name: weight for name, (_, weight) in RULES.items()}
