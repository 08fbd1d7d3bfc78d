"""Pages of the documentation: their blocks of code, run as a reader would, and what they print.

A block `python` is run in the names of the page; one `text` right below is what it prints. In `console` a line after
"$ " is a command, and what follows is what it prints. In `sh`, commands of `latewood` are parsed; which of them
something runs, and why others are not, is in tests/test_site.py.
"..." stands for anything; numbers may differ a little.
"""

import contextlib
import io
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner

from retriever.cli import app

__all__ = ["Block", "assert_prints", "blocks", "parse_commands", "run_commands", "run_page", "shell_lines"]

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """language: the word behind the fence. title: the rest of that line. line: of the fence, from 1."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(
            m[2],
            m[3].strip(),
            "".join(line.removeprefix(m[1]) for line in m[4].splitlines(keepends=True)),
            text.count("\n", 0, m.start()) + 1,
        )
        for m in found
    ]


def assert_prints(expected: str, printed: str, where: str) -> None:
    """The same words at the same places, "..." for any between them; numbers within a hundredth of each other."""
    pattern = "".join(
        f"({NUMBER.pattern})" if NUMBER.fullmatch(part) else ".*?" if part == "..." else re.escape(part)
        for part in re.split(rf"({NUMBER.pattern}|\.\.\.)", _plain(expected))
    )
    match = re.fullmatch(pattern, _plain(printed), re.DOTALL)
    assert match, f"{where} shows\n{expected}\nbut it prints\n{printed}"
    for shown, given in zip(NUMBER.findall(_plain(expected)), match.groups(), strict=True):
        a, b = (float(number.replace(",", "")) for number in (shown, given))
        assert abs(a - b) <= 0.02 + 0.01 * abs(a), f"{where} shows {shown}, it prints {given}\n{printed}"


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def run_commands(text: str, folder: Path) -> str:
    """What a line of a shell prints in a folder; `latewood` is this repository's, in this process."""
    if text.startswith("latewood "):
        result = CliRunner().invoke(app, shlex.split(text, comments=True)[1:])
        assert result.exit_code == 0, f"{text}\n{result.output}\n{result.exception!r}"
        return result.stdout  # how far it is, on standard error, depends on the machine
    done = subprocess.run(["bash", "-ec", text], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def shell_lines(text: str) -> list[str]:
    """The commands of a block, each whole and without its comment; a variable's value is put in."""
    values: dict[str, str] = {}
    lines = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            values[assigned[1]] = assigned[2]
            continue
        line = re.sub(r"\$(\w+)", lambda name: values[name[1]], re.sub(r"(^|\s)#.*", "", line))
        lines += [" ".join(line.split())] if line.strip() else []
    return lines


def parse_commands(text: str, where: str) -> int:
    """Have the command line read each command of `latewood` in a block of a shell; how many there were."""
    n = 0
    for line in shell_lines(text):
        words = shlex.split(re.sub(r"^torchrun .* -m -- retriever\.cli ", "latewood ", line))
        if words[0] != "latewood":
            continue
        command, words = typer.main.get_command(app), words[1:]
        while (children := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
            assert words[0] in children, f"{where}: {line}: there is no command {words[0]}"
            command, words = children[words[0]], words[1:]
        if children or words == ["--help"]:
            continue
        try:
            context = command.make_context(line, words)
        except Exception as error:  # typer's own click, or click's: as typer's version has it
            raise AssertionError(f"{where}: {line}: {error}") from error
        context.close()
        n += 1
    return n


def run_page(page: Path, folder: Path, *, names: dict[str, object] | None = None) -> int:
    """Run the blocks of a page in order in a folder, which must be the current one; how many were compared."""
    names = {"__name__": page.stem, **(names or {})}
    compared, printed = 0, None
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.language == "python" and not block.title:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            printed = out.getvalue()
            continue
        if block.language == "python":  # of another library
            compile(block.text, where, "exec")
        elif block.language == "text" and not block.title:
            assert printed is not None, f"{where} follows no block that prints"
            assert_prints(block.text, printed, where)
            compared += 1
        elif block.language == "console":
            for command, expected in re.findall(
                r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n?)*)", block.text, re.MULTILINE
            ):
                output = run_commands(command.replace("\\\n", ""), folder)
                assert_prints(expected, output, f"{where} $ {command}")
                compared += bool(expected)
        elif block.language == "sh":
            parse_commands(block.text, where)
        printed = None
    return compared
