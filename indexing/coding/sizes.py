"""How large a codec's parts are for a corpus: centroids, sample rows, bytes of a code."""

import math

__all__ = [
    "BYTES_PER_TOKEN",
    "MAX_SAMPLE",
    "PQ_CENTROIDS",
    "choose_m",
    "choose_nlist",
    "codec_bytes",
    "id_bytes",
    "part_dims",
    "sample_size",
]

PQ_CENTROIDS = 256  # one byte a sub-vector
POINTS_PER_CENTROID = 16  # sample rows a centroid for k-means; 32 gained nothing (docs/benchmarks.md)
BYTES_PER_TOKEN = 20
MAX_SAMPLE = 1 << 20  # rows; 512 MiB of float32 at dim 128, whatever the corpus


def choose_nlist(n_tokens: int, most_rows: int = MAX_SAMPLE) -> int:
    """Centroids for a corpus of n_tokens, the power of two nearest to 16 * sqrt(n_tokens), as ColBERTv2 chooses,
    and twice that from a million on, where the centroids' own size no longer counts (docs/internals/codec.md).

    At least eight sample rows must fall on a centroid, so small corpora and the bounded sample lower it.
    """
    root = math.sqrt(n_tokens)
    nearest = round(math.log2(max(16 * root * min(max(root / 512, 1), 2), 2)))
    most = math.floor(math.log2(max(min(n_tokens, most_rows) / 8, 2)))
    return int(2 ** min(nearest, most))


def sample_size(n_tokens: int) -> int:
    """Rows on which to train a codec for a corpus of n_tokens."""
    wanted = max(POINTS_PER_CENTROID * choose_nlist(n_tokens), 64 * PQ_CENTROIDS)
    return min(n_tokens, MAX_SAMPLE, wanted)


def choose_m(dim: int, bytes_per_token: int = BYTES_PER_TOKEN, nlist: int = 1 << 16) -> int:
    """Bytes of residual code: what the centroid's number and the byte of lengths leave of bytes_per_token, at dim 128
    and below; in proportion more above, and no more than one a dimension. Up to one in 128 dimensions fewer where
    that divides `dim`, so that nothing is padded."""
    times = max(dim, 128) // 128
    most = max(1, min(dim, (bytes_per_token - 1 - max(2, id_bytes(nlist))) * max(dim, 128) // 128))
    return next((m for m in range(most, max(most - times, 1) - 1, -1) if dim % m == 0), most)


def part_dims(dim: int, m: int) -> int:
    """Dimensions of each of m sub-vectors of a residual; in all maybe a few more than `dim`. Two at least: a file holds
    two numbers for a last byte where one more sub-vector would be."""
    return max(2, -(-dim // m))


def codec_bytes(nlist: int, dim: int, m: int) -> int:
    """What `Codec.save` writes for a codec of `Codec.train`, but for some 200 bytes of headers. The scales are one more
    sub-vector."""
    stored = (m + 1) * part_dims(dim, m)
    centroids, ranges = nlist * stored, 2 * 4 * stored  # a byte a dimension
    return centroids + ranges + 4 * PQ_CENTROIDS * stored + 4 * dim * stored  # the last is the rotation


def id_bytes(nlist: int) -> int:
    """Bytes in which FAISS's Index2Layer writes a centroid id: 1 up to 256 lists, 2 up to 65,536, else 3."""
    return max(1, -(-(nlist - 1).bit_length() // 8))
