"""Options that several commands share, and how a mode is read."""

from typing import Annotated, get_args

import typer

from encoder.errors import ArgumentError
from retriever.knobs import Mode

__all__ = ["AsJson", "DocumentLength", "ModeOption", "Model", "search_mode"]

Model = Annotated[str, typer.Option(help='"bundled", a model folder, or a hub name.')]
DocumentLength = Annotated[
    int | None, typer.Option(min=8, help="Tokens kept of a passage; the model's own by default.")
]
ModeOption = Annotated[
    str, typer.Option(help="late (token vectors), lexical (BM25), or hybrid (both, fused by rank).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def search_mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise ArgumentError(f"mode={text!r}; pass one of {', '.join(get_args(Mode))}")
