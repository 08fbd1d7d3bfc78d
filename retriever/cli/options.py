"""Options that several commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from encoder.errors import ArgumentError
from encoder.options import option

if TYPE_CHECKING:
    from encoder import Encoder

__all__ = ["AsJson", "ModelOptions", "SourceOptions", "WindowOptions"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read, and with how much memory it is indexed."""

    memory: str | None = option(None, "About the most memory to take, as in 2GB, however large the corpus.")
    exclude: tuple[str, ...] = option((), "Pattern to leave out, as in .gitignore. Repeatable.")
    bytes_per_token: int | None = option(
        None,
        "Of a new index: bytes of a token's code, as 20 (the default), 32 or 48; `estimate` says what each keeps.",
    )
    allow_empty: bool = option(False, "With --update: a folder with nothing to read empties the index of it.")

    @property
    def size(self) -> dict[str, Any]:
        """Of `Index.create`, where the user chose it."""
        return {} if self.bytes_per_token is None else {"bytes_per_token": self.bytes_per_token}


@dataclass(frozen=True)
class WindowOptions:
    """How long documents are cut into passages."""

    window: int | None = option(
        None,
        "Cut longer documents into passages of so many tokens; 2048 where a document is longer than the model reads, "
        "unless --document-length is given.",
    )
    overlap: int = option(0, "Tokens that a window repeats of the last one.")

    def __post_init__(self) -> None:
        if self.overlap and self.window is None:
            raise ArgumentError(f"--overlap {self.overlap} is of windows; pass --window too, or leave it out")


@dataclass(frozen=True)
class ModelOptions:
    """The encoder and how it reads; what is None or at its default is the model's own choice."""

    model: str = option("bundled", '"bundled", a model folder, or a hub name.')
    document_length: int | Literal["max"] | None = option(
        None, "Tokens kept of a document; the model's own by default, or max.", metavar="N|max"
    )
    pool_factor: int = option(1, "Keep about one vector for so many tokens of a document (extra `pool`).")
    precision: str | None = option(
        None, "fp32, bf16, fp16 or int8; by default fp32 on a CPU and bf16 on a GPU."
    )
    workers: int | None = option(None, "Encoding processes; one by default, on GPUs one for each.")
    device: str | None = option(
        None,
        "Where to encode, and to build an index: cuda:1, or several with commas, or all GPUs; by default a GPU encodes "
        "where there is one.",
        "--device",
        "--devices",
    )

    def __post_init__(self) -> None:
        if isinstance(self.document_length, str) and self.document_length != "max":
            raise ArgumentError(f"document_length={self.document_length!r}; pass a number of tokens, or max")

    def arguments(self, windows: WindowOptions = WindowOptions()) -> dict[str, Any]:
        """Of `Encoder.load`, those that the user chose. Of documents in windows no more than one is read at a time."""
        chosen = {
            "document_length": self.document_length if windows.window is None else windows.window,
            "pool_factor": None if self.pool_factor == 1 else self.pool_factor,
            "precision": self.precision,
            "workers": self.workers,
            "device": self.device,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def building(self) -> str | None:
        """The device on which an index is built, of `Index.create`: the first named. None for the processor, on which
        FAISS is faster than torch."""
        first = (self.device or "cpu").split(",")[0].strip()
        return {"cpu": None, "all": "cuda"}.get(first, first)

    def load(self, windows: WindowOptions = WindowOptions()) -> "Encoder":
        from encoder import Encoder  # torch takes seconds

        try:
            return Encoder.load(self.model, **self.arguments(windows))
        except ArgumentError as error:
            if windows.window is None:
                raise
            raise ArgumentError(str(error).replace("document_length=", "window=")) from None

    def windows(self, given: WindowOptions) -> dict[str, Any]:
        """Of `Index.create`. A number of tokens that a user gives is where to cut; without one nothing is lost."""
        automatic = given.window is None and self.document_length in (None, "max")
        return {"window": "auto" if automatic else given.window, "overlap": given.overlap}
