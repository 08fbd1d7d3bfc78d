"""Draw what `latewood search --explain` prints: docs/match-map.svg. Run: python scripts/match_map.py [FILE.svg]"""

import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from latewood import Encoder, Index

PICTURE = Path(__file__).parent.parent / "docs" / "match-map.svg"
QUESTION = "how do physicians check the pulse?"
TEXTS = {
    "heart.md": "The heart pumps blood through the body. Doctors listen to it\n"
    "with a stethoscope, and measure how fast it beats.",
    "bank.md": "The central bank raised interest rates to slow inflation.",
}


def terminal() -> Text:
    """The command and what it prints, with its colours."""
    os.environ.pop("NO_COLOR", None)
    os.environ["TERM"] = "xterm-256color"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "docs.index"
        with Index.create(folder, Encoder.load()) as index:
            index.add({"doc_id": name, "text": text} for name, text in TEXTS.items())
        command = [
            sys.executable,
            "-m",
            "retriever.cli",
            "search",
            str(folder),
            QUESTION,
            "--explain",
            "-k",
            "1",
        ]
        printed = _on_a_terminal(command)
    command = f'$ latewood search docs.index "{QUESTION}" --explain -k 1\n'
    return Text.from_ansi(command + printed)


def _on_a_terminal(command: list[str]) -> str:
    """What a command prints where it may use colours."""
    pieces: list[bytes] = []

    def read(fd: int) -> bytes:
        pieces.append(os.read(fd, 4096))
        return pieces[-1]

    with Path(os.devnull).open("w") as nowhere:
        shown = os.dup(1)
        os.dup2(nowhere.fileno(), 1)  # pty.spawn copies to standard output what it reads
        try:
            pty.spawn(command, read)
        finally:
            os.dup2(shown, 1)
            os.close(shown)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def main(path: Path = PICTURE) -> str:
    """Write the picture; its text."""
    text = terminal()
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=max(map(len, text.plain.splitlines())) + 2, file=nowhere)
        console.print(text)
    svg = console.export_svg(title="latewood search --explain", unique_id="match-map")
    # Fonts of the reader's machine: a picture loads nothing from elsewhere.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    path.write_text(svg.rstrip() + "\n", encoding="utf-8")
    return text.plain


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:])))
