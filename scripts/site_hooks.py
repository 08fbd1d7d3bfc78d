"""What MkDocs is given that no page holds: the reference of the command line, made from the commands."""

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from retriever.cli import app

__all__ = ["command_reference", "commands", "on_page_markdown"]

MARK = "<!-- commands -->"


def commands(command: Any, path: tuple[str, ...] = ("latewood",)) -> Iterator[tuple[str, Any]]:
    """(name, command) of each that does something by itself, in the order of `latewood --help`."""
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(path), command
    for name, child in children.items():
        yield from commands(child, (*path, name))


def command_reference() -> str:
    """All commands in Markdown: what each does, an example, its arguments and options."""
    return "\n".join(_section(*pair) for pair in commands(typer.main.get_command(app)))


def _section(name: str, command: Any) -> str:
    about, _, example = (command.help or "").partition("Example:")
    lines = [f"## {name}", "", *_prose(about), "```sh", " ".join(example.split()), "```", ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if arguments:
        lines += ["| argument | |", "|---|---|"]
        lines += [f"| `{p.metavar or p.name.upper()}` | {_cell(p.help or '')} |" for p in arguments] + [""]
    if options:
        lines += ["| option | | default |", "|---|---|---|"]
        for p in options:
            names = ", ".join(f"`{one}`" for one in (*p.opts, *p.secondary_opts))
            lines.append(f"| {names} | {_cell(p.help or '')} | {_default(p)} |")
        lines.append("")
    return "\n".join(lines)


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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A hook of MkDocs."""
    return markdown.replace(MARK, command_reference()) if MARK in markdown else markdown
