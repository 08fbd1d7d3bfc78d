"""The language of a file, by its name or its first lines."""

import re
from pathlib import PurePosixPath

__all__ = ["language_named", "language_of"]

_LANGUAGES = {
    "python": "py pyi pyw",
    "markdown": "md markdown mdx",
    "text": "txt text rst adoc asciidoc org tex log",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts mts cts tsx",
    "java": "java",
    "kotlin": "kt kts",
    "scala": "scala sc",
    "go": "go",
    "rust": "rs",
    "c": "c h",
    "cpp": "cc cpp cxx hh hpp hxx inl ipp cu cuh",
    "csharp": "cs",
    "ruby": "rb rake gemspec",
    "php": "php",
    "swift": "swift",
    "objective-c": "m mm",
    "perl": "pl pm t",
    "lua": "lua",
    "r": "r",
    "julia": "jl",
    "haskell": "hs",
    "ocaml": "ml mli",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "clojure": "clj cljs cljc",
    "dart": "dart",
    "zig": "zig",
    "nim": "nim",
    "cython": "pyx pxd pxi",
    "fortran": "f f90 f95 for",
    "assembly": "s asm",
    "shell": "sh bash zsh fish",
    "powershell": "ps1 psm1",
    "batch": "bat cmd",
    "sql": "sql",
    "protobuf": "proto",
    "html": "html htm xhtml vue svelte",
    "css": "css scss sass less",
    "xml": "xml xsd xsl",
    "json": "json json5 jsonc",
    "notebook": "ipynb",
    "yaml": "yaml yml",
    "toml": "toml",
    "ini": "ini cfg conf properties",
    "csv": "csv tsv",
    "cmake": "cmake",
    "make": "mk",
    "terraform": "tf hcl",
}
_BY_EXTENSION = {extension: name for name, all_ in _LANGUAGES.items() for extension in all_.split()}
_BY_NAME = {
    "makefile": "make",
    "gnumakefile": "make",
    "dockerfile": "docker",
    "cmakelists.txt": "cmake",
    "rakefile": "ruby",
    "gemfile": "ruby",
}
_SHEBANGS = {
    "python": "python",
    "bash": "shell",
    "sh": "shell",
    "perl": "perl",
    "ruby": "ruby",
    "node": "javascript",
}
# A header of C++ rather than C.
_CPP_HEADER = re.compile(
    r"^[ \t]*(?:class\s+\w|namespace\b|template\s*<|using\s+\w|public:|private:)", re.MULTILINE
)


def language_of(name: str, text: str = "") -> str:
    """Language of a file by its name, else by its `#!` line, else "text"."""
    lower = name.lower()
    if lower in _BY_NAME:
        return _BY_NAME[lower]
    if lower.endswith(".h") and _CPP_HEADER.search(text):
        return "cpp"
    if (language := _BY_EXTENSION.get(PurePosixPath(lower).suffix[1:])) is not None:
        return language
    if text.startswith("#!"):
        words = text[2:200].split("\n", 1)[0].replace("/", " ").split()
        for word in words:
            if (language := _SHEBANGS.get(word.rstrip("0123456789."))) is not None:
                return language
    return "text"


def language_named(name: str) -> str | None:
    """The language that a user calls by its name or by an extension: "python", "py", ".py"; None if unknown.

    >>> language_named("py"), language_named("C++"), language_named("nonsense")
    ('python', 'cpp', None)
    """
    lower = name.lower().lstrip(".")
    lower = {"c++": "cpp", "c#": "csharp", "golang": "go"}.get(lower, lower)
    known = {*_LANGUAGES, *_BY_NAME.values()}
    return lower if lower in known else _BY_EXTENSION.get(lower)
