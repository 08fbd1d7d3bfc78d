"""Searching code by language, path and regular expression: what is let through, what is shown."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from encoder.errors import ArgumentError
from indexing import Index
from indexing.reading.corpus import read_source
from retriever.cli import app
from retriever.cli.codesearch import _line
from retriever.code.search import (
    CodeHit,
    CodeOptions,
    MatchedLine,
    _lines_with_words,
    code_filter,
    search_code,
)
from retriever.options import SearchOptions
from retriever.searcher import Searcher
from tests.helpers.fakes import FakeEncoder

FILES = {
    "src/session.py": (
        "import time\n\n\nclass Session:\n    def expire(self, now):\n        # Drop it when the time is over.\n"
        "        if now > self.ends:\n            self.delete()\n\n    def delete(self):\n        self.alive = False\n"
    ),
    "src/deep/cache.py": "def expire_keys(keys):\n    return [k for k in keys if not k.alive]\n",
    "src/session.go": "package a\n\nfunc Expire(s Session) bool {\n\treturn s.alive\n}\n",
    "tests/test_session.py": "def test_expire():\n    assert not alive\n",
    "it's.md": "# Sessions\n\nA session expires.\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("code")
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    out = tmp_path_factory.mktemp("indexed") / "code.index"
    with Index.create(out, FakeEncoder()) as index:
        index.add(read_source(source))
    return out


@pytest.fixture(scope="module")
def searcher(folder: Path) -> Searcher:
    return Searcher.open(folder, FakeEncoder())


def look(
    searcher: Searcher, query: str = "session expires", k: int = 100, filter: str | None = None, **code: Any
) -> list[CodeHit]:
    return search_code(
        searcher, query, SearchOptions(k, mode="late", filter=filter), CodeOptions(**{"plain": True, **code})
    )


def found(searcher: Searcher, **options: Any) -> set[str]:
    return {hit.doc_id for hit in look(searcher, **options)}


def test_languages_by_name_or_extension(searcher: Searcher) -> None:
    everything = found(searcher)
    python = {i for i in everything if ".py" in i}
    assert found(searcher, languages=["py"]) == found(searcher, languages=["Python"]) == python
    assert found(searcher, languages=["py", "go"]) == python | {i for i in everything if ".go" in i}
    with pytest.raises(ArgumentError, match="language 'pyton' is unknown"):
        found(searcher, languages=["pyton"])


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["src/**"], ["src/session.py", "src/deep/cache.py", "src/session.go"]),
        (["src/*.py"], ["src/session.py"]),
        (["src"], ["src/session.py", "src/deep/cache.py", "src/session.go"]),
        (["*.py"], ["src/session.py", "src/deep/cache.py", "tests/test_session.py"]),
        (["*.py", "!tests/"], ["src/session.py", "src/deep/cache.py"]),
        (["!src/", "!*.py"], ["it's.md"]),
        (["it's.md"], ["it's.md"]),
        (["SRC/**"], []),
        (["deep/*"], []),
        (["**/deep/*"], ["src/deep/cache.py"]),
    ],
)
def test_paths_as_in_gitignore(searcher: Searcher, patterns: list[str], wanted: list[str]) -> None:
    hits = look(searcher, paths=patterns)
    assert {hit.path for hit in hits} == set(wanted)


@pytest.mark.parametrize(
    "regex", ["alive", r"^def \w+", r"self\.\w+\(", r"(?i)EXPIRE", r"over\.\n\s+if", "nothing at all", "'"]
)
def test_regex_lets_through_what_matches_and_meaning_ranks_it(searcher: Searcher, regex: str) -> None:
    everything = look(searcher)
    matching = [h for h in everything if re.search(regex, h.text, re.MULTILINE)]
    hits = look(searcher, regex=regex)
    assert [(h.doc_id, h.score) for h in hits] == [(h.doc_id, h.score) for h in matching]
    # Before ranking: the best k of those that match, not those of the best k that match.
    assert [h.doc_id for h in look(searcher, k=1, regex=regex)] == [h.doc_id for h in matching[:1]]


def test_the_place_of_a_match_is_its_line_in_the_file(searcher: Searcher) -> None:
    for hit in look(searcher, "session", regex="alive"):
        source = FILES[hit.path].split("\n")
        wanted = [
            n
            for n, text in enumerate(source, 1)
            if "alive" in text and hit.metadata["start_line"] <= n <= hit.end_line
        ]
        assert [line.line for line in hit.lines] == wanted
        assert hit.line == wanted[0]
        for line in hit.lines:
            assert line.text == source[line.line - 1]
            assert [line.text[a:b] for a, b in line.spans] == ["alive"] * line.text.count("alive")


def test_a_match_over_several_lines(searcher: Searcher) -> None:
    [hit] = look(searcher, "session", regex=r"time is over\.\n *if now")
    assert [(line.line, [line.text[a:b] for a, b in line.spans]) for line in hit.lines] == [
        (6, ["time is over."]),
        (7, ["        if now"]),
    ]


def test_without_a_regex_lines_with_words_of_the_query_are_shown(searcher: Searcher) -> None:
    hits = {h.symbol: h for h in look(searcher, "where are the keys expired?", languages=["py"])}
    assert [line.line for line in hits["expire_keys"].lines] == [1, 2]
    assert hits["expire_keys"].lines[0].spans == ((4, 15), (16, 20))
    assert hits["Session.delete"].lines[0].text == "    def delete(self):"  # its head


def test_filters_of_ones_own_are_kept_apart(searcher: Searcher) -> None:
    both = found(searcher, filter="kind = 'method' or kind = 'class'", languages=["py"])
    assert both == {
        "src/session.py::Session",
        "src/session.py::Session.expire",
        "src/session.py::Session.delete",
    }
    for wrong in ("kind = ", "kind = 'a') or (kind = 'b'"):
        with pytest.raises(ArgumentError, match="filter"):
            found(searcher, filter=wrong, languages=["py"])
    assert code_filter(searcher.snapshot, CodeOptions()) is None


def test_a_bad_regex_says_where(searcher: Searcher) -> None:
    with pytest.raises(ArgumentError, match=r"regex 'a\(' cannot be read: .* at position 3"):
        found(searcher, regex="a(")


@pytest.mark.slow
def test_a_regex_that_explodes_is_refused_in_time(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retriever.code.search.REGEX_SECONDS", 0.1)
    started = time.monotonic()
    with pytest.raises(
        ArgumentError, match=r"takes more than 0\.1 s; write it without repeats within repeats"
    ):
        found(searcher, regex="(.|.)*[0-9]")
    assert time.monotonic() - started < 5


def test_a_hit_of_code_is_that_of_a_search_for_documents(searcher: Searcher) -> None:
    hits = {hit.doc_id: hit for hit in searcher.search("expire a session", k=100, mode="late")}
    for one in search_code(searcher, "expire a session"):
        assert one.hit == hits[one.doc_id]
        assert one.hit.passage == hits[one.doc_id].passage


@pytest.mark.parametrize(
    ("mode", "parts"), [("late", {"meaning"}), ("lexical", {"words"}), (None, {"meaning", "words"})]
)
def test_a_mode_leaves_out_the_scores_of_the_other(searcher: Searcher, mode: Any, parts: set[str]) -> None:
    """And finds what a search for documents by that mode finds."""
    found = search_code(searcher, "expire a session", SearchOptions(k=100, mode=mode))
    given = {name for one in found for name, score in one.reasons.items() if score} & {"meaning", "words"}
    assert given == parts
    if mode is not None:
        hits = searcher.search("expire a session", SearchOptions(k=100, mode=mode))
        assert {one.hit.doc_id for one in found} <= {hit.doc_id for hit in hits}


@pytest.mark.parametrize("given", [{"weights": (1.0, 2.0)}, {"by": "passage"}])
def test_what_the_rules_do_not_take_is_refused(searcher: Searcher, given: dict[str, Any]) -> None:
    name, value = *given, *given.values()
    said = f"{name}={value!r} does nothing under the rules for code; leave it out, or pass plain=True"
    with pytest.raises(ArgumentError, match=re.escape(said)):
        search_code(searcher, "read a file", **given)
    plain = search_code(searcher, "read a file", plain=True, **given)
    assert [hit.hit for hit in plain] == searcher.search("read a file", **given)


def test_colours_mark_the_spans() -> None:
    shown = _line(MatchedLine(7, "abcdef", ((1, 3),)))
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == "     7  abcdef"
    assert re.search(r"a\x1b\[[0-9;]*m(?:\x1b\[[0-9;]*m)*bc\x1b\[0m" + "def", shown)


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(text)
    index = tmp_path / "code.index"
    run("index", tmp_path / "code", "--out", index)
    query = "where are sessions expired?"
    text = run("search", "--code", index, query, "--plain", "--lang", "py", "--path", "src/**", "-k", 3)
    assert re.search(r"^src/session\.py:5  Session\.expire  \(\d+\.\d\d\)$", text, re.MULTILINE)
    assert re.search(r"^     5      def expire\(self, now\):$", text, re.MULTILINE)
    assert "\x1b" not in text  # no terminal, no colours
    hits = json.loads(run("search", index, query, "--regex", "alive", "--lang", "py", "--json"))
    assert {h["path"] for h in hits} == {"src/session.py", "src/deep/cache.py", "tests/test_session.py"}
    assert hits[0].keys() >= {"rank", "score", "path", "line", "end_line", "symbol", "lines", "text"}
    several = json.loads(run("search", "--code", index, query, "pasta", "--json", "-k", 1))
    assert [s["query"] for s in several] == [query, "pasta"]
    assert run("search", index, query, "--regex", "zzz").startswith("no hits")


def test_words_of_every_script_are_marked():
    lines = [(1, "# किताबें पढ़ने वाला"), (2, "x = 1  # 東京タワー")]
    [first, second] = _lines_with_words(lines, "किताबें 東京")
    assert [first.text[start:stop] for start, stop in first.spans] == ["किताबें"]
    assert [second.text[start:stop] for start, stop in second.spans] == ["東京タワー"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "own",
    [
        {"start_line": "x", "end_line": [], "lines": "1-2"},
        {"start_line": None, "lines": [[1]], "window": "big", "span": 3},
        {"start_line": 2.5, "lines": [1, 2], "window": 1, "span": [1]},
        {"start_line": -(10**30), "lines": [["a", "b"]], "window": [1], "span": {"a": 1}},
        {"start_line": {}, "lines": [[2, 1]], "window": 1, "span": [1, 2, 3], "path": 7, "symbol": []},
    ],
)
def test_a_users_own_keys_are_no_lines_and_windows(
    tmp_path: Path, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, opening = FakeEncoder(), Searcher.open
    monkeypatch.setattr(Searcher, "open", lambda path, **options: opening(path, encoder, **options))
    with Index.create(tmp_path / "docs.index", encoder) as index:
        index.add([{"doc_id": "a", "text": "one session\nexpires here", "metadata": own}])
    with opening(tmp_path / "docs.index", encoder) as searcher:
        [hit] = searcher.search("session expires")
        assert hit.metadata == own
        for regex in (None, "expires"):
            [code] = look(searcher, regex=regex)
            assert (code.doc_id, code.metadata) == ("a", own)
    for arguments in ((), ("--json",), ("--code",), ("--mode", "lexical")):
        shown = CliRunner().invoke(app, ["search", str(tmp_path / "docs.index"), "session", *arguments])
        assert shown.exit_code == 0, shown.exception


def test_a_search_takes_fields_by_their_names(tmp_path: Path) -> None:
    with Index.create(tmp_path / "named", FakeEncoder()) as index:
        for name, language in (("a.py", "python"), ("b.go", "go"), ("c.py", "python")):
            about = {"path": name, "language": language, "start_line": 1, "end_line": 1}
            index.add([{"doc_id": name, "text": f"w1 {name}", "metadata": about}])
    with Searcher.open(tmp_path / "named", FakeEncoder()) as searcher:
        by_name = search_code(searcher, "w1", languages=["py"], k=1, mode="lexical")
        whole = search_code(
            searcher, "w1", SearchOptions(k=1, mode="lexical"), CodeOptions(languages=("py",))
        )
        assert [hit.path for hit in by_name] == [hit.path for hit in whole] == ["a.py"]
        with pytest.raises(ArgumentError, match=r"language.* is no option of SearchOptions"):
            search_code(searcher, "w1", language="py")
        with pytest.raises(ArgumentError, match="languages is the string 'py'"):
            search_code(searcher, "w1", languages="py")
