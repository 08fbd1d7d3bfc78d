"""The stages of a search in torch, on a device that holds all codes. Not run on a GPU yet: see docs/search.md."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.errors import ArgumentError
from encoder.maxsim import sharpened
from indexing.storage.segment import Segment
from retriever.kernels.torch_codes import over_passages, residual_scores
from retriever.ranking.knobs import SearchSettings
from retriever.ranking.scoring import top

__all__ = ["DeviceIndex"]

Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
SPARE = 0.9  # of a device's free memory; the rest is for the scores of a chunk of tokens


@dataclass(frozen=True, eq=False)
class Part:
    """A segment on the device. offsets: (n_passages + 1,). runs: (n_passages,), passages of one document have one
    number. Either vectors (n_tokens, dim) float16, or ids
    (n_tokens,) int32 and codes (n_tokens, code_bytes) uint8."""

    pid_start: int
    offsets: Tensor
    runs: Tensor
    vectors: Tensor | None
    ids: Tensor | None
    codes: Tensor | None


class DeviceIndex:
    """An index's codes on a device. Scores every passage, or prunes as the processor does."""

    def __init__(self, index: Index, device: torch.device) -> None:
        self.index = index
        self.device = device
        self._segments: tuple[Segment, ...] = ()
        self._parts: list[Part] = []
        self._load()

    def search(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        settings: SearchSettings | None,
        lives: list[npt.NDArray[np.bool_]],
        sharpness: float = 0.0,
    ) -> Ranking:
        """As Searcher._search."""
        parts = self._load()
        q = torch.from_numpy(query).to(self.device)
        norms = q.norm(dim=1)
        alive = [torch.from_numpy(np.array(live)).to(self.device) for live in lives]
        codec = self.index.codec
        centroids = residuals = scales = torch.zeros(0, device=self.device)
        if codec is not None:
            scales = self._scales
            turned = torch.from_numpy(codec.rotated(query)).to(self.device)
            centroids = self._centroids @ turned.T  # (nlist, n_query)
            by_part = turned.reshape(len(q), codec.m, -1)  # (n_query, m, dim / m)
            residuals = torch.einsum("mcd,qmd->mcq", self._pq_centroids, by_part)  # (m, 256, n_query)
            if settings is not None:
                counted = sharpened(centroids, norms, sharpness)
                alive = self._prune(parts, counted, settings, k, alive)
        pids, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for part, live in zip(parts, alive, strict=True):
            local = torch.nonzero(live)[:, 0]
            if part.vectors is not None:
                values = over_passages(
                    partial(_products, q, part.vectors), part.offsets, local, norms, sharpness
                )
            else:
                assert part.ids is not None
                assert part.codes is not None
                stored = (part.ids, part.codes, part.offsets)
                values = residual_scores(centroids, residuals, scales, *stored, local, norms, sharpness)
            pids.append(part.pid_start + local.cpu().numpy())
            scores.append(values.cpu().numpy())
        return top(np.concatenate(pids), np.concatenate(scores), k)

    def _prune(
        self, parts: list[Part], centroids: Tensor, settings: SearchSettings, k: int, alive: list[Tensor]
    ) -> list[Tensor]:
        """Which compressed passages to rerank: candidates.candidates, without lists.

        A list is looked up by comparing: each passage's best centroid score for a query token, which counts no
        less than the worst one probed, is what the union of lists would add up to.
        """
        coded = [i for i, part in enumerate(parts) if part.ids is not None]

        def ranked(table: Tensor) -> list[Tensor]:
            """For each coded segment the MaxSim of its live passages by a table (nlist, n_query) or (nlist, 1)."""
            locals_ = [torch.nonzero(alive[i])[:, 0] for i in coded]
            return [_by_centroid(table, parts[i], local) for i, local in zip(coded, locals_, strict=True)]

        def keep(scores: list[Tensor], n: int) -> None:
            together = torch.cat(scores)
            chosen = torch.zeros_like(together, dtype=torch.bool)
            chosen[together.topk(min(n, len(together))).indices] = True
            masks = torch.split(chosen, [len(s) for s in scores])
            for i, mask in zip(coded, masks, strict=True):
                alive[i] = alive[i].masked_scatter(alive[i], mask)

        def count() -> int:
            return sum(int(alive[i].sum()) for i in coded)

        if count() > settings.ncandidates:
            floor = centroids.topk(settings.nprobe, dim=0).values[-1]  # (n_query,)
            probed = (centroids >= floor).any(dim=1, keepdim=True).float()  # (nlist, 1)
            found = [scores > 0 for scores in ranked(probed)]
            n_found = sum(int(f.sum()) for f in found)
            if n_found >= k:
                scores = ranked(centroids.maximum(floor))
                keep(
                    [s.masked_fill(~f, -torch.inf) for s, f in zip(scores, found, strict=True)],
                    min(n_found, settings.ncandidates),
                )
        if count() > settings.nrerank:
            keep(ranked(centroids), settings.nrerank)
        return alive

    def _load(self) -> list[Part]:
        """Copy what the index has now and the device has not."""
        segments = self.index.segments
        if segments == self._segments and self._parts:
            return self._parts
        codec = self.index.codec
        needed = sum(_bytes(segment) for segment in segments)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if needed > SPARE * free:
                raise ArgumentError(
                    f"{self.index.folder} needs {needed:,} bytes on {self.device}, which has {free:,} free; "
                    "leave out device=... to search on the processor"
                )
        if codec is not None:
            self._centroids = torch.tensor(codec.centroids, device=self.device)
            self._scales = torch.tensor(codec.scales, device=self.device)
            self._pq_centroids = torch.tensor(codec.pq_centroids, device=self.device)
        self._parts = [self._part(segment) for segment in segments]
        self._segments = segments
        return self._parts

    def _part(self, segment: Segment) -> Part:
        offsets = torch.tensor(np.asarray(segment.offsets), device=self.device)
        if segment.kind == "flat":
            vectors = torch.tensor(np.asarray(segment.vectors), device=self.device)
            return Part(segment.pid_start, offsets, vectors, None, None)
        ids = torch.tensor(segment.centroid_ids.astype(np.int32), device=self.device)
        codes = torch.tensor(np.ascontiguousarray(segment.residual_codes), device=self.device)
        return Part(segment.pid_start, offsets, None, ids, codes)


def _products(query: Tensor, vectors: Tensor, tokens: Tensor) -> Tensor:
    return vectors[tokens].float() @ query.T


def _by_centroid(table: Tensor, part: Part, passages: Tensor) -> Tensor:
    ids = part.ids
    assert ids is not None
    return over_passages(lambda tokens: table[ids[tokens].long()], part.offsets, passages)


def _bytes(segment: Segment) -> int:
    if segment.kind == "flat":
        return segment.vectors.nbytes + segment.offsets.nbytes
    return 4 * segment.n_tokens + segment.residual_codes.nbytes + segment.offsets.nbytes
