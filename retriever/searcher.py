"""Searcher: a query → hits. Candidates from compressed segments, then MaxSim decides; or words do, or both."""

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from encoder import Encoder, TokenEmbeddings
from encoder.arguments import as_encoder, as_list, as_strings, as_vectors, known_keywords
from encoder.errors import ArgumentError, EncoderMismatchError
from encoder.maxsim import SHARPNESS, check_sharpness
from encoder.progress import Progress
from indexing import Index
from indexing.coding.codec import Codec
from indexing.storage.segment import Segment
from indexing.storage.store import Document
from retriever.explaining import Explanation, explain
from retriever.hits import Hit
from retriever.ranking.fusion import fusion_depth, reciprocal_rank_fusion
from retriever.ranking.knobs import Mode, SearchSettings, checked, choose
from retriever.ranking.scoring import score_compressed, score_flat, top
from retriever.ranking.weighting import idf_weights

if TYPE_CHECKING:
    from retriever.ranking.device import DeviceIndex

__all__ = ["Hit", "Mode", "SearchSettings", "Searcher"]

QUERIES_AT_ONCE = 64  # encoded together, and held with their hits, by search_many and search_stream

Q = TypeVar("Q", bound=Hashable)
Vectors: TypeAlias = npt.NDArray[np.float32]
Lives: TypeAlias = list[npt.NDArray[np.bool_]]  # of each segment, which passages may be found
Ranking: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]  # pids and scores


class QueryEncoder(Protocol):
    """What a searcher asks of an encoder; `encoder.Encoder` is one."""

    fingerprint: str
    name: str

    def encode_queries(self, texts: list[str], /) -> TokenEmbeddings: ...


