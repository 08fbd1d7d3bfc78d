"""Ten languages and broken Python, cut by tree-sitter's grammars (the extra `code`)."""

import importlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from encoder.errors import MissingDependencyError
from indexing.reading.chunking.cutting import Definition, cut
from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize, File
from indexing.reading.chunking.queries import QUERIES

__all__ = ["GRAMMARS", "chunk_tree", "has_grammar"]

# Language → package, function of it. Of several grammars the first that parses a file without error is taken.
GRAMMARS: dict[str, tuple[tuple[str, str], ...]] = {
    "python": (("tree_sitter_python", "language"),),
    "javascript": (("tree_sitter_javascript", "language"),),
    "typescript": (
        ("tree_sitter_typescript", "language_typescript"),
        ("tree_sitter_typescript", "language_tsx"),
    ),
    "java": (("tree_sitter_java", "language"),),
    "go": (("tree_sitter_go", "language"),),
    "rust": (("tree_sitter_rust", "language"),),
    "c": (("tree_sitter_c", "language"),),
    "cpp": (("tree_sitter_cpp", "language"),),
    "csharp": (("tree_sitter_c_sharp", "language"),),
    "ruby": (("tree_sitter_ruby", "language"),),
    "php": (("tree_sitter_php", "language_php"),),
}
_ARGUMENTS = re.compile(r"<[^<>]*>")
_SPACE = re.compile(r"\s+")
_MAX_NAME = 120


@cache
def has_grammar(language: str) -> bool:
    """Whether `chunk_tree` can cut a language: it has a grammar here, and that is installed."""
    try:
        importlib.import_module("tree_sitter")
        for package, _ in GRAMMARS[language]:
            importlib.import_module(package)
    except (ImportError, KeyError):
        return False
    return True


def chunk_tree(source: str, language: str, size: ChunkSize = CHUNK_SIZE) -> list[Chunk]:
    """Functions, methods, class outlines, types and the module code between them, as `chunk_python` gives them.

    A definition has its decorators or attributes, the comments right above it and everything nested in it; a
    class's outline has its fields and whatever has no body of its own. Namespaces and modules are part of the
    symbol and no chunk. A file with syntax errors is cut at the definitions that can be told apart.

    Raises MissingDependencyError where `has_grammar(language)` is false.
    """
    file = File(source, size)
    if not has_grammar(language):
        raise MissingDependencyError(
            f"no grammar for {language!r} is installed; pip install 'latewood[code]'"
        )
    # Lines ended by LF, so that the parser's rows are ours.
    data = "\n".join(file.lines).encode("utf-8", "replace")
    names = GRAMMARS[language]
    parsed = [_parse(data, *names[0], language)]
    if len(names) > 1 and parsed[0][0].has_error:
        parsed.append(_parse(data, *names[1], language))
    root, query = next(((root, query) for root, query in parsed if not root.has_error), parsed[0])
    items, leads = _items(root, query, file)
    return cut(file, _nested(items, data), leads)


def _parse(data: bytes, package: str, function: str, language: str) -> tuple[Any, Any]:
    parser, query = _load(package, function, language)
    tree = parser.parse(data)
    return tree.root_node, query


@cache
def _load(package: str, function: str, language: str) -> tuple[Any, Any]:
    import tree_sitter

    grammar = tree_sitter.Language(getattr(importlib.import_module(package), function)())
    return tree_sitter.Parser(grammar), tree_sitter.Query(grammar, QUERIES[language])


@dataclass(slots=True)
class _Item:
    """A node that the query found: its bytes and lines, and the line on which it began without a wrapper.

    role: "function", "class", "type", "scope" or "wrap".
    """

    role: str
    start: int
    end: int
    first: int
    last: int
    head: int
    name: str
    inside: list[Definition] = field(default_factory=list)


def _items(root: Any, query: Any, file: File) -> tuple[list[_Item], dict[int, int]]:
    """What the query found, outer before inner, and the comments and attributes by their last line."""
    from tree_sitter import QueryCursor

    found: dict[tuple[int, int, str], _Item] = {}
    leads: dict[int, int] = {}
    for _, captures in QueryCursor(query).matches(root):
        for role, nodes in captures.items():
            if role in ("name", "of"):
                continue
            node = nodes[0]
            first, last = _rows(node)
            if role == "lead":
                if not file.line(first).encode()[: node.start_point.column].strip():
                    leads[last] = min(first, leads.get(last, first))
                continue
            name = ".".join(_text(captures[key][0]) for key in ("of", "name") if key in captures)
            item = _Item(role, node.start_byte, node.end_byte, first, last, first, name or _declared(node))
            found.setdefault((node.start_byte, node.end_byte, role), item)
    # Of a wrapper and what it wraps, which may be as long, the wrapper first.
    order = {"wrap": 0, "scope": 1, "class": 2, "type": 3, "function": 4}
    return sorted(found.values(), key=lambda i: (i.start, -i.end, order[i.role])), leads


def _rows(node: Any) -> tuple[int, int]:
    first, last = node.start_point.row + 1, node.end_point.row + 1
    return first, last - (node.end_point.column == 0 and last > first)


def _text(node: Any) -> str:
    text = _SPACE.sub(" ", node.text.decode("utf-8", "replace")).strip()
    for _ in range(10):  # List<Map<K, V>> from the inside out
        shorter = _ARGUMENTS.sub("", text)
        if shorter == text or not shorter:
            break
        text = shorter
    return text.replace("::", ".").replace("\\", ".")[:_MAX_NAME]


def _declared(node: Any) -> str:
    """The name in a C declarator: `int *f(void)` has it within a function within a pointer."""
    inner = node.child_by_field_name("declarator")
    if inner is not None and inner.type == "operator_cast":
        return _text(inner).partition("(")[0]
    while inner is not None:
        node, inner = inner, inner.child_by_field_name("declarator")
        if inner is None and node.type.endswith("_declarator"):
            # Parentheses and references have what they declare without a field.
            inner = next((child for child in node.named_children if child.type != "comment"), None)
        if inner is None:
            return _text(node)
    return ""


def _nested(items: Iterable[_Item], data: bytes) -> Iterator[Definition]:
    """The definitions of the module; what is in a function or a type is a part of it."""
    stack: list[_Item] = []
    top = _Item("class", 0, len(data), 0, 0, 0, "")
    for item in items:
        while stack and stack[-1].end <= item.start:
            stack.pop()
        if stack and stack[-1].role in ("function", "type"):
            continue
        if item.role in ("function", "class", "type"):
            names = [outer.name for outer in stack if outer.role != "wrap"]
            # What is wrapped begins and ends with its wrapper: `export`, `template <...>`, decorators.
            for outer in reversed(stack):
                if outer.role != "wrap" or data[item.end : outer.end].strip(b"; \t\n"):
                    break
                item.first, item.last = outer.first, max(item.last, outer.last)
            owner = next((outer for outer in reversed(stack) if outer.role == "class"), top)
            if item.first > owner.head:
                symbol = ".".join(name for name in (*names, item.name) if name)
                owner.inside.append(Definition(item.role, symbol, item.first, item.last, item.inside))
        stack.append(item)
    yield from top.inside
