"""Searcher: a query → hits. Candidates from compressed segments, then MaxSim decides; or words do, or both."""

import copy
import itertools
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from encoder import TokenEmbeddings
from encoder.arguments import as_list, as_strings, as_vectors, shown
from encoder.closing import Closing
from encoder.errors import ArgumentError, EncoderMismatchError, LatewoodError
from encoder.maxsim import check_sharpness, maxsim_arrays
from encoder.options import updated
from encoder.others import as_encoder
from encoder.progress import Progress, Told
from indexing import Document, Snapshot
from indexing.coding.codec import Codec
from indexing.storage.segment import Segment
from indexing.storage.sharded import open_snapshot
from retriever.explaining import Explanation, explain
from retriever.hits import Hit, Hits
from retriever.options import Mode, Scoring, SearchOptions
from retriever.ranking.knobs import SearchSettings
from retriever.ranking.ranker import Found, Plan, Ranker, document_vectors
from retriever.ranking.weighting import idf_weights

if TYPE_CHECKING:
    import torch

    from indexing import Index

__all__ = ["QueryEncoder", "Recall", "Searcher", "Seconds"]

QUERIES_AT_ONCE = 64  # encoded together, and held with their hits, by search_many and search_stream

Q = TypeVar("Q", bound=Hashable)


class Recall(NamedTuple):
    """Means over queries, 0 to 1. search: of the k best by MaxSim with every passage, on the vectors as they are
    stored, what a search finds: measures candidate generation. codes: of the k best of a sample of passages, by their
    vectors as they were given, what is among the k best as they are stored: measures compression; None without a
    sample."""

    search: float
    codes: float | None


class Seconds(NamedTuple):
    """Of one batch of queries, by the wall: making their vectors, and finding and ranking with them."""

    encode: float
    search: float


Vectors: TypeAlias = npt.NDArray[np.float32]
_Asked: TypeAlias = tuple[str | None, Vectors | None, Plan]
DEFAULTS = SearchOptions()
SCORING = Scoring()


class QueryEncoder(Protocol):
    """What a searcher asks of an encoder; `encoder.Encoder` is one."""

    fingerprint: str
    name: str

    def encode_queries(self, texts: list[str], /) -> TokenEmbeddings: ...


