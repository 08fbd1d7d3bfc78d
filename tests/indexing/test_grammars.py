"""Code cut by tree-sitter: definitions in each language, and every line in one chunk, whatever the file."""

import random
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexing.reading.chunking.choosing
import indexing.reading.chunking.grammars
from encoder.errors import MissingDependencyError
from indexing.reading.chunking import GRAMMARS, MAX_PARSED_CHARS, ChunkSize, chunk_source, chunk_tree
from indexing.reading.corpus import FolderReport, read_source
from tests.indexing.test_chunking import check, check_once

SAMPLES = {
    "python": """
        import a  # Python 2 and broken files come here
        # Above f.
        @dec
        def f(x):
            def inner(): pass
            print "x"
        class A(B):
            y = 1
            def m(self):
                return 1
        """,
    "javascript": """
        import a from 'b';
        /** Doc of A. */
        export class A extends B {
          x = 1;
          /** Doc of m. */
          m(a) {
            function inner() {}
          }
          arrow = (z) => {
            return z;
          };
        }
        export default async function f() {
          return 1;
        }
        const g = async (q) => {
          return q;
        };
        module.exports.h = function () {
          return 1;
        };
        (function () {
          function hidden() {
          }
        })();
        """,
    "typescript": """
        @Component({a: 1})
        export class A<T> implements I {
          constructor(private x: number) {
          }
          abstract n(): void;
          @Input()
          m(): JSX.Element {
            return <b>{this.x}</b>;
          }
        }
        interface I {
          m(): void;
        }
        export enum E { P, Q }
        namespace N {
          export function f(x: any) {
          }
        }
        """,
    "java": """
        package a.b;
        /** Doc of A. */
        @Deprecated
        public class A<T> extends B {
          int x = 1;
          public A() {
          }
          /** Doc of m. */
          @Override
          public int m(int a) {
            return 1;
          }
          abstract void n();
          enum E {
            P;
            int f() {
              return 1;
            }
          }
        }
        """,
    "go": """
        package a
        // Doc of F.
        func F(a int) int {
        \treturn func() int { return 1 }()
        }
        // Doc of T.
        type T struct {
        \tA int
        }
        func (t *T) M() {
        }
        func (s S[K]) N() {
        }
        const A = 1
        """,
    "rust": """
        use a::b;
        /// Doc of S.
        #[derive(Debug)]
        pub struct S {
            a: i32,
        }
        impl<T> Trait for S<T> {
            const X: i32 = 1;
            /// Doc of m.
            #[inline]
            fn m(&self) -> i32 {
                fn inner() {}
                1
            }
        }
        mod tests {
            fn f() {
            }
        }
        macro_rules! mac {
            () => {};
        }
        """,
    "c": """
        #include <a.h>
        /* Doc
           of f. */
        static int *f(int a)
        {
            return 0;
        }
        typedef struct {
            int x;
        } T;
        #ifdef X
        int g(void) {
            return 1;
        }
        #endif
        """,
    "cpp": """
        namespace n {
        /// Doc of A.
        template <typename T>
        class A : public B {
        public:
          A() = default;
          ~A() {
          }
          int m() const {
            return 1;
          }
        };
        }
        template <typename T>
        int A<T>::r() {
          return 2;
        }
        """,
    "csharp": """
        using System;
        namespace N.M {
          /// <summary>Doc of A.</summary>
          [Serializable]
          public class A : B {
            private int x = 1;
            public int P { get; set; }
            public int Q {
              get { return x; }
            }
            [Obsolete]
            public int M(int a) {
              int Local(int q) => q;
              return 1;
            }
          }
        }
        """,
    "ruby": """
        require 'a'
        # Doc of M.
        module M
          class A < B
            attr_reader :x
            # Doc of m.
            def m(a)
              1
            end
            class << self
              def s
              end
            end
          end
        end
        """,
    "php": """
        <?php
        namespace A;
        /** Doc of C. */
        #[Attr]
        class C extends B {
          const X = 1;
          /** Doc of m. */
          #[Route('/')]
          public function m($a) {
            return function () {};
          }
        }
        function f() {
        }
        ?>
        """,
}
SAMPLES = {language: dedent(text).lstrip("\n") for language, text in SAMPLES.items()}

