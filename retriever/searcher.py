"""Searcher: a query → hits. Candidates from compressed segments, then MaxSim decides; or words do, or both."""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from encoder import Encoder, TokenEmbeddings
from encoder.errors import ArgumentError, EncoderMismatchError
from indexing import Index
from indexing.segment import Segment
from retriever.fusion import reciprocal_rank_fusion
from retriever.rerank import score_compressed, score_flat

__all__ = ["Hit", "Mode", "SearchSettings", "Searcher"]

QUERIES_AT_ONCE = 64  # encoded together by search_many
FUSED = 100  # hits of each ranking that hybrid search fuses, or k if that is more

Mode: TypeAlias = Literal["late", "lexical", "hybrid"]
Ranking: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]  # pids and scores


@dataclass(frozen=True)
class Hit:
    """rank counts from 1. score is MaxSim: a sum over query tokens, so it grows with the query's length. By
    mode "lexical" it is BM25, by "hybrid" what the fusion of ranks gives, at most sum(weights) / 61."""

    rank: int
    score: float
    doc_id: str
    text: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class SearchSettings:
    """nprobe: centroids looked up a query token. ncandidates: passages kept of those that have one, by the
    scores of the lists they are in; all their tokens are then looked at, by centroids alone. nrerank: passages
    kept after that, and scored on their residuals. Flat segments are always scored whole."""

    nprobe: int
    ncandidates: int
    nrerank: int


class QueryEncoder(Protocol):
    """What a searcher asks of an encoder; `encoder.Encoder` is one."""

    fingerprint: str
    name: str

    def encode_queries(self, texts: list[str], /) -> TokenEmbeddings: ...


