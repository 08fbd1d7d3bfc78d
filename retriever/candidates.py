"""Candidate generation on compressed segments: probe inverted lists, rank what they hold by centroids."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from encoder.maxsim import max_sum
from indexing.segment import Segment

__all__ = ["candidates", "centroid_interaction", "gather_tokens", "probe"]

TOKENS_AT_ONCE = 1 << 18  # rows of scores held at a time: 32 MiB at 32 query tokens

Scores = npt.NDArray[np.float32]
Passages = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """Passages of one segment (local numbers) and their approximate scores, in no order."""

    passages: Passages
    scores: Scores


def probe(centroid_scores: Scores, nprobe: int) -> npt.NDArray[np.int64]:
    """The nprobe best centroids of every query token: (n_query, nlist) → (n_query, nprobe)."""
    nlist = centroid_scores.shape[1]
    if nprobe >= nlist:
        return np.broadcast_to(np.arange(nlist), centroid_scores.shape)
    return np.argpartition(centroid_scores, nlist - nprobe, axis=1)[:, nlist - nprobe :]


def candidates(
    segment: Segment, live: npt.NDArray[np.bool_], centroid_scores: Scores, nprobe: int, ncandidates: int, least: int
) -> Ranked:
    """Live passages of the probed lists, at most ncandidates, scored by centroid interaction.

    centroid_scores: (n_query, nlist). least: where the lists hold fewer live passages than this, all live
    passages are scored, so that a search never comes back short.
    """
    probed = probe(centroid_scores, nprobe)
    found = np.zeros(segment.n_passages, dtype=np.bool_)
    for c in np.unique(probed):
        found[segment.list_pids[segment.list_offsets[c] : segment.list_offsets[c + 1]]] = True
    found &= live
    passages = np.flatnonzero(found)
    if len(passages) < least:
        passages = np.flatnonzero(live)
    elif len(passages) > ncandidates:
        scores = _probed_scores(segment, centroid_scores, probed)[passages]
        passages = np.sort(passages[np.argpartition(-scores, ncandidates)[:ncandidates]])
    return Ranked(passages, centroid_interaction(segment, passages, centroid_scores))


def _probed_scores(segment: Segment, centroid_scores: Scores, probed: npt.NDArray[np.int64]) -> Scores:
    """A score from the probed lists alone: (n_passages,).

    Each query token adds the best of its probed centroids that the passage has; where it has none, the
    worst of them, which no centroid outside the probe exceeds (Lee et al. 2023, XTR's imputation).
    """
    total = np.zeros(segment.n_passages, dtype=np.float32)
    for scores, lists in zip(centroid_scores, probed, strict=True):
        order = lists[np.argsort(scores[lists])]  # ascending: a better centroid overwrites a worse
        best = np.full(segment.n_passages, scores[order[0]], dtype=np.float32)
        for c in order:
            best[segment.list_pids[segment.list_offsets[c] : segment.list_offsets[c + 1]]] = scores[c]
        total += best
    return total


def centroid_interaction(segment: Segment, passages: Passages, centroid_scores: Scores) -> Scores:
    """MaxSim with every token replaced by its centroid (Santhanam et al. 2022, PLAID): (n,) scores."""
    by_centroid = torch.from_numpy(np.ascontiguousarray(centroid_scores.T))  # (nlist, n_query)
    out = np.empty(len(passages), dtype=np.float32)
    lengths = segment.offsets[passages + 1] - segment.offsets[passages]
    for at in blocks(lengths, TOKENS_AT_ONCE):
        tokens, offsets = gather_tokens(segment, passages[at])
        ids = torch.from_numpy(segment.centroid_ids[tokens].astype(np.int64))
        out[at] = max_sum(by_centroid[ids], torch.from_numpy(offsets)).numpy()
    return out


def gather_tokens(segment: Segment, passages: Passages) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token numbers of the passages end to end, and their offsets (n + 1,)."""
    starts = segment.offsets[passages]
    lengths = segment.offsets[passages + 1] - starts
    offsets = np.zeros(len(passages) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    tokens = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return tokens, offsets


def blocks(lengths: npt.NDArray[np.int64], limit: int) -> list[slice]:
    """Cut passages into slices of about `limit` tokens, so that scratch memory does not follow the corpus."""
    if len(lengths) == 0:
        return []
    ends = np.cumsum(lengths)
    cuts = np.unique(np.searchsorted(ends, np.arange(limit, int(ends[-1]) + limit, limit)) + 1)
    edges = [0, *[int(c) for c in cuts if 0 < c < len(lengths)], len(lengths)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
