"""Options that several commands share, and how a mode is read."""

from typing import Annotated, Any, Literal, get_args

import typer

from encoder.errors import ArgumentError
from retriever.ranking.knobs import Mode

__all__ = [
    "AsJson",
    "DocumentLength",
    "Idf",
    "Memory",
    "ModeOption",
    "Model",
    "Overlap",
    "PoolFactor",
    "Precision",
    "Window",
    "Workers",
    "encoder_arguments",
    "parse_document_length",
    "search_mode",
    "windows_argument",
]

Model = Annotated[str, typer.Option(help='"bundled", a model folder, or a hub name.')]
DocumentLength = Annotated[
    str | None,
    typer.Option(metavar="N|max", help="Tokens kept of a passage; the model's own by default, or max."),
]
Memory = Annotated[
    str | None, typer.Option(help="About the most memory to take, as in 2GB, however large the corpus.")
]
PoolFactor = Annotated[
    int, typer.Option(min=1, help="Keep about one vector for so many tokens of a passage (extra `pool`).")
]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, bf16, fp16 or int8; by default fp32 on a CPU and bf16 on a GPU."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Encoding processes; one by default, on GPUs one for each.")
]
Window = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="Cut longer documents into windows of so many tokens; 2048 where a document is longer than the model "
        "reads, unless --document-length is given.",
    ),
]
Overlap = Annotated[int, typer.Option(min=0, help="Tokens that a window repeats of the last one.")]
ModeOption = Annotated[
    str, typer.Option(help="late (token vectors), lexical (BM25), or hybrid (both, fused by rank).")
]
Idf = Annotated[
    bool, typer.Option("--idf/--no-idf", help="Weigh query tokens by how rare their words are in the index.")
]
Sharpness = Annotated[
    float,
    typer.Option(help="How much more near matches of tokens count than far ones; 0 for plain MaxSim."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_document_length(text: str | None) -> int | Literal["max"] | None:
    if text is None or text == "max":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise ArgumentError(f"document_length={text!r}; pass a number of tokens, or max")
    return int(text)


def windows_argument(window: int | None, document_length: str | None) -> int | Literal["auto"] | None:
    """A number of tokens that a user gives is where to cut; without one nothing of a document is lost."""
    return window if window is not None or document_length not in (None, "max") else "auto"


def encoder_arguments(
    document_length: str | None,
    pool_factor: int = 1,
    precision: str | None = None,
    workers: int | None = None,
    window: int | None = None,
) -> dict[str, Any]:
    """What the user chose, as arguments of `Encoder.load`; what was left at its default is left out. Of documents in
    windows no more than a window is read at a time."""
    length = parse_document_length(document_length)
    chosen = {
        "document_length": length if window is None else window,
        "pool_factor": None if pool_factor == 1 else pool_factor,
        "precision": precision,
        "workers": workers,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def search_mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise ArgumentError(f"mode={text!r}; pass one of {', '.join(get_args(Mode))}")
