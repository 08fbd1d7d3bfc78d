"""Text → token embeddings: a ModernBERT late-interaction encoder. Knows nothing of indexes."""

from typing import TYPE_CHECKING, Any

from encoder.embeddings import TokenEmbeddings
from encoder.errors import LatewoodError
from encoder.maxsim import maxsim

if TYPE_CHECKING:
    from encoder.encode import Encoder

__all__ = ["Encoder", "LatewoodError", "TokenEmbeddings", "maxsim"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":  # when it is asked for: torch takes seconds
        from encoder.encode import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
