"""What is fixed when an index is created, and what an index asks of an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from encoder.arguments import as_integer, shown
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError, EncoderMismatchError, IndexFormatError
from encoder.others import as_encoder
from indexing.coding.sizes import BYTES_PER_TOKEN

__all__ = ["DocumentEncoder", "IndexSettings", "TunedSearch"]

LEAST_BYTES, MOST_BYTES = 12, 132  # a byte for 16 dimensions, and for one


class DocumentEncoder(Protocol):
    """What an index asks of an encoder; `encoder.Encoder` is one. load_arguments: what loads it again.

    `encode_documents` is called by another thread than the one that adds, by one at a time. One that several may call
    at once says how many are worth it in `calls_at_once`, and takes `progress` as `Encoder` does. One that computes
    many tokens together says how many in `batch_tokens`, and is given texts of about twice as many.
    """

    name: str
    fingerprint: str
    load_arguments: dict[str, Any]

    @property
    def dim(self) -> int: ...

    def encode_documents(self, texts: Sequence[str], /) -> TokenEmbeddings: ...


@dataclass(frozen=True)
class IndexSettings:
    """Fixed when the index is created. `Index.create` takes the ones below `encoder_fingerprint`.

    dim: of the vectors. encoder: arguments that load it again, None for vectors of
    your own. window: tokens a passage, special ones included; "auto": what the encoder reads stays whole, and what is
    longer, of which it would lose the rest, comes in windows of 2,048 tokens that overlap by 256, or shorter ones
    where it reads less; None: one passage a document, cut where the encoder stops reading. overlap: tokens that
    neighbouring windows share, where window is a number. flat_tokens: the corpus from which a codec is trained; up to
    there vectors are float16 and scored exactly. The default trains 8,192 centroids at once: at 100,000 it would be
    4,096, and nfcorpus grown document by document lost 0.015 nDCG@10 to that. bytes_per_token: the most that a token's
    code takes once a codec is trained, 12 to 132, beside about 2 of inverted lists; 32 loses next to nothing, 48 is for
    vectors without token ids (docs/guides/size-and-speed.md). For vectors of more than 128 dimensions it is in
    proportion more. commit_tokens: tokens an add holds
    before it commits. segment_tokens: about the largest segment, and how many float16 tokens one add leaves on disk
    before it trains a codec without waiting for its end. seed: of the training.
    """

    dim: int
    encoder: dict[str, Any] | None = None
    encoder_fingerprint: str | None = None
    window: int | Literal["auto"] | None = "auto"
    overlap: int = 0
    flat_tokens: int = 262_144
    bytes_per_token: int = BYTES_PER_TOKEN
    commit_tokens: int = 500_000
    segment_tokens: int = 4_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window is not None and not (isinstance(self.window, str) and self.window == "auto"):
            as_integer(self.window, "window", 1)
        if as_integer(self.overlap, "overlap", 0) and not isinstance(self.window, int):
            raise ArgumentError(f"overlap={self.overlap} without a window; pass window, or leave it out")
        for name, least in (("flat_tokens", 1), ("commit_tokens", 1), ("segment_tokens", 1), ("seed", 0)):
            object.__setattr__(self, name, as_integer(getattr(self, name), name, least))
        size = as_integer(self.bytes_per_token, "bytes_per_token", 1)
        if not LEAST_BYTES <= size <= MOST_BYTES:
            raise ArgumentError(
                f"bytes_per_token={size}; pass {LEAST_BYTES} to {MOST_BYTES}, as 20, 32 or 48"
            )
        object.__setattr__(self, "bytes_per_token", size)

    @classmethod
    def made(
        cls, encoder: DocumentEncoder | None, dim: int | None, settings: dict[str, Any]
    ) -> "IndexSettings":
        """For a new index: what its vectors are made by, and what a user passed of the rest."""
        if encoder is not None:
            as_encoder(encoder, "encode_documents", "dim", "fingerprint", "load_arguments")
        known = {f.name for f in fields(cls)} - {"dim", "encoder", "encoder_fingerprint"}
        if unknown := sorted(settings.keys() - known):
            raise ArgumentError(
                f"{unknown[0]}={shown(settings[unknown[0]])} is no setting; pass any of {sorted(known)}"
            )
        dim = encoder.dim if encoder is not None else as_integer(dim, "dim", 1)
        return cls(
            dim=dim,
            encoder=None if encoder is None else encoder.load_arguments,
            encoder_fingerprint=None if encoder is None else encoder.fingerprint,
            **settings,
        )

    @property
    def encoder_name(self) -> str | None:
        return None if self.encoder is None else str(self.encoder["name"])

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
        name = self.encoder_name
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
