"""Text → token embeddings: a ModernBERT late-interaction encoder. Knows nothing of indexes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoder.embeddings import TokenEmbeddings
    from encoder.encode import Encoder
    from encoder.errors import LatewoodError
    from encoder.progress import progress_shown

__all__ = ["Encoder", "LatewoodError", "TokenEmbeddings", "progress_shown"]

_HOMES = {
    "Encoder": "encoder.encode",
    "LatewoodError": "encoder.errors",
    "TokenEmbeddings": "encoder.embeddings",
    "progress_shown": "encoder.progress",
}


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: torch takes seconds, and the command line must answer before."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
