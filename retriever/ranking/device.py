"""The stages of a search in torch, on a device that holds all codes. Not run on a GPU: docs/internals/search.md."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.errors import ArgumentError
from encoder.maxsim import sharpened
from indexing import Snapshot
from indexing.storage.segment import Segment
from retriever.kernels.torch_codes import Codes, Tables, over_passages, residual_scores
from retriever.ranking.knobs import SearchSettings

if TYPE_CHECKING:
    from retriever.ranking.ranker import Plan

__all__ = ["DeviceIndex"]

Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
SPARE = 0.9  # of a device's free memory; the rest is for the scores of a chunk of tokens


@dataclass(frozen=True, eq=False)
class Part:
    """A segment on the device. offsets: (n_passages + 1,). owners: (n_passages,), the number of each passage's
    document. Either vectors (n_tokens, dim) float16, or ids (n_tokens,) int32 and codes (n_tokens, code_bytes)
    uint8."""

    offsets: Tensor
    owners: Tensor
    vectors: Tensor | None
    ids: Tensor | None
    codes: Tensor | None


class DeviceIndex:
    """A snapshot's codes on a device. Scores every passage, or prunes as the processor does.

    Raises ArgumentError where the device has no room for them.
    """

    def __init__(
        self, snapshot: Snapshot, device: torch.device, previous: "DeviceIndex | None" = None
    ) -> None:
        self.device = device
        self.codec = codec = snapshot.codec
        here: dict[Segment, Part] = {}  # segments never change; under another codec they are opened anew
        if previous is not None and previous.codec is codec:
            here = previous._here
        needed = sum(_bytes(segment) for segment in snapshot.segments if segment not in here)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if needed > SPARE * free:
                raise ArgumentError(
                    f"{snapshot.folder} needs {needed:,} bytes on {device}, which has {free:,} free; "
                    "leave out device=... to search on the processor"
                )
        if codec is not None:
            self._centroids = torch.tensor(codec.centroids, device=device)
            self._scales = torch.tensor(codec.scales, device=device)
            self._pq_centroids = torch.tensor(codec.pq_centroids, device=device)
        self._here: dict[Segment, Part] = {
            segment: here.get(segment) or self._part(segment) for segment in snapshot.segments
        }
        self._parts = list(self._here.values())
        self._starts = snapshot.starts

    def search(self, query: npt.NDArray[np.float32], plan: "Plan", fold: bool) -> Ranking:
        """Pids, ascending, and scores of the passages worth it; all there are where plan.settings is None."""
        q = torch.from_numpy(query).to(self.device)
        norms, sharpness = q.norm(dim=1), plan.sharpness
        alive = [torch.from_numpy(np.array(live)).to(self.device) for live in plan.selection.lives]
        codec = self.codec
        centroids = residuals = scales = torch.zeros(0, device=self.device)
        if codec is not None:
            scales = self._scales
            turned = torch.from_numpy(codec.rotated(query)).to(self.device)
            centroids = self._centroids @ turned.T  # (nlist, n_query)
            by_part = turned.reshape(len(q), codec.m, -1)  # (n_query, m, dim / m)
            residuals = torch.einsum("mcd,qmd->mcq", self._pq_centroids, by_part)  # (m, 256, n_query)
            if plan.settings is not None:
                self._prune(sharpened(centroids, norms, sharpness), plan.settings, plan.depth, alive, fold)
        pids, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for start, part, live in zip(self._starts, self._parts, alive, strict=False):
            local = torch.nonzero(live)[:, 0]
            if part.vectors is not None:
                values = over_passages(
                    partial(_products, q, part.vectors), part.offsets, local, norms, sharpness
                )
            else:
                assert part.ids is not None
                assert part.codes is not None
                tables = Tables(centroids, residuals, scales, norms, sharpness)
                values = residual_scores(tables, Codes(part.ids, part.codes, part.offsets), local)
            pids.append(int(start) + local.cpu().numpy())
            scores.append(values.cpu().numpy())
        return np.concatenate(pids), np.concatenate(scores)

    def _prune(
        self, centroids: Tensor, settings: SearchSettings, least: int, alive: list[Tensor], fold: bool
    ) -> None:
        """Which compressed passages to rerank: candidates.candidates, without lists; the others go from `alive`.

        A list is looked up by comparing: each passage's best centroid score for a query token, which counts no
        less than the worst one probed, is what the union of lists would add up to.
        """
        coded = [i for i, part in enumerate(self._parts) if part.ids is not None]
        locals_ = {i: torch.nonzero(alive[i])[:, 0] for i in coded}

        def ranked(table: Tensor) -> Tensor:
            """MaxSim of coded segments' live passages by a table (nlist, n_query) or (nlist, 1), end to end."""
            return torch.cat([_by_centroid(table, self._parts[i], locals_[i]) for i in coded])

        def owners() -> Tensor:
            """A number for each live passage, equal for those that count as one."""
            runs = [self._parts[i].owners[locals_[i]] for i in coded]
            return torch.cat(runs) if fold else torch.arange(sum(map(len, runs)), device=self.device)

        def keep(scores: Tensor, n: int) -> None:
            """The best n documents' passages, and those that score as they do."""
            _, dense = torch.unique_consecutive(owners(), return_inverse=True)
            best = torch.full((int(dense.max()) + 1,), -torch.inf, device=self.device)
            best.scatter_reduce_(0, dense, scores, "amax")
            if n < len(best):
                kept = torch.split(scores >= best.topk(n).values[-1], [len(locals_[i]) for i in coded])
                for i, mask in zip(coded, kept, strict=True):
                    locals_[i] = locals_[i][mask]

        def count(found: Tensor | None = None) -> int:
            every = owners() if found is None else owners()[found]
            return len(torch.unique_consecutive(every))

        if count() > settings.ncandidates:
            floor = centroids.topk(settings.nprobe, dim=0).values[-1]  # (n_query,)
            probed = (centroids >= floor).any(dim=1, keepdim=True).float()  # (nlist, 1)
            found = ranked(probed) > 0
            if (n_found := count(found)) >= least:
                scores = ranked(centroids.maximum(floor)).masked_fill(~found, -torch.inf)
                keep(scores, min(n_found, settings.ncandidates))
        if count() > settings.nrerank:
            keep(ranked(centroids), settings.nrerank)
        for i in coded:
            alive[i] = torch.zeros_like(alive[i])
            alive[i][locals_[i]] = True

    def _part(self, segment: Segment) -> Part:
        offsets = torch.tensor(np.asarray(segment.offsets), device=self.device)
        # A document's passages lie in one segment, so its number tells it from those of any other.
        owners = torch.tensor(np.asarray(segment.owners), device=self.device)
        if segment.kind == "flat":
            vectors = torch.tensor(np.asarray(segment.vectors), device=self.device)
            return Part(offsets, owners, vectors, None, None)
        ids = torch.tensor(segment.centroid_ids.astype(np.int32), device=self.device)
        codes = torch.tensor(np.ascontiguousarray(segment.residual_codes), device=self.device)
        return Part(offsets, owners, None, ids, codes)


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
