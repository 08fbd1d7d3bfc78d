"""How much memory a build may take, and what that means for commits, segments and training samples."""

import re
from dataclasses import replace

from encoder.arguments import shown
from encoder.errors import ArgumentError
from indexing.coding.sizes import MAX_SAMPLE
from indexing.settings import IndexSettings

__all__ = ["ROW_BYTES", "limit", "parse_bytes"]

BASE = 384_000_000  # the interpreter, torch, FAISS and SQLite: 250 MB measured; and blocks of tokens in work
ENCODER = 384_000_000  # the bundled model and a batch in it
LEAST = 128_000_000  # what must be left for vectors
ROW_BYTES = (
    10  # of a training row, a dimension: in float32, as its segment gives it and joined, and inside k-means
)
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(value: int | str) -> int:
    """1_000_000_000, "1GB", "1.5 GB" or "800MB" in bytes; a unit is a power of 1,000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(value), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    if found is None or unit not in UNITS:
        raise ArgumentError(f'memory={shown(value)}; pass bytes or a size like "800MB" or "2GB"')
    return int(float(found[1]) * UNITS[unit])


def limit(settings: IndexSettings, memory: int | str | None) -> tuple[IndexSettings, int]:
    """The settings to write with under a limit of the process's peak memory, and the most training rows.

    While a codec is trained all three are resident: the rows, the pages of the flat segments they are drawn from,
    and what pending vectors took, which the C library does not give back to the system. So each has its share.
    Raises ArgumentError for a limit under what any build takes.
    """
    if memory is None:
        return settings, MAX_SAMPLE
    base = BASE + (ENCODER if settings.encoder else 0)
    room = parse_bytes(memory) - base
    if room < LEAST:
        raise ArgumentError(
            f"memory={memory!r}; pass at least {(base + LEAST) // 10**6}MB"
            + (" (the encoder alone takes most of it)" if settings.encoder else "")
        )
    half = 2 * settings.dim  # a float16 vector
    limited = replace(
        settings,
        # A sixth of the room for pending vectors, a third for those mapped, a half for training.
        commit_tokens=max(1, min(settings.commit_tokens, room // (6 * half))),
        segment_tokens=max(1, min(settings.segment_tokens, room // (3 * half))),
    )
    return limited, max(256, min(MAX_SAMPLE, room // (2 * ROW_BYTES * settings.dim)))
