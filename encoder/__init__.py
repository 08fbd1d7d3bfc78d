"""Text → token embeddings: a ModernBERT late-interaction encoder. Knows nothing of indexes."""

from encoder.embeddings import TokenEmbeddings
from encoder.encode import Encoder
from encoder.errors import LatewoodError
from encoder.maxsim import maxsim

__all__ = ["Encoder", "LatewoodError", "TokenEmbeddings", "maxsim"]
