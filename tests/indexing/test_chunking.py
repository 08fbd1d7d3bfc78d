"""Chunkers: every line is covered, texts are the lines they claim, sizes hold, definitions are found once."""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from textwrap import dedent, indent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.errors import ArgumentError
from indexing.reading.chunking import (
    Chunk,
    ChunkSize,
    chunk_blocks,
    chunk_markdown,
    chunk_python,
    chunk_text,
)

Chunker = Callable[..., list[Chunk]]
CHUNKERS: list[Chunker] = [chunk_python, chunk_blocks, chunk_markdown, chunk_text]
HUGE = 10**7


def check(source: str, chunks: list[Chunk], max_chars: int) -> None:
    """What every chunker promises."""
    lines = re.split(r"\r\n|\r|\n", source)
    covered = [[False] * len(line) for line in lines]
    for chunk in chunks:
        numbers = [n for first, last in chunk.lines for n in range(first, last + 1)]
        assert numbers == sorted(set(numbers))
        assert chunk.start_line == numbers[0]
        assert chunk.end_line >= numbers[-1]
        text = "\n".join(lines[n - 1] for n in numbers)
        start, end = chunk.columns or (0, len(text))
        assert chunk.text == text[start:end]
        assert chunk.text.strip()
        assert len(chunk.text) <= max_chars
        for n in numbers:
            span = (start, end) if chunk.columns else (0, len(lines[n - 1]))
            covered[n - 1][span[0] : span[1]] = [True] * (span[1] - span[0])
    for n, (line, flags) in enumerate(zip(lines, covered, strict=True), start=1):
        lost = [c for c, flag in zip(line, flags, strict=True) if not flag and not c.isspace()]
        assert not lost, f"line {n} lost {''.join(lost)!r}"


def covers_all(chunker: Chunker, source: str, max_chars: int, overlap_chars: int) -> None:
    try:
        chunks = chunker(source, ChunkSize(max_chars, overlap_chars))
    except SyntaxError:
        assert chunker is chunk_python
        return
    check(source, chunks, max_chars)
    if overlap_chars == 0:
        check_once(source, chunks)


def check_once(source: str, chunks: list[Chunk]) -> None:
    """Without overlap every line that is not blank is in exactly one chunk, or in pieces of itself."""
    times = Counter(
        n for c in chunks if not c.columns for first, last in c.lines for n in range(first, last + 1)
    )
    pieces = {c.start_line for c in chunks if c.columns}
    for n, line in enumerate(re.split(r"\r\n|\r|\n", source), start=1):
        if line.strip():
            assert times[n] + (n in pieces) == 1, n


sizes = st.integers(1, 200).flatmap(lambda m: st.tuples(st.just(m), st.just(0) | st.integers(0, m // 2)))
some_lines = st.lists(
    st.sampled_from(
        ["", "", "    ", "# x", "## y z", "===", "---", "```", "a" * 90, "one two three " * 9, "}", "{"]
    )
    | st.text(max_size=30)
).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines)))


@pytest.mark.slow
@pytest.mark.parametrize("chunker", CHUNKERS)
@settings(deadline=None)
@given(source=some_lines, size=sizes)
def test_text_of_any_kind_is_covered(chunker: Chunker, source: str, size: tuple[int, int]) -> None:
    covers_all(chunker, source, *size)


def _block(head: str, body: list[str]) -> str:
    return head + "\n" + indent("\n".join(body), "    ", lambda _: True)