class Searcher(Closing):
    """Searches one snapshot of an index. Searching changes nothing; several threads may share a Searcher.

    Searches take SearchOptions, its fields as keywords, or both: `search("text", k=3, mode="hybrid")`.
    """

    def __init__(
        self,
        index: "Index | Snapshot",
        encoder: QueryEncoder | None = None,
        *,
        scoring: Scoring = SCORING,
        device: "str | torch.device | None" = None,
        once: bool = False,
    ) -> None:
        """index: its newest commit is searched; a snapshot stays the caller's to close.
        encoder: where None, the index's own is loaded when a text is first searched, without torch where that can be
        (`encoder.light`) and no device is given.
        device: a torch device, such as "cuda", that holds all codes and does the scoring; None for the
        processor, with compiled kernels and mapped files (docs/internals/search.md).
        once: for a search or two in a process that then ends: numpy does what the kernels do, for these take
        half a second and more to load. Scores are the same but for their rounding.

        Raises EncoderMismatchError for an encoder other than the one that made the index's vectors,
        ArgumentError where the device has no room for the index.
        """
        if not isinstance(index, Snapshot):
            from indexing import Index  # and all that writes, which a snapshot has no need of

            if not isinstance(index, Index):
                raise ArgumentError(
                    f"index is {shown(index)} ({type(index).__name__}); for a path use Searcher.open"
                )
        if not isinstance(scoring, Scoring):
            raise ArgumentError(f"scoring is {shown(scoring)} ({type(scoring).__name__}); pass Scoring(...)")
        self.scoring = scoring
        self._device = device
        # The encoder, when there is one; shared with what `still` gives.
        encoder = None if encoder is None else as_encoder(encoder, "encode_queries")
        self._loaded = [] if encoder is None else [encoder]
        self._loading = threading.Lock()
        self._own = not isinstance(index, Snapshot)
        self._beside: object = None  # moment
        snapshot = index if isinstance(index, Snapshot) else index.snapshot()
        try:
            if encoder is not None:
                _check(snapshot, encoder)
            self._ranker = self._ranking(snapshot, once=once)
        except BaseException:
            if self._own:
                snapshot.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | None = None,
        *,
        scoring: Scoring = SCORING,
        device: "str | torch.device | None" = None,
        once: bool = False,
    ) -> "Searcher":
        """Open an index folder for searching; its encoder is found by what the index recorded."""
        snapshot = open_snapshot(path)
        try:
            searcher = cls(snapshot, encoder, scoring=scoring, device=device, once=once)
        except BaseException:
            snapshot.close()
            raise
        searcher._own = True
        return searcher

    def close(self) -> None:
        """Let go of what the searcher itself has opened."""
        if self._own:
            self.snapshot.close()

    @property
    def snapshot(self) -> Snapshot:
        """What is searched."""
        return self._ranker.snapshot

    def reload(self) -> bool:
        """Move to the index's newest commit; whether there was one. Searches under way end on the old one.

        Raises EncoderMismatchError, and stays where it is, where another index has taken the place of this one and
        is of another encoder."""
        with self._loading:
            before = self.snapshot.moment
            self._move(self.snapshot.newest())
            if self.snapshot.moment != self._beside:  # once a commit: it is commits that make the log long
                self._move(self.snapshot.beside_log())
                self._beside = self.snapshot.moment
            return self.snapshot.moment != before

    def _move(self, snapshot: Snapshot) -> None:
        if snapshot is not self.snapshot:
            for encoder in self._loaded:
                _check(snapshot, encoder)
            # The old one is not closed: other threads may search it. It is let go with the last of them.
            self._ranker = self._ranking(snapshot, self._ranker, once=self._ranker.once)
            self._own = True

    def load_kernels(self) -> None:
        """End what `once` says: load the kernels, or compile them, which takes half a minute on a machine's first use.
        Other threads may search meanwhile."""
        now = self.snapshot
        if self._ranker.once and self._ranker.needs_kernels:
            quick = self.still()
            quick._ranker = Ranker(now, None)
            quick.search_embeddings(np.eye(1, now.settings.dim, dtype=np.float32), k=1)
        with self._loading:  # no reload takes what was before
            self._ranker.once = False

    def still(self) -> "Searcher":
        """A searcher of what this one searches now, which no `reload` moves; it need not be closed."""
        other = copy.copy(self)
        other._own = False
        return other

    @property
    def encoder(self) -> QueryEncoder:
        with self._loading:
            if not self._loaded:
                arguments = self.snapshot.settings.encoder
                if arguments is None:
                    raise ArgumentError(
                        f"{self.snapshot.folder} was built from vectors and names no encoder; search with mode "
                        "'lexical' or search_embeddings, pass encoder=..., or import it with --encoder MODEL"
                    )
                from encoder.light import encoder_for_searching  # words need no encoder, nor its libraries

                loaded = encoder_for_searching(arguments, self._device)
                _check(self.snapshot, loaded)
                self._loaded.append(loaded)
            return self._loaded[0]

    def search(self, query: str, options: SearchOptions = DEFAULTS, **changes: Any) -> Hits:
        """The k best documents for a text, best first; fewer only if the index holds fewer.

        Raises ArgumentError for options that cannot work, with what would.
        """
        if not isinstance(query, str):
            raise ArgumentError(
                f"query is {type(query).__name__}; pass a string, or use search_many for several"
            )
        return self.search_many({"": query}, options, **changes)[""]

    def search_many(
        self,
        queries: Mapping[Q, str] | Iterable[tuple[Q, str]],
        options: SearchOptions = DEFAULTS,
        *,
        progress: Told | None = None,
        **changes: Any,
    ) -> dict[Q, Hits]:
        """{query id: text} → {query id: hits}, in the same order; otherwise as `search`.

        queries: also pairs (query id, text), of which a later one replaces an earlier one of the same id.
        """
        return dict(self.search_stream(queries, options, progress=progress, **changes))

    def search_stream(
        self,
        queries: Mapping[Q, str] | Iterable[tuple[Q, str]],
        options: SearchOptions = DEFAULTS,
        *,
        progress: Told | None = None,
        **changes: Any,
    ) -> Iterator[tuple[Q, Hits]]:
        """As `search_many`, for any number of queries: (query id, hits) one by one, in order.

        queries: {query id: text} or pairs, maybe without end; `enumerate(texts)` will do. 64 of them are taken
        at a time, encoded together, and searched side by side on the process's threads.
        """
        if isinstance(queries, str) or not isinstance(queries, Iterable):
            raise ArgumentError(
                f"queries is {shown(queries)}; pass {{query id: text}}, or use search for one text"
            )
        ranker = self._ranker  # what a reload leaves alone
        plan = ranker.plan(_asked(options, changes), self.scoring.sharpness)  # refuses before encoding
        total = len(queries) if isinstance(queries, Mapping) else None
        pairs = iter(queries.items() if isinstance(queries, Mapping) else queries)

        def stream() -> Iterator[tuple[Q, Hits]]:
            with Progress[Any](phase="searching", unit="query", told=progress, total=total) as bar:
                while some := [_pair(pair) for pair in itertools.islice(pairs, QUERIES_AT_ONCE)]:
                    answers, _ = self._answers(ranker, [(text, plan) for _, text in some])
                    for (qid, _), hits in zip(some, answers, strict=True):
                        yield qid, hits
                        bar.update()

        return stream()

    def search_each(
        self, asked: Sequence[tuple[str, SearchOptions]]
    ) -> tuple[list[Hits | LatewoodError], Seconds]:
        """As `search` for each (text, options), on one snapshot: all are encoded together and searched side by side,
        whatever the options of each. What cannot be answered has its error in place of hits. For servers."""
        ranker = self._ranker
        plans = {options: self._planned(ranker, options) for options in {options for _, options in asked}}
        good = [(text, plan) for text, options in asked if isinstance(plan := plans[options], Plan)]
        answers, seconds = self._answers(ranker, good)
        left = iter(answers)
        return [
            next(left) if isinstance(plan := plans[options], Plan) else plan for _, options in asked
        ], seconds

    def search_embeddings(
        self,
        query: npt.ArrayLike,
        options: SearchOptions = DEFAULTS,
        *,
        sharpness: float = 0.0,
        **changes: Any,
    ) -> Hits:
        """As `search`, for the vectors of one query: (n_query, dim). By plain MaxSim, unless sharpness is given; a
        vector's length is then its weight."""
        options = _late(_asked(options, changes), "needs a text; use search")
        ranker = self._ranker
        plan = ranker.plan(options, check_sharpness(sharpness))
        asked = [(None, as_vectors(query, "query", ranker.snapshot.settings.dim), plan)]
        return self._hits(ranker, asked, ranker.rank_all(asked))[0]

    def settings(self, options: SearchOptions = DEFAULTS, **changes: Any) -> SearchSettings:
        """What a search of this index would use. Raises ArgumentError for what cannot work.

        Where nothing is passed: what `latewood tune` stored, for k up to the one it measured, or the defaults.
        """
        options = _asked(options, changes)
        return self._ranker.settings(options.k, options)

    def mode(self, options: SearchOptions = DEFAULTS, **changes: Any) -> Mode:
        """What a search for a text with these options ranks by: "late", "lexical" or "hybrid"."""
        return self._ranker.mode(_asked(options, changes))

    def recall_vs_exact(
        self,
        queries: Mapping[Any, str] | Iterable[str] | Iterable[npt.ArrayLike],
        options: SearchOptions = DEFAULTS,
        **changes: Any,
    ) -> Recall:
        """How much of the true top k a search finds, and how much of it the codes keep.

        queries: {query id: text}, as for `search_many`, texts, or vectors (n_query, dim), as for `search_embeddings`.
        Of equal scores any will do.
        """
        some = as_list(
            queries.values() if isinstance(queries, Mapping) else queries, "queries", "texts or arrays"
        )
        if not some:
            raise ArgumentError("queries is empty; pass some that are typical of your searches")
        texts, ranker = any(isinstance(query, str) for query in some), self._ranker
        options = _late(_asked(options, changes), "has no exact ranking; leave it out")
        plan = ranker.plan(options, self.scoring.sharpness if texts else 0.0)
        encoded = self._encode(as_strings(some, "queries"), ranker.snapshot) if texts else some
        pids, originals = ranker.originals()
        found, kept = [], []
        for i, query in enumerate(encoded):
            vectors = as_vectors(query, f"queries[{i}]", ranker.snapshot.settings.dim)
            if exact := ranker.rank(None, vectors, replace(plan, settings=None)):
                hits = ranker.rank(None, vectors, plan)
                found.append(float(np.mean([hit.score >= exact[-1].score for hit in hits])))
            if len(pids):
                given = maxsim_arrays(vectors, originals.vectors, originals.offsets, plan.sharpness)
                best = np.argsort(-given, kind="stable")[: plan.options.k]
                stored = ranker.exact(vectors, pids, plan.sharpness)
                kept.append(float(np.mean(stored[best] >= np.sort(stored)[-len(best)])))
        return Recall(float(np.mean(found)) if found else 1.0, float(np.mean(kept)) if kept else None)

    def memory(self) -> dict[str, int]:
        """Bytes that this searcher holds beyond mapped files, by name. Encoder, tables and lists are made when first
        needed; what a search takes while it runs, the tokenizer and the libraries are not in it."""
        held = self.snapshot.memory()
        if self._loaded:
            held["encoder"] = getattr(self._loaded[0], "nbytes", 0)
        return held

    def encode(self, texts: Sequence[str]) -> TokenEmbeddings:
        """Token vectors of queries as searches use them: weighted by `Scoring.idf`, their lengths being the weights."""
        return self._encode(as_strings(texts, "texts"), self.snapshot)

    # Inside --------------------------------------------------------------------------------------------------

    def _ranking(self, snapshot: Snapshot, previous: Ranker | None = None, *, once: bool = False) -> Ranker:
        return Ranker(snapshot, self._device, previous, once=once)

    def _encode(self, texts: list[str], snapshot: Snapshot) -> TokenEmbeddings:
        encoder = self.encoder
        encoded = encoder.encode_queries(texts)
        tokens = getattr(encoder, "query_tokens", None)
        if not self.scoring.idf or tokens is None:
            return encoded
        n, frequencies = len(snapshot), snapshot.document_frequencies
        if not texts:
            return encoded
        weights = [idf_weights(text, tokens(text), n, frequencies) for text in texts]
        return replace(encoded, vectors=encoded.vectors * np.concatenate(weights)[:, None])

    def _planned(self, ranker: Ranker, options: SearchOptions) -> Plan | LatewoodError:
        try:
            plan = ranker.plan(options, self.scoring.sharpness)
            if plan.options.mode != "lexical":
                _ = self.encoder  # an index of vectors has none
            return plan
        except LatewoodError as error:
            return error

    def _answers(self, ranker: Ranker, asked: Sequence[tuple[str, Plan]]) -> tuple[list[Hits], Seconds]:
        """Hits of each text, searched as its plan says."""
        started = time.perf_counter()
        late = [i for i, (_, plan) in enumerate(asked) if plan.options.mode != "lexical"]
        vectors: list[Vectors | None] = [None] * len(asked)
        if late:
            encoded = self._encode([asked[i][0] for i in late], ranker.snapshot)
            for i, one in zip(late, encoded, strict=True):
                vectors[i] = one
        encoding = time.perf_counter() - started
        queries = [(text, one, plan) for (text, plan), one in zip(asked, vectors, strict=True)]
        hits = self._hits(ranker, queries, ranker.rank_all(queries))
        return hits, Seconds(encoding, time.perf_counter() - started - encoding)

    def _hits(self, ranker: Ranker, asked: Sequence[_Asked], found: Sequence[list[Found]]) -> list[Hits]:
        now = ranker.snapshot
        documents = now.documents({one.document for some in found for one in some})
        answers = []
        for (text, vectors, plan), some in zip(asked, found, strict=True):
            hits = Hits((), len(now), now.n_unencoded, now.state.generation)
            for rank, (score, number, pid) in enumerate(some, 1):
                document, span, explainer = documents[number], None, None
                if pid is not None:
                    at, local = now.locate(pid)
                    start, stop = now.segments[at].spans[local]
                    span = int(start), int(stop)
                if vectors is not None:
                    explainer = partial(
                        self._explain,
                        (now.segments, now.codec),
                        (number, span),
                        document,
                        (text, vectors),
                        plan.sharpness,
                    )
                hit = Hit(rank, score, document.doc_id, document.text, document.metadata)
                hits.append(hit.with_context(span, text, explainer))
            answers.append(hits)
        return answers

    def _explain(
        self,
        stored: tuple[Sequence[Segment], Codec | None],
        place: tuple[int, tuple[int, int] | None],
        document: Document,
        query: tuple[str | None, Vectors],
        sharpness: float,
    ) -> Explanation:
        """place: the document's number and the passage's span, or None for its best passage."""
        if document.text is None:
            raise ArgumentError(f"{document.doc_id!r} is stored without a text, so its tokens have no names")
        segments, codec = stored
        number, wanted = place
        best: Explanation | None = None
        for segment, local in document_vectors(segments, number):
            span = (int(segment.spans[local][0]), int(segment.spans[local][1]))
            if wanted not in (None, span):
                continue
            first, last = segment.offsets[local : local + 2]
            explanation = explain(
                self.encoder, query, document, span, segment.decode(int(first), int(last), codec), sharpness
            )
            if best is None or explanation.score > best.score:
                best = explanation
        if best is None:
            raise ArgumentError(f"{document.doc_id!r} is not encoded yet, so its tokens have no vectors")
        return best