# Per language: (kind, symbol, first line of the text, lines of the definition).
EXPECTED: dict[str, list[tuple[str, str, str, int, int]]] = {
    "python": [
        ("module", "", "import a  # Python 2 and broken files come here", 1, 1),
        ("function", "f", "# Above f.", 2, 6),
        ("class", "A", "class A(B):", 7, 10),
        ("method", "A.m", "    def m(self):", 9, 10),
    ],
    "javascript": [
        ("module", "", "import a from 'b';", 1, 25),
        ("class", "A", "/** Doc of A. */", 2, 12),
        ("method", "A.m", "  /** Doc of m. */", 5, 8),
        ("method", "A.arrow", "  arrow = (z) => {", 9, 11),
        ("function", "f", "export default async function f() {", 13, 15),
        ("function", "g", "const g = async (q) => {", 16, 18),
        ("function", "module.exports.h", "module.exports.h = function () {", 19, 21),
        ("function", "hidden", "  function hidden() {", 23, 24),
    ],
    "typescript": [
        ("class", "A", "@Component({a: 1})", 1, 10),
        ("method", "A.constructor", "  constructor(private x: number) {", 3, 4),
        ("method", "A.m", "  @Input()", 6, 9),
        ("type", "I", "interface I {", 11, 13),
        ("type", "E", "export enum E { P, Q }", 14, 14),
        ("module", "", "namespace N {", 15, 18),
        ("function", "N.f", "  export function f(x: any) {", 16, 17),
    ],
    "java": [
        ("module", "", "package a.b;", 1, 1),
        ("class", "A", "/** Doc of A. */", 2, 20),
        ("method", "A.A", "  public A() {", 6, 7),
        ("method", "A.m", "  /** Doc of m. */", 8, 12),
        ("class", "A.E", "  enum E {", 14, 19),
        ("method", "A.E.f", "    int f() {", 16, 18),
    ],
    "go": [
        ("module", "", "package a", 1, 14),
        ("function", "F", "// Doc of F.", 2, 5),
        ("type", "T", "// Doc of T.", 6, 9),
        ("function", "T.M", "func (t *T) M() {", 10, 11),
        ("function", "S.N", "func (s S[K]) N() {", 12, 13),
    ],
    "rust": [
        ("module", "", "use a::b;", 1, 19),
        ("type", "S", "/// Doc of S.", 2, 6),
        ("class", "S", "impl<T> Trait for S<T> {", 7, 15),
        ("method", "S.m", "    /// Doc of m.", 9, 14),
        ("function", "tests.f", "    fn f() {", 17, 18),
        ("function", "mac", "macro_rules! mac {", 20, 22),
    ],
    "c": [
        ("module", "", "#include <a.h>", 1, 15),
        ("function", "f", "/* Doc", 2, 7),
        ("type", "T", "typedef struct {", 8, 10),
        ("function", "g", "int g(void) {", 12, 14),
    ],
    "cpp": [
        ("module", "", "namespace n {", 1, 13),
        ("class", "n.A", "/// Doc of A.", 2, 12),
        ("method", "n.A.~A", "  ~A() {", 7, 8),
        ("method", "n.A.m", "  int m() const {", 9, 11),
        ("function", "A.r", "template <typename T>", 14, 17),
    ],
    "csharp": [
        ("module", "", "using System;", 1, 17),
        ("class", "N.M.A", "  /// <summary>Doc of A.</summary>", 3, 16),
        ("method", "N.M.A.Q", "    public int Q {", 8, 10),
        ("method", "N.M.A.M", "    [Obsolete]", 11, 15),
    ],
    "ruby": [
        ("module", "", "require 'a'", 1, 1),
        ("class", "M", "# Doc of M.", 2, 15),
        ("class", "M.A", "  class A < B", 4, 14),
        ("method", "M.A.m", "    # Doc of m.", 6, 9),
        ("method", "M.A.s", "      def s", 11, 12),
    ],
    "php": [
        ("module", "", "<?php", 1, 15),
        ("class", "C", "/** Doc of C. */", 3, 12),
        ("method", "C.m", "  /** Doc of m. */", 7, 11),
        ("function", "f", "function f() {", 13, 14),
    ],
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_definitions_are_found_once_with_what_belongs_to_them(language: str) -> None:
    chunks = chunk_tree(SAMPLES[language], language)
    found = [(c.kind, c.symbol, c.text.split("\n")[0], c.start_line, c.end_line) for c in chunks]
    assert found == EXPECTED[language]
    check(SAMPLES[language], chunks, 1_500)
    check_once(SAMPLES[language], chunks)


pieces = st.builds(
    lambda a, n, text: text[a : a + n],
    st.integers(0, 400),
    st.integers(1, 200),
    st.sampled_from(sorted(SAMPLES.values())),
)
broken = st.lists(pieces | st.text(max_size=20), max_size=8).map("".join)
endings = st.sampled_from(["\n", "\r\n", "\r"])


@pytest.mark.slow
@pytest.mark.parametrize("language", GRAMMARS)
@settings(deadline=None, max_examples=25)
@given(source=broken, end=endings, max_chars=st.integers(1, 300), overlap=st.booleans())
def test_every_line_is_in_one_chunk(
    language: str, source: str, end: str, max_chars: int, overlap: bool
) -> None:
    source = source.replace("\n", end)
    chunks = chunk_tree(source, language, ChunkSize(max_chars, max_chars // 4 * overlap))
    check(source, chunks, max_chars)
    if not overlap:
        check_once(source, chunks)


def test_a_long_method_is_split_with_overlap() -> None:
    body = "".join(f"    x({1000 + i});\n" for i in range(100))
    chunks = chunk_tree(f"class A {{\n  m() {{\n{body}  }}\n}}", "javascript", ChunkSize(300, 60))
    methods = [c for c in chunks if c.kind == "method"]
    assert {c.symbol for c in methods} == {"A.m"}
    assert all(a.end_line >= b.start_line for a, b in pairwise(methods))


SUFFIXES = {
    "python": "py",
    "javascript": "js",
    "typescript": "ts",
    "java": "java",
    "go": "go",
    "rust": "rs",
    "c": "c",
    "cpp": "cpp",
    "csharp": "cs",
    "ruby": "rb",
    "php": "php",
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_encodings_and_line_ends_of_files(tmp_path: Path, language: str) -> None:
    """Valid, broken and empty files, by every line end and encoding: the same passages, every line in one."""
    valid = SAMPLES[language]
    for state, source in {"valid": valid, "broken": valid[: len(valid) * 2 // 3] + "\n}} )é\n"}.items():
        for how, data in {
            "plain": source.encode(),
            "crlf": source.replace("\n", "\r\n").encode(),
            "cr": source.replace("\n", "\r").encode(),
            "marked": source.encode("utf-8-sig"),
            "utf16": source.encode("utf-16"),
            "utf16crlf": b"\xfe\xff" + source.replace("\n", "\r\n").encode("utf-16-be"),
        }.items():
            (tmp_path / f"{state}-{how}.{SUFFIXES[language]}").write_bytes(data)
    (tmp_path / f"empty.{SUFFIXES[language]}").write_bytes(b"")
    (tmp_path / f"blank.{SUFFIXES[language]}").write_bytes(b"\r\n \r\n")
    found: dict[str, list[tuple[str, list[tuple[int, int]]]]] = {}
    for p in read_source(tmp_path):
        meta = p["metadata"]
        assert meta["language"] == language
        lines = [(a, b) for a, b in meta.get("lines", [(meta["start_line"], meta["end_line"])])]
        found.setdefault(Path(meta["path"]).stem, []).append((p["text"], lines))
    assert len(found) == 12  # of 14: nothing comes of the empty ones
    for state in ("valid", "broken"):
        ways = [passages for name, passages in found.items() if name.startswith(f"{state}-")]
        assert len(ways) == 6
        assert all(way == ways[0] for way in ways)
        times = Counter(n for _, lines in ways[0] for a, b in lines for n in range(a, b + 1))
        source = (tmp_path / f"{state}-plain.{SUFFIXES[language]}").read_text(encoding="utf-8")
        for n, line in enumerate(source.split("\n"), 1):
            assert times[n] == 1 or not line.strip(), (state, n, line)


@pytest.mark.slow
@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.parametrize("size", [MAX_PARSED_CHARS, 5_000_000])
def test_large_files_of_each_language(language: str, size: int) -> None:
    """The largest that is parsed, and 5 MB, which is cut by indentation and said to be."""
    source = SAMPLES[language] * (size // len(SAMPLES[language]))
    chunks, reason = chunk_source(source, language, ChunkSize(overlap_chars=0))
    assert reason == ("too large" if size > MAX_PARSED_CHARS else "")
    check_once(source, chunks)
    assert max(len(c.text) for c in chunks) <= 1_500


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["junk", "nested"])
def test_five_megabytes_of_nonsense_are_cut(kind: str) -> None:
    """In a few seconds: what is too large for a parser is cut by indentation."""
    rng = random.Random(0)
    source = {
        "junk": "".join(rng.choices(string.printable, k=5_000_000)),
        "nested": "".join(" " * (i % 900) + "x {\n\n" for i in range(11_000)),
    }[kind]
    chunks, reason = chunk_source(source, "java", ChunkSize(overlap_chars=0))
    assert len(source) > MAX_PARSED_CHARS
    assert reason == "too large"
    check_once(source, chunks)
    assert max(len(c.text) for c in chunks) <= 1_500


def test_without_the_extra_the_user_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *arguments: Any) -> Any:
        raise ImportError(name)

    for name in ("a.js", "b.js", "c.go"):
        (tmp_path / name).write_text("function f() {\n}\n")
    (tmp_path / "old.py").write_text("print 'x'\n")
    (tmp_path / "new.py").write_text("x = 1\n")
    (tmp_path / "style.css").write_text("a { b: c }\n")
    report = FolderReport()
    assert {p["metadata"]["kind"] for p in read_source(tmp_path, report=report)} == {
        "function",
        "module",
        "block",
    }
    assert report.hint == ""
    indexing.reading.chunking.grammars.has_grammar.cache_clear()
    monkeypatch.setattr(indexing.reading.chunking.grammars.importlib, "import_module", missing)
    try:
        report = FolderReport()
        assert {p["metadata"]["kind"] for p in read_source(tmp_path, report=report)} == {"module", "block"}
        assert report.hint == (
            "cut by indentation for want of grammars: javascript 2, go 1, python 1; "
            "pip install 'latewood[code]' cuts them at functions and classes"
        )
        with pytest.raises(MissingDependencyError, match=r"latewood\[code\]"):
            chunk_tree("", "go")
    finally:
        monkeypatch.undo()
        indexing.reading.chunking.grammars.has_grammar.cache_clear()


def test_a_language_without_a_grammar_is_no_shortcoming() -> None:
    assert chunk_source("a { b: c }", "css")[1] == ""
    assert indexing.reading.chunking.choosing.chunk_source("# A\nb", "markdown")[0][0].symbol == "A"