def _statements(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bodies = st.lists(children, min_size=1, max_size=4).map(lambda body: [*body, "pass"])
    heads = st.sampled_from(
        [
            "def f(a,\n      b=1):",
            "async def g():",
            "@decorated(\n    by=1\n)\ndef h() -> int:",
            "class A:",
            "class B(\n    A,\n):",
            "@final\nclass C(A):",
            "if x:",
            "with y as z:",
        ]
    )
    tries = bodies.map(lambda body: _block("try:", body) + "\n" + _block("except E:", body))
    return st.builds(_block, heads, bodies) | tries


programs = st.lists(
    st.recursive(
        st.sampled_from(
            ["x = 1", "", "# note", "'''doc\n\n# not a comment'''", "y = '''\nz'''; x = 2", "\f"]
        ),
        _statements,
        max_leaves=12,
    ),
    max_size=6,
).map("\n".join)


def definitions(tree: ast.Module) -> list[tuple[str, str, int, int]]:
    """(symbol, kind, def line, last line) of what is in no function: the oracle, by a plain walk."""
    found = []

    def visit(node: ast.AST, prefix: str, in_class: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found.append((prefix + child.name, "class", child.lineno, child.end_lineno or 0))
                visit(child, f"{prefix}{child.name}.", True)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                kind = "method" if in_class else "function"
                found.append((prefix + child.name, kind, child.lineno, child.end_lineno or 0))
            else:
                visit(child, prefix, in_class)

    visit(tree, "", False)
    return found


def check_definitions(source: str) -> None:
    """Uncut, each definition is one chunk, and every line is in one."""
    chunks = chunk_python(source, ChunkSize(HUGE))
    wanted = definitions(ast.parse(source))
    got = [c for c in chunks if c.kind != "module"]
    assert Counter((c.symbol, c.kind) for c in got) == Counter(d[:2] for d in wanted)
    for symbol, kind, line, last in wanted:
        mine = [c for c in got if (c.symbol, c.kind) == (symbol, kind) and c.start_line <= line <= c.end_line]
        assert any(c.end_line >= last for c in mine), symbol
    check_once(source, chunks)


@pytest.mark.slow
@settings(deadline=None)
@given(source=programs, size=sizes)
def test_python_programs_are_covered_and_their_definitions_found(source: str, size: tuple[int, int]) -> None:
    check(source, chunk_python(source, ChunkSize(*size)), size[0])
    check_definitions(source)


def standard_library(count: int) -> list[Path]:
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    paths += sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py"))
    paths = [p for p in paths if p.stat().st_size < 60_000 and "site-packages" not in p.parts]
    return paths[:: max(1, len(paths) // count)][:count]


@pytest.mark.slow
def test_the_standard_library_is_covered_by_every_chunker() -> None:
    paths = standard_library(100)
    assert len(paths) == 100
    for path in paths:
        source = path.read_text("utf-8", "replace")
        for chunker in CHUNKERS:
            covers_all(chunker, source, 1_500, 200)
        try:
            ast.parse(source)
        except SyntaxError:
            continue
        check_definitions(source)


SOURCE = dedent(
    '''\
    """Module."""
    import os

    # Says what f does.
    @cache
    def f(a):
        def inner():
            return a
        return inner
        # still f

    X = 1

    class A(Base):
        """Doc."""
        y = 2

        # Above m.
        def m(
            self,
        ):
            return 1

        class Inner:
            def n(self): return 2

    if os.name == "nt":
        def g(): pass
    else:
        g = None
    '''
)


def test_python_is_cut_at_its_definitions() -> None:
    chunks = chunk_python(SOURCE)
    assert [(c.kind, c.symbol, c.start_line, c.end_line) for c in chunks] == [
        ("module", "", 1, 30),
        ("function", "f", 4, 10),
        ("class", "A", 14, 25),
        ("method", "A.m", 18, 22),
        ("class", "A.Inner", 24, 25),
        ("method", "A.Inner.n", 25, 25),
        ("function", "g", 28, 28),
    ]
    by_symbol = {c.symbol: c for c in chunks if c.symbol}
    assert by_symbol["f"].text.startswith("# Says what f does.\n@cache\ndef f(a):")
    assert by_symbol["f"].text.endswith("    # still f")
    assert by_symbol["A"].text == ('class A(Base):\n    """Doc."""\n    y = 2')
    assert by_symbol["A"].lines == ((14, 16),)
    assert chunks[0].text == '"""Module."""\nimport os\nX = 1\nif os.name == "nt":\nelse:\n    g = None'


def test_a_long_function_is_split_with_overlap() -> None:
    body = "".join(f"    x = {1000 + i}\n" for i in range(100))
    chunks = chunk_python(f"def f():\n{body}", ChunkSize(300, 60))
    assert {(c.kind, c.symbol) for c in chunks} == {("function", "f")}
    assert len(chunks) == 6
    for before, after in pairwise(chunks):
        assert before.end_line - after.start_line + 1 == 4  # lines of 13 characters, in 60


def test_what_python_cannot_parse_is_a_syntax_error() -> None:
    for source in [
        "print 'python 2'",
        "def f(:",
        "x = '\0'",
        "(" * 5_000,
        "if a: pass\n" + "elif a: pass\n" * 9_999,
    ]:
        with pytest.raises(SyntaxError):
            chunk_python(source)


def test_invalid_escapes_do_not_warn() -> None:
    assert len(chunk_python("x = '\\d'")) == 1  # warnings are errors in this suite


def test_code_of_other_languages_is_cut_at_the_outermost_indentation() -> None:
    function = "fn f{0}() {{\n    let x = {0};\n\n    body(x, {1});\n}}"
    source = "use a;\nuse b;\n\n" + "\n".join(function.format(i, "y" * 300) for i in range(4))
    chunks = chunk_blocks(source, ChunkSize(600))
    assert [c.text.count("fn ") for c in chunks] == [1, 1, 1, 1]
    assert chunks[0].text.startswith("use a;")
    assert all(c.text.endswith("}") for c in chunks)


def test_a_long_class_of_another_language_is_cut_at_its_members() -> None:
    member = "    int m{0}() {{\n        return {1};\n    }}"
    source = (
        "import a.b;\n\nclass A {\n"
        + "\n\n".join(member.format(i, "1 + " * 100 + "1") for i in range(3))
        + "\n}"
    )
    chunks = chunk_blocks(source, ChunkSize(600))
    assert [c.text.count("int m") for c in chunks] == [0, 1, 1, 1]


def test_markdown_is_cut_at_headings() -> None:
    source = dedent(
        """\
        ---
        title: front matter
        ---
        Preface.

        # Guide
        ## Install ##
        Run it.

        ```sh
        # not a heading
        ```

        Linux
        -----
        More.
        ### Deep
        Text.
        # Second
        """
    )
    assert [(c.symbol, c.start_line, c.end_line) for c in chunk_markdown(source)] == [
        ("", 1, 4),
        ("Guide > Install", 6, 12),
        ("Guide > Linux", 14, 16),
        ("Guide > Linux > Deep", 17, 18),
        ("Second", 19, 19),
    ]


def test_prose_is_packed_by_paragraphs() -> None:
    paragraphs = [f"{i} " + "word " * 50 for i in range(10)]
    chunks = chunk_text("\n\n".join(paragraphs), ChunkSize(600))
    assert [c.text.count("\n\n") for c in chunks] == [1] * 5


def test_a_line_longer_than_the_limit_is_cut_at_spaces() -> None:
    line = "word " * 100
    chunks = chunk_text(f"short\n{line}", ChunkSize(120, 0))
    assert [c.columns for c in chunks] == [None, *((i * 120, i * 120 + 120) for i in range(4)), (480, 500)]
    assert all(c.start_line == c.end_line == 2 for c in chunks[1:])


def test_nothing_gives_nothing() -> None:
    for chunker in CHUNKERS:
        assert chunker("") == []
        assert chunker(" \n\n\t\n") == []


@pytest.mark.slow
def test_a_large_file_is_cut_in_one_go() -> None:
    source = "a few words on a line\n\nanother line\n" * 20_000
    for chunker in (chunk_text, chunk_blocks, chunk_markdown):
        chunks = chunker(source)
        assert max(len(c.text) for c in chunks) <= 1_500


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="max_chars=0"):
        ChunkSize(0)
    with pytest.raises(ArgumentError, match=r"overlap_chars=8; pass 0 to max_chars // 2 = 7"):
        ChunkSize(15, 8)