def _asked(options: SearchOptions, changes: Mapping[str, Any]) -> SearchOptions:
    if not isinstance(options, SearchOptions):
        raise ArgumentError(
            f"options is {shown(options)} ({type(options).__name__}); pass SearchOptions, or its fields by name, as k=3"
        )
    return updated(options, changes)


def _late(options: SearchOptions, why: str) -> SearchOptions:
    """The options in mode "late". why: what is said of another mode."""
    if options.mode not in (None, "late"):
        raise ArgumentError(f'mode="{options.mode}" {why}')
    return replace(options, mode="late")


def _pair(pair: tuple[Q, str]) -> tuple[Q, str]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], str):
        raise ArgumentError(f"query {shown(pair)}; pass pairs (query id, text), such as enumerate(texts)")
    return pair


def _check(snapshot: Snapshot, encoder: QueryEncoder) -> None:
    made_by = snapshot.settings.encoder_fingerprint
    if made_by is None:
        return  # vectors of the user's own: only the user knows what fits them
    if made_by != encoder.fingerprint:
        raise EncoderMismatchError(
            f"{snapshot.folder} was built with {snapshot.settings.encoder_name!r} ({made_by[:12]}), "
            f"the encoder is {encoder.name!r} ({encoder.fingerprint[:12]}); "
            "search with the one that built it, or index again"
        )
