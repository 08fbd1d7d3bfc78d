"""Codec: a token vector in a centroid id, M bytes of residual product code and a byte of length, by FAISS.

A vector v, turned by a rotation, is stored as the id of the centroid c with the largest inner product, a product code
k of the direction of v - c, and the number of a gain and a scale; it decodes to (c + gain * k) * scale, turned back:
lengths.py. All use of FAISS in indexing is here, in centroids.py, training.py and faiss_files.py. On a device torch
computes the same: torch_coding.py.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.embeddings import NO_ID
from encoder.errors import ArgumentError, IndexFormatError
from encoder.threads import thread_count
from indexing.coding.centroids import ByteCentroids, faiss_module
from indexing.coding.faiss_files import append_codes, checked, read_index, write_index
from indexing.coding.lengths import LEVELS, Products, choose_scales, numbers_of, plain_scales
from indexing.coding.sizes import PQ_CENTROIDS, choose_m, choose_nlist, id_bytes, part_dims
from indexing.coding.training import balanced_directions, product_centroids, quantizer_of, train_centroids
from indexing.coding.vocabulary import Owners, nearest

if TYPE_CHECKING:
    import torch

    from indexing.coding.torch_coding import DeviceCoder

__all__ = ["Codec", "write_codes"]

TokenIds: TypeAlias = npt.NDArray[np.int32]

NOVEL_ERROR = 2  # a token coded this many times worse than the training sample is new to the codec
NOVEL_PER_CENTROID = 16
FEW = 4096  # vectors for which no graph is built, where most find their centroid among those of their id
CHUNK = 1 << 16  # tokens encoded at a time, at most
BLOCK = 1 << 13  # of which, once their centroids are known, a thread codes so many together
ERROR_ROWS = 1 << 13
MOST = 1e30  # that a number of a centroid can be


class Codec:
    """A trained codec.

    byte_centroids: nlist of `turned_dim`, of unit length to within the rounding to bytes.
    centroids: the same in float32, (nlist, turned_dim).
    pq_centroids: (m, 256, turned_dim // m) float32, the sub-vectors of a residual's direction.
    scales: (256, 2) float32: scale and gain by the last byte of a code, see lengths.py.
    rotation: (dim, turned_dim) float32 with orthonormal rows: centroids and codes are of v @ rotation. turned_dim is
    the next multiple of m.
    code_bytes: bytes of code a token beside its centroid id: m, and the length's.
    owners: which vocabulary id each centroid belongs to, where they were trained within ids; else None.
    device: where vectors are coded; None for the processor. May be set at any time: the codes mean the same.
    """

    device: "torch.device | None" = None

    def __init__(
        self,
        centroids: ByteCentroids,
        pq_centroids: npt.NDArray[np.float32],
        scales: npt.NDArray[np.float32],
        rotation: npt.NDArray[np.float32],
        owners: Owners | None = None,
    ) -> None:
        self.dim, self.turned_dim = rotation.shape
        self.nlist, self.m = len(centroids.numbers), len(pq_centroids)
        self.code_bytes = self.m + 1
        # FAISS's dimensions: to it the last byte is one more sub-vector, [scale, gain, 0, ...], where vectors have 0.
        self._stored_dim = self.turned_dim + self.turned_dim // self.m
        self.byte_centroids = centroids
        self.pq_centroids = pq_centroids
        self.scales = scales
        self.rotation = rotation
        self.owners = owners
        for array in (self.pq_centroids, self.scales, self.rotation):
            array.flags.writeable = False
        self._quantizer: Any = None
        self._pq: Any = None
        self._coder: DeviceCoder | None = None

    def memory(self) -> dict[str, int]:
        """Bytes of the arrays held, by name."""
        floats, owners = self.__dict__.get("centroids"), self.owners
        return {
            "centroids": self.byte_centroids.nbytes + (0 if floats is None else floats.nbytes),
            "vocabulary ids": 0 if owners is None else owners.nbytes,
            "codec": self.pq_centroids.nbytes + self.scales.nbytes + self.rotation.nbytes,
        }

    @cached_property
    def centroids(self) -> npt.NDArray[np.float32]:
        """Four times the bytes, which a search on the processor does without."""
        centroids = self.byte_centroids.floats()
        centroids.flags.writeable = False
        return centroids

    @classmethod
    def train(
        cls,
        sample: npt.NDArray[np.float32],
        nlist: int | None = None,
        m: int | None = None,
        seed: int = 0,
        token_ids: TokenIds | None = None,
        device: "torch.device | None" = None,
    ) -> "Codec":
        """Spherical k-means, then a product quantiser of the directions of what the centroids leave over, then scales.

        sample: (n, dim), n >= 256; see `sample_size` for how many are worth drawing. token_ids: (n,), where known;
        k-means is then within each vocabulary id.
        nlist: centroids; by default `choose_nlist(n)`. m: bytes of residual; by default `choose_m(dim)`.
        device: where it is trained, and codes from then on; None for the processor.
        The same sample and seed give the same codec on the same machine; from HNSW_NLIST on, where centroids are
        found by a graph that several threads build, nearly the same.
        """
        n, dim = sample.shape
        nlist = choose_nlist(n) if nlist is None else nlist
        m = choose_m(dim) if m is None else m
        if n < PQ_CENTROIDS:
            raise ArgumentError(f"{n} vectors cannot train a codec; pass at least {PQ_CENTROIDS}")
        if not 2 <= nlist <= n:  # one list would have ids of no bytes
            raise ArgumentError(f"nlist={nlist} with {n} sample vectors; pass 2 <= nlist <= {n}")
        if not 1 <= m <= dim:
            raise ArgumentError(f"m={m} for vectors of dim={dim}; pass 1 <= m <= {dim}")
        sample = np.ascontiguousarray(sample, dtype=np.float32)
        # FAISS draws at most 256 rows for each of 256 sub-vector centroids, so more would not be looked at.
        some = np.linspace(0, n - 1, min(n, PQ_CENTROIDS * PQ_CENTROIDS)).astype(np.int64)
        if token_ids is not None and (token_ids == token_ids[0]).all():  # of one id alone: nothing to go by
            token_ids = None
        rows, row_ids = sample[some], None if token_ids is None else token_ids[some]
        ones, untrained = plain_scales(), np.zeros((m, PQ_CENTROIDS, part_dims(dim, m)), np.float32)
        found, owners, quantizer = train_centroids(sample, token_ids, nlist, seed, device)
        if device is not None:
            plain = cls(ByteCentroids.of(found), untrained, ones, np.eye(dim, dtype=np.float32), owners)
            plain.device = device
            near = plain.assign(rows, row_ids)
        elif owners is None or row_ids is None:
            near = quantizer.search(rows, 1)[1][:, 0]
        else:
            near = owners.nearest(rows, row_ids, found)
        rotation = balanced_directions(_directions((rows - found[near])[near >= 0]), m)
        rows = rows @ rotation
        # The residuals are trained and coded against the very numbers that a reader will load.
        centroids = ByteCentroids.of(found @ rotation)
        codec = cls(centroids, untrained, ones, rotation, owners)
        codec.device = device
        ids = codec._nearest_centroids(rows, row_ids)
        residuals = rows - codec.centroids[ids]
        codec = codec._with(product_centroids(_directions(residuals), m, seed, device), ones)
        coded = codec._decoded_directions(codec._direction_codes(residuals))
        return codec._with(codec.pq_centroids, choose_scales(Products.of(rows, residuals, coded)))

    def _with(self, pq_centroids: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]) -> "Codec":
        """The same centroids with other codes of residuals and lengths."""
        codec = Codec(self.byte_centroids, pq_centroids, scales, self.rotation, self.owners)
        codec.device, codec._quantizer = self.device, self._quantizer  # a graph takes long to build
        return codec

    def error(
        self, vectors: npt.NDArray[np.float32], token_ids: TokenIds | None = None
    ) -> npt.NDArray[np.float32]:
        """What coding costs each vector: |v - decoded v|^2, (n, dim) -> (n,)."""
        parts = []
        for start in range(0, len(vectors), ERROR_ROWS):
            at = slice(start, start + ERROR_ROWS)
            rows = vectors[at].astype(np.float32, copy=False)
            ids = None if token_ids is None else token_ids[at]
            parts.append(np.square(rows - self.decode(*self.encode(rows, ids))).sum(axis=1))
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def extended(
        self,
        sample: npt.NDArray[np.float32],
        n_tokens: int,
        token_ids: TokenIds | None = None,
        *,
        error: float,
        most: int,
        seed: int = 0,
    ) -> "Codec":
        """This codec with more centroids, for vectors unlike those it was trained on; or itself if there are few.

        sample: (n, dim) of n_tokens vectors yet to be coded. token_ids: theirs, (n,). error: mean error of the vectors
        it was trained on. most: centroids in all. The old centroids keep their ids, and whose they are, and the
        residual quantiser stays as it is, and so do the scales: codes made before stay right. Nothing that was coded is
        coded a second time.
        """
        faiss = faiss_module()
        worse = self.error(sample, token_ids) > NOVEL_ERROR * error + 1e-3
        novel = np.ascontiguousarray(self.rotated(sample[worse].astype(np.float32, copy=False)))
        more = int(len(novel) * n_tokens / max(len(sample), 1) / NOVEL_PER_CENTROID)
        # At least four rows a centroid; and ids must not get wider than those in the codes made before.
        more = min(more, len(novel) // 4, min(most, 256 ** id_bytes(self.nlist)) - self.nlist)
        if more < 1:
            return self
        no_ids = np.full(len(sample), NO_ID, np.int32)
        novel_ids = None if self.owners is None else (no_ids if token_ids is None else token_ids)[worse]
        found, added, _ = train_centroids(novel, novel_ids, more, seed, self.device)
        owners = None
        if self.owners is not None and added is not None:
            owners = Owners(np.concatenate([self.owners.tokens, added.tokens]))
        new = ByteCentroids.of(found, self.byte_centroids).numbers
        centroids = replace(self.byte_centroids, numbers=np.concatenate([self.byte_centroids.numbers, new]))
        codec = Codec(centroids, self.pq_centroids, self.scales, self.rotation, owners)
        codec.device = self.device
        if self._quantizer is not None and isinstance(self._quantizer, faiss.IndexHNSWFlat):
            codec._quantizer = faiss.clone_index(self._quantizer)  # to build it anew takes far longer
            codec._quantizer.add(codec.centroids[self.nlist :])
        return codec

    def rotated(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, dim) -> (n, turned_dim): the vectors as centroids and codes see them. Inner products stay as they are."""
        return vectors @ self.rotation

    def assign(
        self, vectors: npt.NDArray[np.float32], token_ids: TokenIds | None = None
    ) -> npt.NDArray[np.int64]:
        """Centroid of each vector, (n, dim) -> (n,): the largest inner product, among those of its vocabulary id where
        both are known.

        Among all, from nlist 16,384 on a graph search finds it, which about one time in a hundred settles for the
        runner-up; the residual code absorbs the difference.
        """
        return self._nearest_centroids(self.rotated(vectors.astype(np.float32, copy=False)), token_ids)

    def _nearest_centroids(
        self, rotated: npt.NDArray[np.float32], token_ids: TokenIds | None
    ) -> npt.NDArray[np.int64]:
        if (coder := self._on_device()) is not None:
            return coder.nearest(rotated, token_ids)
        if self.owners is None or token_ids is None:
            return self._nearest_of_all(rotated)
        ids = self.owners.nearest(rotated, token_ids, self.centroids)
        if len(others := np.flatnonzero(ids < 0)):
            ids[others] = self._nearest_of_all(rotated[others])
        return ids

    def _on_device(self) -> "DeviceCoder | None":
        if self.device is None:
            return None
        if self._coder is None or self._coder.device != self.device:
            from indexing.coding.torch_coding import DeviceCoder

            self._coder = DeviceCoder(self, self.device)
        return self._coder

    def _nearest_of_all(self, rotated: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        if self.owners is not None and len(rotated) < FEW:
            return nearest(rotated, self.centroids)[0]
        if self._quantizer is None:
            self._quantizer = quantizer_of(self.turned_dim, self.nlist, links=32, construction=100)
            self._quantizer.add(self.centroids)
        _, ids = self._quantizer.search(np.ascontiguousarray(rotated), 1)
        return np.asarray(ids[:, 0], dtype=np.int64)

    @property
    def at_once(self) -> int:
        """Vectors that are coded together: enough for all threads, or for a device, and no more, for each takes three
        times its size meanwhile."""
        return CHUNK if self.device is not None else min(CHUNK, 2 * BLOCK * thread_count())

    def encode(
        self, vectors: npt.NDArray[np.floating[Any]], token_ids: TokenIds | None = None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """(n, dim) -> centroid_ids (n,) int32 and codes (n, code_bytes) uint8: residual code, then the length's.

        token_ids: (n,), NO_ID or an id without centroids for what is compared with all of them.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ArgumentError(f"vectors has shape {vectors.shape}; pass (n, {self.dim})")
        ids = np.empty(len(vectors), dtype=np.int32)
        codes = np.empty((len(vectors), self.code_bytes), dtype=np.uint8)
        step = self.at_once
        for start in range(0, len(vectors), step):
            at = slice(start, start + step)
            own = None if token_ids is None else token_ids[at]
            if (coder := self._on_device()) is not None:
                ids[at], codes[at] = coder.encode(vectors[at], own)
                continue
            chunk = self.rotated(np.ascontiguousarray(vectors[at], dtype=np.float32))
            ids[at] = self._nearest_centroids(chunk, own)
            self._code(chunk, ids[at], codes[at])
        return ids, codes

    def _code(
        self, rotated: npt.NDArray[np.float32], ids: npt.NDArray[np.int32], codes: npt.NDArray[np.uint8]
    ) -> None:
        """Fill the codes of vectors, (n, turned_dim), with these centroids, on the process's threads."""
        self._prepare()

        def work(rows: slice) -> None:
            residuals = rotated[rows] - self.centroids[ids[rows]]
            codes[rows, : self.m] = self._direction_codes(residuals)
            products = Products.of(rotated[rows], residuals, self._decoded_directions(codes[rows]))
            codes[rows, self.m] = numbers_of(self.scales, products)

        blocks = [slice(start, start + BLOCK) for start in range(0, len(codes), BLOCK)]
        threads = min(thread_count(), len(blocks))
        if threads < 2:
            for block in blocks:
                work(block)
            return
        # FAISS shares out what each thread asks of it, unless it is told otherwise in that thread.
        alone = partial(faiss_module().omp_set_num_threads, 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="code", initializer=alone) as pool:
            list(pool.map(work, blocks))

    def _direction_codes(self, residuals: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """(n, turned_dim) residuals of rotated vectors -> (n, m) codes of their directions."""
        directions = _directions(residuals)
        coder = self._on_device()
        return self._nearest_codes(directions) if coder is None else coder.direction_codes(directions)

    def _nearest_codes(self, directions: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        pq = self._prepare()
        if pq.dsub > (part := self.turned_dim // self.m):
            more = ((0, 0), (0, 0), (0, pq.dsub - part))
            directions = np.pad(directions.reshape(-1, self.m, part), more).reshape(len(directions), -1)
        codes: npt.NDArray[np.uint8] = pq.compute_codes(directions)
        return codes

    def _prepare(self) -> Any:
        """FAISS's quantiser of directions, made at the first call."""
        if self._pq is None:
            faiss = faiss_module()
            part = self.turned_dim // self.m
            # FAISS has fast loops for 2, 4 and 8 dimensions: those of 3 take ten times as long as those of 4.
            width = 1 << (part - 1).bit_length() if part < 8 else part
            pq = faiss.ProductQuantizer(self.m * width, self.m, 8)
            centroids = np.pad(self.pq_centroids, ((0, 0), (0, 0), (0, width - part)))
            faiss.copy_array_to_vector(centroids.ravel(), pq.centroids)
            self._pq = pq
        return self._pq

    def _decoded_directions(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(n, m) codes, or with the last byte -> (n, turned_dim)."""
        parts: npt.NDArray[np.float32] = self.pq_centroids[np.arange(self.m), codes[:, : self.m]]
        return parts.reshape(-1, self.turned_dim)

    def decode(
        self, centroid_ids: npt.NDArray[np.integer[Any]], codes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        """centroid_ids (n,) and codes (n, code_bytes) -> (n, dim) float32: (c + gain * k) * scale."""
        decoded = self._decoded_directions(codes)
        scales, gains = self.scales[codes[:, -1]].T[:, :, None]
        decoded *= gains
        decoded += self.byte_centroids.floats(centroid_ids)
        decoded *= scales
        return decoded @ self.rotation.T

    def pack(
        self, centroid_ids: npt.NDArray[np.integer[Any]], codes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Index2Layer's bytes a token: the centroid id, little-endian, then the code."""
        width = id_bytes(self.nlist)
        ids = centroid_ids.astype("<i4").view(np.uint8).reshape(-1, 4)
        return np.concatenate([ids[:, :width], codes], axis=1)

    def save(self, path: Path) -> None:
        """Write an Index2Layer without codes, behind the rotation; its coarse quantiser holds the centroids. `owners`
        have a file of their own."""
        faiss = faiss_module()
        padding = self._stored_dim - self.turned_dim
        turn = faiss.LinearTransform(self.dim, self._stored_dim)
        faiss.copy_array_to_vector(np.pad(self.rotation.T, ((0, padding), (0, 0))).ravel(), turn.A)
        turn.is_trained = True
        turn.set_is_orthonormal()
        layers = self._layers(self.byte_centroids.quantizer(padding))
        write_index(faiss.IndexPreTransform(turn, layers), path)

    @classmethod
    def load(cls, path: Path, *, dim: int, owners: Path | None = None) -> "Codec":
        """Read what `save` wrote, and `Owners.save` if there are any. Raises IndexFormatError naming the file, also for
        one of another kind."""
        faiss = faiss_module()
        whole = checked(read_index(path), "IndexPreTransform", path)  # which owns what lies inside
        layers = checked(faiss.downcast_index(whole.index), "Index2Layer", path)
        quantizer = checked(faiss.downcast_index(layers.q1.quantizer), "IndexScalarQuantizer", path)
        kind = whole.chain.size(), quantizer.sq.qtype, layers.pq.nbits
        if kind != (1, faiss.ScalarQuantizer.QT_8bit, 8):
            raise IndexFormatError(
                f"{path} has not one rotation, centroids in bytes and codes of bytes; build the index again"
            )
        turn = checked(faiss.downcast_VectorTransform(whole.chain.at(0)), "LinearTransform", path)
        part = layers.pq.dsub
        turned = part * (layers.pq.M - 1)
        if turn.d_in != dim or not dim <= turned < dim + part * layers.pq.M:
            raise IndexFormatError(
                f"{path} codes {turn.d_in} dimensions in {turned}, the index needs {dim}; "
                "restore it or build the index again"
            )
        rotation = faiss.vector_to_array(turn.A).reshape(turn.d_out, dim)[:turned].T.copy()
        pq = faiss.vector_to_array(layers.pq.centroids).reshape(-1, PQ_CENTROIDS, part)
        scales = pq[-1, :, :2].copy()
        centroids = ByteCentroids.read(quantizer, turned)
        whose = None if owners is None else Owners.load(owners, len(centroids.numbers))
        codec = cls(centroids, pq[:-1].copy(), scales, rotation, whose)
        turns = np.isfinite(rotation).all() and np.allclose(rotation @ rotation.T, np.eye(dim), atol=1e-3)
        lengths = scales.reshape(LEVELS, LEVELS, 2)
        ascend = all((np.diff(x, axis=0) >= 0).all() for x in (lengths[:, 0, 1], lengths[:, :, 0].T))
        ascend &= bool((scales >= 0).all() and np.isfinite(scales).all())
        sane = np.abs([centroids.low, centroids.span]).max() < MOST  # and no NaN
        if not (turns and ascend and sane):
            raise IndexFormatError(f"{path} is damaged; restore it or build the index again")
        return codec

    def _layers(self, quantizer: Any) -> Any:
        faiss = faiss_module()
        index = faiss.Index2Layer(quantizer, self.nlist, self.code_bytes)
        stored = np.zeros((self.code_bytes, *self.pq_centroids.shape[1:]), dtype=np.float32)
        stored[: self.m] = self.pq_centroids
        stored[self.m, :, :2] = self.scales
        faiss.copy_array_to_vector(stored.ravel(), index.pq.centroids)
        index.is_trained = True
        return index


def _directions(residuals: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each of length 1, or 0."""
    lengths = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))[:, None]
    directions: npt.NDArray[np.float32] = np.divide(
        residuals, lengths, out=np.zeros_like(residuals), where=lengths > 0
    )
    return directions


def write_codes(path: Path, codec: Codec, parts: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write packed codes (n, id_bytes + code_bytes), cut anywhere, as an Index2Layer whose centroids stay in the
    codec's file."""
    append_codes(codec._layers(faiss_module().IndexFlatL2(codec._stored_dim)), path, parts)
