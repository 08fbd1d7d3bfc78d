"""What MkDocs is given that no page holds: the references, made from the commands and from what packages export."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from retriever.cli import app

__all__ = ["command_reference", "commands", "exported", "on_page_markdown", "python_reference"]

ROOT = Path(__file__).parent.parent
# A name is under the first that exports it.
SURFACES = ("latewood.py", "encoder", "indexing", "retriever", "retriever/evaluation", "retriever/serving")
# What the guides use besides.
FURTHER = {
    "Folders, code and training": (
        "indexing.writing.sources.update_folder",
        "indexing.reading.corpus.read_folder",
        "retriever.code.search.search_code",
        "retriever.code.search.CodeOptions",
        "retriever.evaluation.mteb_adapter.MtebSearch",
        "retriever.mining.mine_file",
        "retriever.mining.MiningConfig",
        "encoder.training.retrieval.train_retrieval",
        "encoder.training.configs.RetrievalConfig",
        "encoder.training.distill.distill",
        "encoder.training.configs.DistillConfig",
        "encoder.training.mlm.train_mlm",
        "encoder.training.configs.MlmConfig",
        "encoder.training.classify.train_classifier",
        "encoder.training.configs.ClassifyConfig",
    ),
    "A tool for agents": ("retriever.serving.mcp.create_server", "retriever.serving.kept.KeptFolders"),
    "Frameworks": tuple(
        f"retriever.integrations.{module}.Latewood{name}"
        for module, names in {
            "langchain": ("VectorStore", "Retriever", "Reranker"),
            "llamaindex": ("VectorStore", "Retriever", "Reranker"),
            "haystack": ("DocumentStore", "Retriever", "Ranker"),
        }.items()
        for name in names
    ),
}


def commands(command: Any, path: tuple[str, ...] = ("latewood",)) -> Iterator[tuple[str, Any]]:
    """(name, command) of each that does something by itself, in the order of `latewood --help`."""
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(path), command
    for name, child in children.items():
        yield from commands(child, (*path, name))


def command_reference() -> str:
    """All commands in Markdown: what each does, an example, its arguments and options."""
    whole = typer.main.get_command(app)
    lines = ["Before the name of a command:", "", *_options(whole)]
    return "\n".join([*lines, *(_section(*pair) for pair in commands(whole))])


def _section(name: str, command: Any) -> str:
    about, _, example = (command.help or "").partition("Example:")
    lines = [f"## {name}", "", *_prose(about), "```sh", " ".join(example.split()), "```", ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    lines += [] if not arguments else ["| argument | |", "|---|---|"]
    lines += [f"| `{p.metavar or p.name.upper()}` | {_cell(p.help or '')} |" for p in arguments]
    return "\n".join([*lines, "", *_options(command)])


def _options(command: Any) -> list[str]:
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    lines = [] if not options else ["| option | | default |", "|---|---|---|"]
    for p in options:
        names = ", ".join(f"`{one}`" for one in (*p.opts, *p.secondary_opts))
        lines.append(f"| {names} | {_cell(p.help or '')} | {_default(p)} |")
    return [*lines, ""]


def _prose(text: str) -> list[str]:
    return [line for part in re.split(r"\n\s*\n", text.strip()) for line in (_cell(part), "")]


def _cell(text: str) -> str:
    return re.sub(r"([|<>*])", r"\\\1", " ".join(text.replace("\b", "").split()))


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or value == () or callable(value) or "UNSET" in repr(value):
        return ""
    if value is True:
        return "on"
    return f"`{getattr(value, 'value', value)}`"


def exported(surface: str) -> dict[str, str]:
    """{name: where it is defined} of a package or module, as its imports say; nothing is imported for it."""
    path = ROOT / surface
    source = (path if path.suffix else path / "__init__.py").read_text(encoding="utf-8")
    return {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] in ("encoder", "indexing", "retriever")
        for alias in node.names
    }


def python_reference() -> str:
    """A line for mkdocstrings for each public name, under the package that exports it."""
    lines: list[str] = []
    done: set[str] = set()
    homes = {name: home for surface in SURFACES[1:] for name, home in exported(surface).items()}
    for surface in SURFACES:
        names = [name for name in exported(surface) if name not in done]
        done.update(names)
        if names:
            lines += [f"## {surface.removesuffix('.py').replace('/', '.')}", ""]
            lines += [f"::: {homes[name]}\n" for name in names]
    for title, places in FURTHER.items():
        lines += [f"## {title}", "", *(f"::: {place}\n" for place in places)]
    return "\n".join(lines)


MADE = {"<!-- commands -->": command_reference, "<!-- python -->": python_reference}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A hook of MkDocs."""
    for mark, make in MADE.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown
