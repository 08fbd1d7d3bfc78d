"""Codec: a token vector in a centroid id, M bytes of residual product code and a byte of length, by FAISS.

A vector v, turned by a rotation, is stored as the id of the centroid c with the largest inner product, a product code
r of v - c and the number of a scale s near |v| / |c + r|; it decodes to (c + r) * s, turned back. All use of FAISS in
indexing is here, in centroids.py and in faiss_files.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.errors import ArgumentError, IndexFormatError
from indexing.coding.centroids import ByteCentroids, faiss_module, half_quantizer
from indexing.coding.faiss_files import check_layers, read_index, write_index
from indexing.coding.sizes import PQ_CENTROIDS, choose_m, choose_nlist, id_bytes

__all__ = ["Codec", "write_codes"]

KMEANS_ITERATIONS = 3
PQ_ITERATIONS = 25
NOVEL_ERROR = 2  # a token coded this many times worse than the training sample is new to the codec
NOVEL_PER_CENTROID = 16
HNSW_NLIST = 16384  # from here on a graph over the centroids assigns faster than comparing with all of them
HNSW_EF = 32  # measured at 16,384 centroids: twice as fast, 99.1 % the same centroid
CHUNK = 1 << 16  # tokens encoded at a time
ERROR_ROWS = 1 << 13
SCALES = 256  # one byte
SCALE_TAILS = (0.01, 99.99)  # percentiles of the training sample that the scales reach to
SCALE_RANGE = (0.9, 1.1)  # and at least so far, since vectors unlike the sample lose more; a step is 0.0008


class Codec:
    """A trained codec.

    centroids: (nlist, dim) float32, unit length to within the rounding of their bytes.
    byte_centroids: the same in bytes; None where the index was made before centroids were kept so (in float16).
    pq_centroids: (m, 256, dim // m) float32, the residual's sub-vectors.
    scales: (256,) float32, ascending: what c + r is multiplied by, by the last byte of a code. None for a codec
    of an index that was made before there were any: codes then have no byte for it, and all scales are 1, so
    that whichever byte comes last looks up 1.
    code_bytes: bytes of code a token beside its centroid id: m, and one more with scales.
    rotation: (dim, dim) float32, orthonormal: centroids and codes are of v @ rotation. None, for v itself, in an
    index that was made before there was any.
    """

    def __init__(
        self,
        centroids: npt.NDArray[np.float32],
        pq_centroids: npt.NDArray[np.float32],
        scales: npt.NDArray[np.float32] | None = None,
        byte_centroids: ByteCentroids | None = None,
        rotation: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.nlist, self.dim = centroids.shape
        self.m = len(pq_centroids)
        self.length_byte = scales is not None
        self.code_bytes = self.m + self.length_byte
        # FAISS's dimensions: to it the scale is one more sub-vector, [scale, 0, ...], where vectors have zeros.
        self._stored_dim = self.dim + self.length_byte * (self.dim // self.m)
        self.centroids = centroids
        self.byte_centroids = byte_centroids
        self.pq_centroids = pq_centroids
        self.rotation = rotation
        self.scales = np.ones(SCALES, np.float32) if scales is None else scales
        for array in (self.centroids, self.pq_centroids, self.scales):
            array.flags.writeable = False
        self._quantizer: Any = None
        self._pq: Any = None

    @classmethod
    def train(
        cls,
        sample: npt.NDArray[np.float32],
        nlist: int | None = None,
        m: int | None = None,
        seed: int = 0,
        length_byte: bool = True,
    ) -> "Codec":
        """Spherical k-means, then a product quantiser of what the centroids leave over, then scales.

        sample: (n, dim), n >= 256; see `sample_size` for how many are worth drawing.
        nlist: centroids; by default `choose_nlist(n)`. m: bytes of residual; by default `choose_m(dim)`.
        length_byte: False for an index whose codes have none.
        The same sample and seed give the same codec on the same machine; from HNSW_NLIST on, where centroids are
        found by a graph that several threads build, nearly the same.
        """
        faiss = faiss_module()
        n, dim = sample.shape
        nlist = choose_nlist(n) if nlist is None else nlist
        m = choose_m(dim) if m is None else m
        if n < PQ_CENTROIDS:
            raise ArgumentError(f"{n} vectors cannot train a codec; pass at least {PQ_CENTROIDS}")
        if not 2 <= nlist <= n:  # one list would have ids of no bytes
            raise ArgumentError(f"nlist={nlist} with {n} sample vectors; pass 2 <= nlist <= {n}")
        if m < 1 or dim % m != 0:
            raise ArgumentError(f"m={m} does not divide dim={dim}; pass m={choose_m(dim)}")
        sample = np.ascontiguousarray(sample, dtype=np.float32)
        kmeans = faiss.Clustering(dim, nlist)
        kmeans.niter, kmeans.spherical, kmeans.seed = KMEANS_ITERATIONS, True, seed
        kmeans.min_points_per_centroid, kmeans.max_points_per_centroid = 1, n
        quantizer = _nearest(dim, nlist, links=16, construction=40)
        kmeans.train(sample, quantizer)
        # FAISS draws at most 256 rows for each of 256 sub-vector centroids, so more would not be looked at.
        rows = sample[np.linspace(0, n - 1, min(n, PQ_CENTROIDS * PQ_CENTROIDS)).astype(np.int64)]
        found = faiss.vector_to_array(kmeans.centroids).reshape(nlist, dim)
        rotation = _balanced_directions(rows - found[quantizer.search(rows, 1)[1][:, 0]], m)
        rows = rows @ rotation
        # The residuals are trained and coded against the very numbers that a reader will load.
        in_bytes, centroids = ByteCentroids.of(found @ rotation)
        untrained = np.zeros((m, PQ_CENTROIDS, dim // m), dtype=np.float32)
        codec = cls(centroids, untrained, byte_centroids=in_bytes, rotation=rotation)
        ids = codec._nearest_centroids(rows)
        residuals = rows - centroids[ids]
        pq = faiss.ProductQuantizer(dim, m, 8)
        pq.cp.seed, pq.cp.niter, pq.cp.min_points_per_centroid = seed, PQ_ITERATIONS, 1
        pq.train(residuals)
        trained = faiss.vector_to_array(pq.centroids).reshape(m, PQ_CENTROIDS, dim // m)
        graph = codec._quantizer  # takes long to build
        codec = cls(centroids, trained, None, in_bytes, rotation)
        if length_byte:
            wanted = []
            for start in range(0, len(rows), ERROR_ROWS):
                at = slice(start, start + ERROR_ROWS)
                codes = codec._residual_codes(rows[at], residuals[at])
                wanted.append(codec._wanted_scales(rows[at], ids[at], codes))
            codec = cls(centroids, trained, _choose_scales(np.concatenate(wanted)), in_bytes, rotation)
        codec._quantizer = graph
        return codec

    def error(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What coding costs each vector: |v - decoded v|^2, (n, dim) -> (n,)."""
        parts = []
        for start in range(0, len(vectors), ERROR_ROWS):
            rows = vectors[start : start + ERROR_ROWS].astype(np.float32, copy=False)
            parts.append(np.square(rows - self.decode(*self.encode(rows))).sum(axis=1))
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def extended(
        self, sample: npt.NDArray[np.float32], n_tokens: int, *, error: float, most: int, seed: int = 0
    ) -> "Codec":
        """This codec with more centroids, for vectors unlike those it was trained on; or itself if there are few.

        sample: (n, dim) of n_tokens vectors yet to be coded. error: mean error of the vectors it was trained on.
        most: centroids in all. The old centroids keep their ids and the residual quantiser stays as it is, and
        so do the scales: codes made before stay right. Nothing that was coded is coded a second time.
        """
        faiss = faiss_module()
        novel = sample[self.error(sample) > NOVEL_ERROR * error + 1e-3]
        more = int(len(novel) * n_tokens / max(len(sample), 1) / NOVEL_PER_CENTROID)
        # At least four rows a centroid; and ids must not get wider than those in the codes made before.
        more = min(more, len(novel) // 4, min(most, 256 ** id_bytes(self.nlist)) - self.nlist)
        if more < 1:
            return self
        kmeans = faiss.Kmeans(
            self.dim,
            more,
            niter=KMEANS_ITERATIONS,
            spherical=True,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(novel),
        )
        kmeans.train(np.ascontiguousarray(self.rotated(novel.astype(np.float32, copy=False))))
        new, in_bytes = kmeans.centroids.reshape(more, self.dim), self.byte_centroids
        if in_bytes is None:
            new = half_quantizer(new).reconstruct_n(0, more)
        else:
            added, new = ByteCentroids.of(new, in_bytes)
            in_bytes = replace(in_bytes, numbers=np.concatenate([in_bytes.numbers, added.numbers]))
        codec = Codec(
            np.concatenate([self.centroids, new]),
            self.pq_centroids,
            self.scales if self.length_byte else None,
            in_bytes,
            self.rotation,
        )
        if self._quantizer is not None and isinstance(self._quantizer, faiss.IndexHNSWFlat):
            codec._quantizer = faiss.clone_index(self._quantizer)  # to build it anew takes far longer
            codec._quantizer.add(new)
        return codec

    def rotated(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, dim) -> (n, dim): the vectors as centroids and codes see them. Inner products stay as they are."""
        return vectors if self.rotation is None else vectors @ self.rotation

    def assign(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Centroid of each vector, (n, dim) -> (n,): the largest inner product.

        From nlist 16,384 on a graph search finds it, which about one time in a hundred settles for the
        runner-up; the residual code absorbs the difference.
        """
        return self._nearest_centroids(self.rotated(vectors.astype(np.float32, copy=False)))

    def _nearest_centroids(self, rotated: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        if self._quantizer is None:
            self._quantizer = _nearest(self.dim, self.nlist, links=32, construction=100)
            self._quantizer.add(self.centroids)
        _, ids = self._quantizer.search(np.ascontiguousarray(rotated), 1)
        return np.asarray(ids[:, 0], dtype=np.int64)

    def encode(
        self, vectors: npt.NDArray[np.floating[Any]]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """(n, dim) -> centroid_ids (n,) int32 and codes (n, code_bytes) uint8: residual code, then the scale's."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ArgumentError(f"vectors has shape {vectors.shape}; pass (n, {self.dim})")
        ids = np.empty(len(vectors), dtype=np.int32)
        codes = np.empty((len(vectors), self.code_bytes), dtype=np.uint8)
        for start in range(0, len(vectors), CHUNK):
            chunk = self.rotated(np.ascontiguousarray(vectors[start : start + CHUNK], dtype=np.float32))
            at = slice(start, start + len(chunk))
            ids[at] = self._nearest_centroids(chunk)
            codes[at, : self.m] = self._residual_codes(chunk, chunk - self.centroids[ids[at]])
            if self.length_byte:
                wanted = self._wanted_scales(chunk, ids[at], codes[at])
                codes[at, self.m] = np.searchsorted((self.scales[1:] + self.scales[:-1]) / 2, wanted)
        return ids, codes

    def _residual_codes(
        self, vectors: npt.NDArray[np.float32], residuals: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """(n, dim) vectors, rotated, and their residuals -> (n, m) codes.

        A search compares a stored vector with queries near it, so an error along the vector changes scores most
        (Guo et al. 2020, arXiv 1908.10396). What the nearest code gets wrong along it is therefore added to the
        residual before it is coded for good (docs/index.md).
        """
        if self._pq is None:
            self._pq = self._product_quantizer()
        errors = residuals - self._residuals(self._pq.compute_codes(residuals))
        squares = np.einsum("ij,ij->i", vectors, vectors)
        along = np.einsum("ij,ij->i", errors, vectors) / np.maximum(squares, np.finfo(np.float32).tiny)
        codes: npt.NDArray[np.uint8] = self._pq.compute_codes(residuals + along[:, None] * vectors)
        return codes

    def _residuals(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(n, m) codes, or with the scale's byte -> (n, dim)."""
        parts: npt.NDArray[np.float32] = self.pq_centroids[np.arange(self.m), codes[:, : self.m]]
        return parts.reshape(-1, self.dim)

    def _wanted_scales(
        self,
        vectors: npt.NDArray[np.float32],
        centroid_ids: npt.NDArray[np.integer[Any]],
        codes: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.float32]:
        """What makes each c + r as long as its vector, rotated: (n,)."""
        decoded = self._residuals(codes)
        decoded += self.centroids[centroid_ids]
        wanted, found = (np.sqrt(np.einsum("ij,ij->i", rows, rows)) for rows in (vectors, decoded))
        scales: npt.NDArray[np.float32] = np.divide(wanted, found, out=np.ones_like(wanted), where=found > 0)
        return scales

    def decode(
        self, centroid_ids: npt.NDArray[np.integer[Any]], codes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        """centroid_ids (n,) and codes (n, code_bytes) -> (n, dim) float32: (centroid + residual) * scale."""
        decoded: npt.NDArray[np.float32] = self.centroids[centroid_ids] + self._residuals(codes)
        decoded *= self.scales[codes[:, -1], None]
        return decoded if self.rotation is None else decoded @ self.rotation.T

    def pack(
        self, centroid_ids: npt.NDArray[np.integer[Any]], codes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Index2Layer's bytes a token: the centroid id, little-endian, then the code."""
        width = id_bytes(self.nlist)
        ids = centroid_ids.astype("<i4").view(np.uint8).reshape(-1, 4)
        return np.concatenate([ids[:, :width], codes], axis=1)

    def save(self, path: Path) -> None:
        """Write an Index2Layer without codes, behind the rotation; its coarse quantiser holds the centroids in bytes,
        or in float16."""
        own, padding = self.byte_centroids, self._stored_dim - self.dim
        quantizer = half_quantizer(self.centroids, padding) if own is None else own.quantizer(padding)
        index = self._layers(quantizer)
        if self.rotation is not None:
            faiss = faiss_module()
            turn = faiss.LinearTransform(self.dim, self._stored_dim)
            faiss.copy_array_to_vector(np.pad(self.rotation.T, ((0, padding), (0, 0))).ravel(), turn.A)
            turn.is_trained = True
            turn.set_is_orthonormal()
            index = faiss.IndexPreTransform(turn, index)
        write_index(index, path)

    @classmethod
    def load(cls, path: Path, *, dim: int, length_byte: bool) -> "Codec":
        """Read what `save` wrote. Raises IndexFormatError naming the file, also for one of another kind."""
        faiss = faiss_module()
        whole = read_index(path)  # which owns what lies inside
        index, rotation = whole, None
        if isinstance(whole, faiss.IndexPreTransform):
            index = faiss.downcast_index(whole.index)
            turn = faiss.downcast_VectorTransform(whole.chain.at(0))
            rotation = faiss.vector_to_array(turn.A).reshape(turn.d_out, turn.d_in)[: turn.d_in].T.copy()
        check_layers(index, path)
        stored, part = index.d, index.pq.dsub
        if stored != dim + length_byte * part:
            raise IndexFormatError(
                f"{path} codes {stored} dimensions, the index needs {dim + length_byte * part}; "
                "restore it or build the index again"
            )
        quantizer = faiss.downcast_index(index.q1.quantizer)
        in_bytes = None
        if quantizer.sq.qtype == faiss.ScalarQuantizer.QT_8bit:
            padded = ByteCentroids.read(quantizer)
            in_bytes = ByteCentroids(padded.numbers[:, :dim].copy(), padded.low[:dim], padded.span[:dim])
            centroids = in_bytes.floats()
        else:
            centroids = np.ascontiguousarray(quantizer.reconstruct_n(0, quantizer.ntotal)[:, :dim])
        turns = rotation is None or np.allclose(rotation.T @ rotation, np.eye(len(rotation)), atol=1e-3)
        if not turns or not np.isfinite(centroids).all():
            raise IndexFormatError(f"{path} is damaged; restore it or build the index again")
        pq = faiss.vector_to_array(index.pq.centroids).reshape(index.pq.M, PQ_CENTROIDS, part)
        if not length_byte:
            return cls(centroids, pq, None, in_bytes, rotation)
        scales = pq[-1, :, 0].copy()
        if not (np.isfinite(scales).all() and scales[0] >= 0 and (np.diff(scales) >= 0).all()):
            raise IndexFormatError(f"{path} is damaged; restore it or build the index again")
        return cls(centroids, pq[:-1].copy(), scales, in_bytes, rotation)

    def _product_quantizer(self) -> Any:
        faiss = faiss_module()
        pq = faiss.ProductQuantizer(self.dim, self.m, 8)
        faiss.copy_array_to_vector(self.pq_centroids.ravel(), pq.centroids)
        return pq

    def _layers(self, quantizer: Any) -> Any:
        faiss = faiss_module()
        index = faiss.Index2Layer(quantizer, self.nlist, self.code_bytes)
        stored = np.zeros((self.code_bytes, *self.pq_centroids.shape[1:]), dtype=np.float32)
        stored[: self.m] = self.pq_centroids
        if self.length_byte:
            stored[self.m, :, 0] = self.scales
        faiss.copy_array_to_vector(stored.ravel(), index.pq.centroids)
        index.is_trained = True
        return index


def _balanced_directions(residuals: npt.NDArray[np.float32], m: int) -> npt.NDArray[np.float32]:
    """An orthonormal (dim, dim): principal directions of the residuals, dealt out to m sub-vectors so that the
    product of variances is about the same in all (OPQ's parametric solution, Ge et al. 2013)."""
    dim = residuals.shape[1]
    moment = residuals.T.astype(np.float64) @ residuals
    values, directions = np.linalg.eigh(moment)  # ascending
    logs = np.log(np.maximum(values[::-1], values[-1] * 1e-12 + np.finfo(np.float64).tiny))
    parts: list[list[int]] = [[] for _ in range(m)]
    for direction in range(dim):
        open_parts = [part for part in parts if len(part) < dim // m]
        # Of the parts with room the one that has least, by variances as multiples of the smallest.
        min(open_parts, key=lambda part: sum(logs[i] - logs[-1] for i in part)).append(direction)
    order = [direction for part in parts for direction in part]
    balanced: npt.NDArray[np.float32] = directions[:, ::-1][:, order].astype(np.float32)
    return np.ascontiguousarray(balanced)


def _choose_scales(wanted: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Evenly spaced scales over what a sample wants, with 1 among them, so that what is exact stays exact."""
    low, high = np.percentile(wanted, SCALE_TAILS)
    scales = np.linspace(min(low, SCALE_RANGE[0]), max(high, SCALE_RANGE[1]), SCALES)
    scales += 1 - scales[np.abs(scales - 1).argmin()]
    return np.maximum(scales, 0).astype(np.float32)


def write_codes(path: Path, codec: Codec, codes: npt.NDArray[np.uint8]) -> None:
    """Write packed codes (n, id_bytes + code_bytes) as an Index2Layer whose centroids stay in the codec's file."""
    faiss = faiss_module()
    index = codec._layers(faiss.IndexFlatL2(codec._stored_dim))
    if len(codes):
        index.add_sa_codes(np.ascontiguousarray(codes))
    write_index(index, path)


def _nearest(dim: int, nlist: int, *, links: int, construction: int) -> Any:
    """An empty index that finds a vector's centroid, exactly or by a graph; k-means does with a coarser graph."""
    faiss = faiss_module()
    if nlist < HNSW_NLIST:
        return faiss.IndexFlatIP(dim)
    index = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = construction, HNSW_EF
    return index