class Searcher:
    """Searches one snapshot of an index. Searching changes nothing and may run in several threads."""

    def __init__(self, index: Index, encoder: QueryEncoder | None = None) -> None:
        """encoder: where None, the index's own is loaded when a text is first searched.

        Raises EncoderMismatchError for an encoder other than the one that made the index's vectors.
        """
        self.index = index
        self._encoder = encoder
        self._loading = threading.Lock()
        if encoder is not None:
            _check(index, encoder)

    @classmethod
    def open(cls, path: str | Path, encoder: QueryEncoder | None = None) -> "Searcher":
        """Open an index folder for searching; its encoder is found by what the index recorded."""
        index = Index.open(path)
        try:
            return cls(index, encoder)
        except BaseException:
            index.close()
            raise

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> "Searcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def encoder(self) -> QueryEncoder:
        with self._loading:
            if self._encoder is None:
                arguments = self.index.settings.encoder
                if arguments is None:
                    raise ArgumentError(
                        f"{self.index.folder} was built from vectors; "
                        "use search_embeddings, or pass encoder=..."
                    )
                loaded = Encoder.load(**arguments)
                _check(self.index, loaded)
                self._encoder = loaded
            return self._encoder

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "late",
        weights: tuple[float, float] | None = None,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
    ) -> list[Hit]:
        """The k best passages for a text, best first; fewer only if the index holds fewer.

        mode: "late" ranks by token embeddings (MaxSim). "lexical" ranks by BM25 those passages that have a
        word of the query, maybe fewer than k, and needs no encoder. "hybrid" fuses the two by reciprocal rank;
        weights: of "late" and of "lexical" in that, (1, 1) unless given.
        filter: only passages whose metadata meet it, as in `lang = 'py' and stars >= 10`: the k best of these,
        and fewer only if fewer meet it (docs/filters.md). ArgumentError where it cannot be read.
        The other arguments are explained at SearchSettings; None picks them from k and the index's size.
        """
        if not isinstance(query, str):
            raise ArgumentError(
                f"query is {type(query).__name__}; pass a string, or use search_many for several"
            )
        return self.search_many(
            {"": query},
            k=k,
            mode=mode,
            weights=weights,
            filter=filter,
            nprobe=nprobe,
            ncandidates=ncandidates,
            nrerank=nrerank,
        )[""]

    def search_many(
        self,
        queries: Mapping[str, str],
        *,
        k: int = 100,
        mode: Mode = "late",
        weights: tuple[float, float] | None = None,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
        show_progress: bool = False,
    ) -> dict[str, list[Hit]]:
        """{query id: text} → {query id: hits}, in the same order; otherwise as `search`."""
        # All this first, so as to refuse before encoding.
        knobs = {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank}
        _check_mode(mode, weights, knobs)
        depth = k
        if mode == "hybrid":
            depth = max(k, min(FUSED, FUSED if nrerank is None else nrerank, ncandidates or FUSED))
        settings = self.settings(depth, **knobs)
        lives = self.index.matching(filter)

        def ranking(text: str, vectors: npt.NDArray[np.float32] | None) -> Ranking:
            if vectors is None:
                return self.index.lexical(text, k, lives)
            late = self._late(vectors, depth, settings, lives)
            if mode == "late":
                return late
            lexical = self.index.lexical(text, depth, lives)
            return reciprocal_rank_fusion([late[0], lexical[0]], weights or (1.0, 1.0), k)

        ids = list(queries)
        hits: dict[str, list[Hit]] = {}
        with tqdm(total=len(ids), unit="query", desc="search", disable=not show_progress) as bar:
            for start in range(0, len(ids), QUERIES_AT_ONCE):
                some = ids[start : start + QUERIES_AT_ONCE]
                texts = [queries[qid] for qid in some]
                encoded = [None] * len(some) if mode == "lexical" else self.encoder.encode_queries(texts)
                for qid, text, vectors in zip(some, texts, encoded, strict=True):
                    hits[qid] = self._hits(*ranking(text, vectors))
                    bar.update()
        return hits

    def search_embeddings(
        self,
        query: npt.NDArray[np.float32],
        *,
        k: int = 10,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
    ) -> list[Hit]:
        """As `search`, for the vectors of one query: (n_query, dim)."""
        settings = self.settings(k, nprobe=nprobe, ncandidates=ncandidates, nrerank=nrerank)
        return self._hits(*self._late(query, k, settings, self.index.matching(filter)))

    def _hits(self, pids: npt.NDArray[np.int64], scores: npt.NDArray[np.floating[Any]]) -> list[Hit]:
        documents = self.index.documents(pids.tolist())
        return [
            Hit(rank, float(score), document.doc_id, document.text, document.metadata)
            for rank, (score, document) in enumerate(zip(scores, documents, strict=True), 1)
        ]

    def _late(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        settings: SearchSettings,
        lives: list[npt.NDArray[np.bool_]],
    ) -> Ranking:
        query = np.ascontiguousarray(query, dtype=np.float32)
        if query.ndim != 2 or query.shape[1] != self.index.dim:
            raise ArgumentError(f"query has shape {query.shape}; pass (n_query, {self.index.dim})")
        if not np.isfinite(query).all():
            raise ArgumentError("query has a value that is not finite; check the encoder that made it")
        return self._search(query, k, settings, lives)

    def recall_vs_exact(
        self,
        queries: Mapping[str, str],
        k: int = 10,
        *,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
    ) -> float:
        """How much of the true top k a search finds: the mean over queries, 0 to 1.

        queries: {query id: text}, as for `search_many`. True is MaxSim with every passage, on the vectors as
        they are stored; of equal scores any will do. Measures candidate generation, not the encoder.
        """
        settings = self.settings(k, nprobe=nprobe, ncandidates=ncandidates, nrerank=nrerank)
        if not queries:
            raise ArgumentError("queries is empty; pass some that are typical of your searches")
        lives = self.index.matching(None)
        recalls = []
        for vectors in self.encoder.encode_queries(list(queries.values())):
            _, exact = self._search(vectors, k, None, lives)
            _, found = self._search(vectors, k, settings, lives)
            if len(exact):
                recalls.append(float(np.mean(found >= exact[-1])))
        return float(np.mean(recalls)) if recalls else 1.0

    def settings(
        self, k: int, *, nprobe: int | None = None, ncandidates: int | None = None, nrerank: int | None = None
    ) -> SearchSettings:
        """What a search of this index for k hits would use. Raises ArgumentError for what cannot work."""
        if k < 1:
            raise ArgumentError(f"k={k}; pass k >= 1")
        nlist = 1 if self.index.codec is None else self.index.codec.nlist
        # Measured on nfcorpus, cranfield and codedoc_python: docs/design.md, "Search defaults".
        wide = max(512, 10 * k, 8 * math.isqrt(len(self.index)))
        chosen = SearchSettings(
            nprobe=min(nlist, max(32, k // 8)) if nprobe is None else nprobe,
            ncandidates=max(wide, nrerank or 0) if ncandidates is None else ncandidates,
            nrerank=min(max(256, 4 * k), ncandidates or 1 << 62) if nrerank is None else nrerank,
        )
        if chosen.nprobe < 1:
            raise ArgumentError(f"nprobe={nprobe}; pass nprobe >= 1")
        if self.index.codec is not None and chosen.nprobe > nlist:
            raise ArgumentError(f"nprobe={nprobe} exceeds nlist={nlist}; pass nprobe <= {nlist}")
        if chosen.nrerank < k:
            raise ArgumentError(f"nrerank={chosen.nrerank} is below k={k}; pass nrerank >= {k}")
        if chosen.ncandidates < chosen.nrerank:
            raise ArgumentError(
                f"ncandidates={chosen.ncandidates} is below nrerank={chosen.nrerank}; "
                "pass ncandidates >= nrerank"
            )
        return chosen

    def _search(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        settings: SearchSettings | None,
        lives: list[npt.NDArray[np.bool_]],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Pids and scores of the k best, best first; equal scores in the order of pids.

        settings: None scores every passage there is. lives: for each segment which passages there are.
        """
        index = self.index
        pids: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        scores: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)]
        compressed: list[tuple[Segment, npt.NDArray[np.bool_]]] = []
        for segment, live in zip(index.segments, lives, strict=True):
            if segment.kind == "flat":
                passages = np.flatnonzero(live)
                pids.append(segment.pid_start + passages)
                scores.append(score_flat(query, segment)[passages])
            else:
                compressed.append((segment, live))
        if compressed and index.codec is not None:
            # Imported here because numba takes half a second to get going, and a flat index does without.
            from retriever.candidates import candidates
            from retriever.kernels import QueryTables

            tables = QueryTables.of(query, index.codec)
            if settings is None:
                chosen = [np.flatnonzero(live) for _, live in compressed]
            else:
                chosen = candidates(
                    [segment for segment, _ in compressed],
                    [live for _, live in compressed],
                    tables,
                    nprobe=settings.nprobe,
                    ncandidates=settings.ncandidates,
                    nrerank=settings.nrerank,
                    least=k,
                )
            for (segment, _), passages in zip(compressed, chosen, strict=True):
                pids.append(segment.pid_start + passages)
                scores.append(score_compressed(tables, segment, passages))
        all_pids, all_scores = np.concatenate(pids), np.concatenate(scores)
        order = np.lexsort((all_pids, -all_scores))[:k]
        return all_pids[order], all_scores[order]


def _check_mode(mode: str, weights: tuple[float, float] | None, knobs: Mapping[str, int | None]) -> None:
    if mode not in get_args(Mode):
        raise ArgumentError(f"mode={mode!r}; pass one of {', '.join(get_args(Mode))}")
    for name, value in knobs.items():
        if mode == "lexical" and value is not None:
            raise ArgumentError(f'{name}={value} does nothing in mode "lexical"; leave it out')
    if weights is None:
        return
    if mode != "hybrid":
        raise ArgumentError(f'weights={weights} does nothing in mode "{mode}"; pass mode="hybrid"')
    if len(weights) != 2 or not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
        raise ArgumentError(f"weights={weights}; pass two numbers >= 0, for late and lexical, not both 0")


def _check(index: Index, encoder: QueryEncoder) -> None:
    if index.encoder_fingerprint is None:
        return  # vectors of the user's own: only the user knows what fits them
    if index.encoder_fingerprint != encoder.fingerprint:
        raise EncoderMismatchError(
            f"{index.folder} was built with {index.encoder_name!r} ({index.encoder_fingerprint[:12]}), "
            f"the encoder is {encoder.name!r} ({encoder.fingerprint[:12]}); "
            "search with the one that built it, or index again"
        )
