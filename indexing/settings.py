"""What is fixed when an index is created, and what an index asks of an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from encoder.arguments import as_integer
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError, EncoderMismatchError, IndexFormatError

__all__ = ["DocumentEncoder", "IndexSettings", "TunedSearch"]


class DocumentEncoder(Protocol):
    """What an index asks of an encoder; `encoder.Encoder` is one. load_arguments: what loads it again."""

    name: str
    fingerprint: str
    load_arguments: dict[str, Any]

    @property
    def dim(self) -> int: ...

    def encode_documents(self, texts: Sequence[str], /) -> TokenEmbeddings: ...


@dataclass(frozen=True)
class IndexSettings:
    """Fixed when the index is created.

    dim: of the vectors. m: bytes of residual code a token. encoder: arguments that load it again, None for
    bring-your-own vectors. flat_tokens: the corpus from which a codec is trained; up to there vectors are
    float16 and scored exactly. The default trains 8,192 centroids at once: at 100,000 it would be 4,096, and
    nfcorpus grown document by document lost 0.015 nDCG@10 to that. commit_tokens: tokens an add holds before
    it commits. segment_tokens: about the largest segment, and how many float16 tokens one add leaves on disk
    before it trains a codec without waiting for its end. seed: of the training. length_byte: whether a token's
    code ends in a byte for the vector's length; indexes from before there was one do not name it and have none.
    """

    dim: int
    m: int
    encoder: dict[str, Any] | None = None
    encoder_fingerprint: str | None = None
    flat_tokens: int = 262_144
    commit_tokens: int = 500_000
    segment_tokens: int = 4_000_000
    seed: int = 0
    length_byte: bool = False

    def __post_init__(self) -> None:
        for name, least in (("flat_tokens", 1), ("commit_tokens", 1), ("segment_tokens", 1), ("seed", 0)):
            object.__setattr__(self, name, as_integer(getattr(self, name), name, least))

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Path) -> "IndexSettings":
        known = {f.name for f in fields(cls)}
        if not values.keys() <= known:
            raise IndexFormatError(
                f"{path} has unknown settings {sorted(values.keys() - known)}; upgrade Latewood"
            )
        return cls(**values)

    def check_encoder(self, encoder: DocumentEncoder, folder: Path) -> None:
        """Raises EncoderMismatchError if this encoder did not make the vectors of the index in `folder`."""
        if self.encoder_fingerprint is None:
            raise EncoderMismatchError(
                f"{folder} was created without an encoder; open it without one and use add_embeddings"
            )
        name = None if self.encoder is None else str(self.encoder["name"])
        if encoder.fingerprint != self.encoder_fingerprint:
            raise EncoderMismatchError(
                f"{folder} was made by encoder {name!r} (fingerprint "
                f"{self.encoder_fingerprint}), not {encoder.name!r} ({encoder.fingerprint}); "
                "open it with that one, or build a new index"
            )


@dataclass(frozen=True)
class TunedSearch:
    """Search settings measured on this index (`latewood tune`), in place of the defaults for k hits or fewer.

    recall: of the exact top k, as measured. The rest is explained at retriever's SearchSettings.
    """

    k: int
    recall: float
    nprobe: int
    ncandidates: int
    nrerank: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.nrerank <= self.ncandidates or self.nprobe < 1:
            raise ArgumentError(
                f"{self} cannot work; 1 <= k <= nrerank <= ncandidates and nprobe >= 1 must hold"
            )

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Path) -> "TunedSearch":
        known = {f.name for f in fields(cls)}
        if values.keys() != known:
            raise IndexFormatError(
                f"{path} has search settings {sorted(values)}, not {sorted(known)}; tune it again"
            )
        return cls(**values)