class Searcher:
    """Searches one snapshot of an index. Searching changes nothing; several threads may share a Searcher."""

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder | None = None,
        *,
        idf: bool = True,
        sharpness: float = SHARPNESS,
        device: str | torch.device | None = None,
    ) -> None:
        """encoder: where None, the index's own is loaded when a text is first searched.
        idf: a query's tokens weigh by how rare their words are in the index (`weighting.idf_weights`); False
        for equal weights. Vectors given as such, and encoders without `query_tokens`, are never weighted.
        sharpness: of searches for texts, how much more near matches of tokens count than far ones
        (`encoder.maxsim.sharpened`), 0 to 20. With 0, and without idf, scores are plain MaxSim.
        device: a torch device, such as "cuda", that holds all codes and does the scoring; None for the
        processor, with compiled kernels and mapped files (docs/search.md).

        Raises EncoderMismatchError for an encoder other than the one that made the index's vectors,
        ArgumentError where the device has no room for the index.
        """
        if not isinstance(index, Index):
            raise ArgumentError(
                f"index is {index!r:.60} ({type(index).__name__}); for a path use Searcher.open"
            )
        self.index = index
        self.idf = idf
        self._owns = False
        self.sharpness = check_sharpness(sharpness)
        self._encoder = None if encoder is None else as_encoder(encoder, "encode_queries")
        self._loading = threading.Lock()
        self._device = None if device is None else _on_device(index, device)
        if encoder is not None:
            _check(index, encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | None = None,
        *,
        idf: bool = True,
        sharpness: float = SHARPNESS,
        device: str | torch.device | None = None,
    ) -> "Searcher":
        """Open an index folder for searching; its encoder is found by what the index recorded."""
        index = Index.open(path)
        try:
            searcher = cls(index, encoder, idf=idf, sharpness=sharpness, device=device)
        except BaseException:
            index.close()
            raise
        searcher._owns = True
        return searcher

    def close(self) -> None:
        """Close the index that `open` opened; one that the caller opened is the caller's to close."""
        if self._owns:
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
                device = None if self._device is None else self._device.device
                loaded = Encoder.load(**arguments, device=device)
                _check(self.index, loaded)
                self._encoder = loaded
            return self._encoder

    @known_keywords
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

    @known_keywords
    def search_many(
        self,
        queries: Mapping[Q, str] | Iterable[tuple[Q, str]],
        *,
        k: int = 100,
        mode: Mode = "late",
        weights: tuple[float, float] | None = None,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
        show_progress: bool = False,
    ) -> dict[Q, list[Hit]]:
        """{query id: text} → {query id: hits}, in the same order; otherwise as `search`.

        queries: also pairs (query id, text), of which a later one replaces an earlier one of the same id.
        """
        knobs = {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank}
        return dict(
            self.search_stream(
                queries,
                k=k,
                mode=mode,
                weights=weights,
                filter=filter,
                show_progress=show_progress,
                **knobs,
            )
        )

    @known_keywords
    def search_stream(
        self,
        queries: Mapping[Q, str] | Iterable[tuple[Q, str]],
        *,
        k: int = 100,
        mode: Mode = "late",
        weights: tuple[float, float] | None = None,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
        show_progress: bool = False,
    ) -> Iterator[tuple[Q, list[Hit]]]:
        """As `search_many`, for any number of queries: (query id, hits) one by one, in order.

        queries: {query id: text} or pairs, maybe without end; `enumerate(texts)` will do. 64 of them are taken
        at a time, encoded together, and searched side by side on torch's number of threads.
        """
        # All this first, so as to refuse before encoding.
        asked = {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank}
        k, knobs, (late, lexical) = checked(k, asked, mode, weights)
        if isinstance(queries, str) or not isinstance(queries, Iterable):
            raise ArgumentError(
                f"queries is {queries!r:.60}; pass {{query id: text}}, or use search for one text"
            )
        depth = fusion_depth(k, knobs["ncandidates"], knobs["nrerank"]) if mode == "hybrid" else k
        seen = self._view(depth, knobs, filter)
        with self.index.reading():
            seen(self.index.generation)

        def hits(query: tuple[str, Vectors | None]) -> list[Hit]:
            with self.index.reading():
                return found(*query, *seen(self.index.generation))

        def found(
            text: str, vectors: Vectors | None, settings: SearchSettings | None, lives: Lives
        ) -> list[Hit]:
            snapshot = self.index._snapshot
            if vectors is None:
                return self._hits(snapshot.lexical(text, k, lives), k, None, None, 0.0)
            ranking = self._late(vectors, depth, settings, lives, self.sharpness)
            if mode == "hybrid":
                # Fused are the rankings as each mode shows them, equal scores in the order of doc_id.
                both = (ranking, snapshot.lexical(text, depth, lives))
                shown = [[pid for _, pid, _ in self._best(one, depth)] for one in both]
                # All of them, so that doc_id also decides between equal ones at the cut.
                ranking = reciprocal_rank_fusion(
                    [np.array(pids, dtype=np.int64) for pids in shown], (late, lexical), 2 * depth
                )
            return self._hits(ranking, k, text, vectors, self.sharpness)

        total = len(queries) if isinstance(queries, Mapping) else None
        pairs = iter(queries.items() if isinstance(queries, Mapping) else queries)

        def stream() -> Iterator[tuple[Q, list[Hit]]]:
            with Progress[Q](desc="search", unit="query", show=show_progress, total=total) as bar:
                while some := [_pair(pair) for pair in itertools.islice(pairs, QUERIES_AT_ONCE)]:
                    texts = [text for _, text in some]
                    encoded = [None] * len(some) if mode == "lexical" else self._encode(texts)
                    found = self._each(hits, list(zip(texts, encoded, strict=True)))
                    for (qid, _), own in zip(some, found, strict=True):
                        yield qid, own
                        bar.update()

        return stream()

    def _encode(self, texts: list[str]) -> TokenEmbeddings:
        encoder = self.encoder
        encoded = encoder.encode_queries(texts)
        tokens = getattr(encoder, "query_tokens", None)
        if not self.idf or tokens is None:
            return encoded
        n, frequencies = len(self.index), self.index.document_frequencies
        weights = [idf_weights(text, tokens(text), n, frequencies) for text in texts]
        return replace(encoded, vectors=encoded.vectors * np.concatenate(weights)[:, None])

    def _each(
        self,
        hits: Callable[[tuple[str, Vectors | None]], list[Hit]],
        queries: list[tuple[str, Vectors | None]],
    ) -> Iterable[list[Hit]]:
        """hits(query) for each: side by side where the kernels do the work, else torch shares out each one."""
        alone = len(queries) == 1 or self._device is not None
        if alone or any(segment.kind == "flat" for segment in self.index.segments):
            return map(hits, queries)
        from retriever.kernels import each_on_a_thread  # see _search

        return each_on_a_thread(hits, queries)

    @known_keywords
    def search_embeddings(
        self,
        query: npt.NDArray[np.float32],
        *,
        k: int = 10,
        filter: str | None = None,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
        sharpness: float = 0.0,
    ) -> list[Hit]:
        """As `search`, for the vectors of one query: (n_query, dim). By plain MaxSim, unless sharpness is given; a
        vector's length is then its weight."""
        k, knobs, _ = checked(k, {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank})
        query, sharpness = as_vectors(query, "query", self.index.dim), check_sharpness(sharpness)
        with self.index.reading():
            settings, lives = self._view(k, knobs, filter)(self.index.generation)
            return self._hits(self._late(query, k, settings, lives, sharpness), k, None, query, sharpness)

    def _view(
        self, k: int, knobs: Mapping[str, int | None], filter: str | None
    ) -> Callable[[int], tuple[SearchSettings | None, Lives]]:
        """What a search needs of a snapshot, worked out once for each: generation → settings, and which passages."""

        @lru_cache(maxsize=1)
        def view(generation: int) -> tuple[SearchSettings | None, Lives]:
            return self._settings(k, knobs), self.index._snapshot.matching(filter)

        return view

    def _hits(
        self, ranking: Ranking, k: int, text: str | None, vectors: Vectors | None, sharpness: float
    ) -> list[Hit]:
        best = self._best(ranking, k)
        segments, codec = self.index.segments, self.index.codec  # a refresh gives pids another meaning
        hits = []
        for rank, (score, pid, document) in enumerate(best, 1):
            hit = Hit(rank, float(score), document.doc_id, document.text, document.metadata)
            if vectors is not None:
                hit = hit._with(
                    partial(self._explain, segments, codec, pid, document, text, vectors, sharpness)
                )
            hits.append(hit)
        return hits

    def _best(self, ranking: Ranking, k: int) -> list[tuple[float, int, Document]]:
        """The k best of a ranking with their scores and pids, equal scores in the order of doc_id."""
        scores, pids = ranking[1], ranking[0].tolist()
        found = zip(scores, pids, self.index._snapshot.store.documents(pids), strict=True)
        return sorted(found, key=lambda one: (-one[0], one[2].doc_id))[:k]

    def _explain(
        self,
        segments: tuple[Segment, ...],
        codec: Codec | None,
        pid: int,
        document: Document,
        query: str | None,
        vectors: Vectors,
        sharpness: float,
    ) -> Explanation:
        [segment] = [s for s in segments if s.pid_start <= pid < s.pid_start + s.n_passages]
        if document.text is None:
            raise ArgumentError(f"{document.doc_id!r} is stored without a text, so its tokens have no names")
        first, last = segment.offsets[pid - segment.pid_start :][:2]
        line = document.metadata.get("start_line")
        return explain(
            self.encoder,
            query,
            np.asarray(vectors, dtype=np.float32),
            document.text,
            segment.decode(int(first), int(last), codec),
            doc_id=document.doc_id,
            start_line=line if isinstance(line, int) else 1,
            sharpness=sharpness,
        )

    def _late(
        self,
        query: Vectors,
        k: int,
        settings: SearchSettings | None,
        lives: Lives,
        sharpness: float,
    ) -> Ranking:
        return self._search(as_vectors(query, "query", self.index.dim), k, settings, lives, sharpness)

    @known_keywords
    def recall_vs_exact(
        self,
        queries: Mapping[Any, str] | Iterable[str] | Iterable[npt.ArrayLike],
        k: int = 10,
        *,
        nprobe: int | None = None,
        ncandidates: int | None = None,
        nrerank: int | None = None,
    ) -> float:
        """How much of the true top k a search finds: the mean over queries, 0 to 1.

        queries: {query id: text}, as for `search_many`, texts, or vectors (n_query, dim), as for `search_embeddings`.
        True is MaxSim with every passage, on the vectors as they are stored; of equal scores any will do. Measures
        candidate generation, not the encoder.
        """
        k, knobs, _ = checked(k, {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank})
        some = as_list(
            queries.values() if isinstance(queries, Mapping) else queries, "queries", "texts or arrays"
        )
        if not some:
            raise ArgumentError("queries is empty; pass some that are typical of your searches")
        texts = any(isinstance(query, str) for query in some)
        sharpness = self.sharpness if texts else 0.0
        encoded = self._encode(as_strings(some, "queries")) if texts else some
        vectors = [as_vectors(query, f"queries[{i}]", self.index.dim) for i, query in enumerate(encoded)]
        recalls = []
        with self.index.reading():
            settings, lives = self.settings(k, **knobs), self.index._snapshot.matching(None)
            for query in vectors:
                _, exact = self._search(query, k, None, lives, sharpness)
                _, found = self._search(query, k, settings, lives, sharpness)
                if len(exact):
                    recalls.append(float(np.mean(found[:k] >= exact[-1])))
        return float(np.mean(recalls)) if recalls else 1.0

    def settings(
        self, k: int, *, nprobe: int | None = None, ncandidates: int | None = None, nrerank: int | None = None
    ) -> SearchSettings:
        """What a search of this index for k hits would use. Raises ArgumentError for what cannot work.

        Where nothing is passed: what `latewood tune` stored, for k up to the one it measured, or the defaults.
        """
        k, knobs, _ = checked(k, {"nprobe": nprobe, "ncandidates": ncandidates, "nrerank": nrerank})
        return choose(
            k,
            nlist=None if self.index.codec is None else self.index.codec.nlist,
            passages=len(self.index),
            tokens=self.index.n_tokens,
            tuned=self.index.tuned_search,
            **knobs,
        )

    def _settings(self, k: int, knobs: Mapping[str, int | None]) -> SearchSettings | None:
        """As `settings`; None, for all passages, on a device whose user has not asked for less."""
        chosen = self.settings(k, **knobs)
        return None if self._device is not None and set(knobs.values()) == {None} else chosen

    def _search(
        self,
        query: Vectors,
        k: int,
        settings: SearchSettings | None,
        lives: Lives,
        sharpness: float,
    ) -> Ranking:
        """Pids and scores of the k best, best first, and of more that score as the last of them does.

        settings: None scores every passage there is. lives: for each segment which passages there are.
        """
        if self._device is not None:
            return self._device.search(query, k, settings, lives, sharpness)
        index = self.index
        pids: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        scores: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)]
        compressed: list[tuple[Segment, npt.NDArray[np.bool_]]] = []
        for segment, live in zip(index.segments, lives, strict=True):
            if segment.kind == "flat":
                passages = np.flatnonzero(live)
                pids.append(segment.pid_start + passages)
                scores.append(score_flat(query, segment, sharpness)[passages])
            else:
                compressed.append((segment, live))
        if compressed and index.codec is not None:
            # Imported here because numba takes half a second to get going, and a flat index does without.
            from retriever.kernels import QueryTables
            from retriever.ranking.candidates import candidates

            tables = QueryTables.of(query, index.codec, sharpness)
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
            pids += [segment.pid_start + p for (segment, _), p in zip(compressed, chosen, strict=True)]
            scores.append(score_compressed(tables, [segment for segment, _ in compressed], chosen))
        return top(np.concatenate(pids), np.concatenate(scores), k)


def _on_device(index: Index, device: str | torch.device) -> "DeviceIndex":
    from retriever.ranking.device import DeviceIndex  # imports numba; see Searcher._search

    try:
        place = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch says of one that is not there
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"device={device!r} cannot be used ({reason}); pass one that torch has, or leave it out"
        ) from None
    return DeviceIndex(index, place)


def _pair(pair: tuple[Q, str]) -> tuple[Q, str]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], str):
        raise ArgumentError(f"query {pair!r}; pass pairs (query id, text), such as enumerate(texts)")
    return pair


def _check(index: Index, encoder: QueryEncoder) -> None:
    if index.encoder_fingerprint is None:
        return  # vectors of the user's own: only the user knows what fits them
    if index.encoder_fingerprint != encoder.fingerprint:
        raise EncoderMismatchError(
            f"{index.folder} was built with {index.encoder_name!r} ({index.encoder_fingerprint[:12]}), "
            f"the encoder is {encoder.name!r} ({encoder.fingerprint[:12]}); "
            "search with the one that built it, or index again"
        )
