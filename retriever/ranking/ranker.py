"""Ranker: one snapshot of an index, ranked for a query: by vectors, by words, or by both."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from encoder.arguments import as_vectors
from encoder.devices import as_device
from encoder.embeddings import TokenEmbeddings
from encoder.errors import ArgumentError
from indexing.storage.originals import Originals, share_of
from indexing.storage.segment import Segment
from indexing.storage.snapshot import Live, Selection, Snapshot
from retriever.options import Mode, SearchOptions
from retriever.ranking.candidates import Wanted, candidates
from retriever.ranking.documents import best_of_each
from retriever.ranking.engines import Compiled, Plain
from retriever.ranking.fusion import WEIGHTS, fused, fusion_depth, words_weight
from retriever.ranking.knobs import SearchSettings, Size, choose
from retriever.ranking.scoring import score_flat, top

if TYPE_CHECKING:
    import torch

    from retriever.ranking.device import DeviceIndex

__all__ = ["Found", "Plan", "Ranker", "Ranking", "Rankings"]

Vectors: TypeAlias = npt.NDArray[np.float32]
Ranking: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]  # pids or documents, scores


@dataclass(frozen=True, eq=False)
class Plan:
    """What searches with the same options share. depth: hits that the late ranking must have. settings: None scores
    all there is. sharpness: as in Scoring."""

    options: SearchOptions
    depth: int
    settings: SearchSettings | None
    selection: Selection
    sharpness: float


class Found(NamedTuple):
    """pid: the passage that speaks for the document; None where words alone found it."""

    score: float
    document: int
    pid: int | None


class Rankings(NamedTuple):
    """What hits are made of. late: pids, best first, as deep as the plan says and with all that score as the last does.
    words: documents, ascending, and their BM25. None where the mode has no use for it, or it is still to be made."""

    late: Ranking | None = None
    words: Ranking | None = None


NOTHING = Rankings()


class Ranker:
    """Ranks the documents of one snapshot; several threads may share it."""

    def __init__(
        self,
        snapshot: Snapshot,
        device: "str | torch.device | None",
        previous: "Ranker | None" = None,
        *,
        once: bool = False,
    ) -> None:
        """previous: of an older snapshot, whose codes on the device are used again. once: without the kernels, which
        take longer to load than one search without them."""
        self.snapshot = snapshot
        self.once = once
        self.device: DeviceIndex | None = None
        if device is not None:
            from retriever.ranking import device as on_device  # imports numba; see _scored

            place = as_device(device)
            self.device = on_device.DeviceIndex(
                snapshot, place, None if previous is None else previous.device
            )

    @property
    def serial(self) -> bool:
        """Whether queries are best ranked one after the other on the processor: torch shares out each one."""
        return any(s.kind == "flat" for s in self.snapshot.segments)

    @property
    def needs_kernels(self) -> bool:
        return self.device is None and any(s.kind != "flat" for s in self.snapshot.segments)

    def mode(self, options: SearchOptions) -> Mode:
        """What a search for a text with these options ranks by."""
        return options.mode or ("hybrid" if options.by == "document" and self.snapshot.has_texts else "late")

    def plan(self, options: SearchOptions, sharpness: float) -> Plan:
        """Raises ArgumentError for what cannot work on this index."""
        options = replace(options, mode=self.mode(options))
        now, depth = self.snapshot, options.k
        if options.mode == "hybrid":
            depth = fusion_depth(options.k, options.ncandidates, options.nrerank)
        if options.mode == "late" and len(now) and now.n_unencoded == len(now):
            raise ArgumentError(
                f"none of the {len(now)} documents of {now.folder} is encoded yet; run index.encode(), "
                'or search with mode="lexical"'
            )
        settings = None if options.mode == "lexical" else self.settings(depth, options)
        if self.device is not None and options.nprobe is options.ncandidates is options.nrerank is None:
            settings = None
        return Plan(options, depth, settings, self.select(options.filter), sharpness)

    def select(self, filter: str | None) -> Selection:
        """What a plan lets a search find. Raises ArgumentError for what is no filter."""
        return self.snapshot.select(filter)

    def settings(self, k: int, options: SearchOptions) -> SearchSettings:
        """What a search for k hits uses."""
        now = self.snapshot
        fold = options.by == "document" and not now.one_each
        ranked = len(now) - now.n_unencoded if fold else now.n_passages
        size = Size(ranked, now.n_passages, now.n_tokens, None if now.codec is None else now.codec.nlist)
        return choose(options, k, size, now.tuned_search)

    def rank_all(self, asked: Sequence[tuple[str | None, Vectors | None, Plan]]) -> Sequence[list[Found]]:
        """`rank` for each: side by side where the kernels do the work, else torch shares out each one."""
        if self.device is not None:
            return self.rank_together(asked)
        if len(asked) == 1 or self.serial:
            return [self.rank(*one) for one in asked]
        from retriever.kernels import each_on_a_thread  # imports numba

        return list(each_on_a_thread(lambda one: self.rank(*one), asked))

    def rank_together(self, asked: Sequence[tuple[str | None, Vectors | None, Plan]]) -> list[list[Found]]:
        """`rank` for each, on a device those of one plan together."""
        assert self.device is not None
        together: dict[int, list[int]] = {}
        for i, (_, vectors, plan) in enumerate(asked):
            if vectors is not None:
                together.setdefault(id(plan), []).append(i)
        late: dict[int, Rankings] = {}
        for own in together.values():
            plan, dim = asked[own[0]][2], self.snapshot.settings.dim
            queries = [as_vectors(asked[i][1], "query", dim) for i in own]
            found = self.device.search_many(queries, plan, self._folds(plan))
            late |= {i: Rankings(self._cut(one, plan)) for i, one in zip(own, found, strict=True)}
        return [self.rank(*one, late.get(i, NOTHING)) for i, one in enumerate(asked)]

    def rank(
        self, text: str | None, vectors: Vectors | None, plan: Plan, found: Rankings = NOTHING
    ) -> list[Found]:
        """The k best, best first, equal scores in the order of doc_id. vectors: (n_query, dim). found: what is there
        already."""
        options, (by_vectors, words) = plan.options, found
        if options.mode != "late" and words is None:
            assert text is not None
            words = self.snapshot.lexical(text, plan.selection)
        if options.mode == "lexical":
            assert words is not None
            return self._by_words(words, options.k)
        if by_vectors is None:
            assert vectors is not None
            by_vectors = self._late(vectors, plan)
        late = self._ordered(by_vectors, plan.depth)
        if options.mode == "late":
            return late
        assert text is not None
        assert words is not None
        of_late, of_words = options.weights or WEIGHTS
        return self.fused(late, words, (of_late, of_words * words_weight(text)), options.k)

    def fused(self, late: list[Found], words: Ranking, weights: tuple[float, float], k: int) -> list[Found]:
        """The k best by both rankings. late: as deep as `Plan.depth`. words: all documents that have one, ascending."""
        now, by_late = self.snapshot, {one.document: one for one in late}
        best = top(*words, max(k, len(late)))[0]
        documents = np.union1d(list(by_late), best).astype(np.int64)
        nearness = np.array([by_late[d].score if d in by_late else np.nan for d in documents.tolist()])
        lexical = np.zeros(len(documents))
        _, at, of = np.intersect1d(documents, words[0], assume_unique=True, return_indices=True)
        lexical[at] = words[1][of]
        waiting = (
            np.isin(documents, now.unencoded(documents))
            if now.n_unencoded
            else np.zeros(len(documents), np.bool_)
        )
        found = [
            Found(float(score), int(d), by_late[d].pid if d in by_late else None)
            for score, d in zip(fused(nearness, lexical, waiting, weights), documents.tolist(), strict=True)
        ]
        return self._best(found, k)

    def rankings(self, text: str | None, vectors: Vectors | None, plan: Plan) -> Rankings:
        """What `rank` goes by, and no more of it than can count: of words, the best and those of the late ranking."""
        late = words = None
        if plan.options.mode != "lexical":
            assert vectors is not None
            late = self._late(vectors, plan)
        if plan.options.mode != "late":
            assert text is not None
            documents, scores = self.snapshot.lexical(text, plan.selection)
            count = np.isin(documents, top(documents, scores, max(plan.options.k, plan.depth))[0])
            if late is not None:
                count |= np.isin(documents, self.snapshot.owners(late[0]))
            words = documents[count], scores[count]
        return Rankings(late, words)

    def _by_words(self, words: Ranking, k: int) -> list[Found]:
        documents, scores = top(*words, k)
        found = [Found(float(s), int(d), None) for d, s in zip(documents, scores, strict=True)]
        return self._best(found, k)

    def _best(self, found: list[Found], k: int) -> list[Found]:
        """The k best, equal scores in the order of doc_id."""
        found = sorted(found, key=lambda one: -one.score)
        scores = [one.score for one in found[: k + 1]]
        if any(map(operator.eq, scores, scores[1:])):  # names take as long as the rest
            names = self.snapshot.doc_ids(one.document for one in found)
            found.sort(key=lambda one: (-one.score, names[one.document]))
        return found[:k]

    def _ordered(self, ranking: Ranking, k: int) -> list[Found]:
        """The k best passages, equal scores in the order of doc_id."""
        pids, scores = ranking
        documents = self.snapshot.owners(pids)
        found = [Found(float(s), int(d), int(p)) for s, d, p in zip(scores, documents, pids, strict=True)]
        if (scores[1:] == scores[:-1]).any():
            names = self.snapshot.doc_ids(documents.tolist())
            found.sort(key=lambda one: (-one.score, names[one.document], one.pid))
        return found[:k]

    def _late(self, query: Vectors, plan: Plan) -> Ranking:
        """Pids and scores of the depth best, best first, and of more that score as the last of them does; with
        by="document" one of each document."""
        query = as_vectors(query, "query", self.snapshot.settings.dim)
        search = self._scored if self.device is None else self.device.search
        return self._cut(search(query, plan, self._folds(plan)), plan)

    def _folds(self, plan: Plan) -> bool:
        return plan.options.by == "document" and not self.snapshot.one_each

    def _cut(self, ranking: Ranking, plan: Plan) -> Ranking:
        """The depth best passages, or one of each document, and more that score as the last does."""
        pids, scores = ranking
        if self._folds(plan):
            best = best_of_each(self.snapshot.owners(pids), scores)
            pids, scores = pids[best], scores[best]
        return top(pids, scores, plan.depth)

    def _scored(self, query: Vectors, plan: Plan, fold: bool) -> Ranking:
        """Pids, ascending, and scores of all passages that are worth it."""
        now, lives = self.snapshot, plan.selection.lives
        scored: dict[int, Ranking] = {}
        compressed: list[int] = []
        for i, (segment, live) in enumerate(zip(now.segments, lives, strict=True)):
            if segment.kind == "flat":
                passages = np.flatnonzero(live)
                scored[i] = passages, score_flat(query, segment, plan.sharpness)[passages]
            else:
                compressed.append(i)
        if compressed and now.codec is not None:
            engine = (Plain if self.once else Compiled)(query, now.codec, plan.sharpness)
            segments, own = [now.segments[i] for i in compressed], [lives[i] for i in compressed]
            if plan.settings is None:
                chosen = [np.flatnonzero(live) for live in own]
            else:
                wanted = Wanted(own, self._count(plan.selection, own, fold), plan.depth, fold)
                chosen = candidates(segments, engine, plan.settings, wanted)
            scores = engine.by_codes(segments, chosen)
            ends = np.cumsum([len(passages) for passages in chosen])[:-1]
            scored |= dict(zip(compressed, zip(chosen, np.split(scores, ends), strict=True), strict=True))
        pids: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        parts: list[npt.NDArray[Any]] = [np.zeros(0, np.float32)]
        for i in range(len(now.segments)):
            pids.append(now.starts[i] + scored[i][0])
            parts.append(scored[i][1])
        return np.concatenate(pids), np.concatenate(parts)

    def originals(self) -> tuple[npt.NDArray[np.int64], TokenEmbeddings]:
        """Pids of a sample of passages and their vectors as they were given, of one share over all segments."""
        now = self.snapshot
        share, pids, lengths = share_of(now.n_passages), [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
        vectors = [np.zeros((0, now.settings.dim), np.float16)]
        for start, segment, live in zip(now.starts, now.segments, now.lives, strict=False):
            drawn = Originals.drawn(segment, live, share, now.settings.seed)
            pids.append(start + np.flatnonzero(live)[drawn.passages])
            lengths.append(drawn.lengths)
            vectors.append(drawn.vectors)
        packed = TokenEmbeddings(
            np.concatenate(vectors).astype(np.float32), np.cumsum(np.concatenate(lengths))
        )
        return np.concatenate(pids), packed

    def exact(self, query: Vectors, pids: npt.NDArray[np.int64], sharpness: float) -> npt.NDArray[Any]:
        """MaxSim of a query and passages, pids ascending, on their vectors as they are stored: (n,)."""
        lives = []
        for start, segment in zip(self.snapshot.starts, self.snapshot.segments, strict=False):
            live = np.zeros(segment.n_passages, np.bool_)
            live[pids[(pids >= start) & (pids < start + segment.n_passages)] - start] = True
            lives.append(live)
        plan = Plan(SearchOptions(by="passage"), 1, None, Selection(lives), sharpness)
        if self.device is not None:
            return self.device.scores(query, plan)
        return self._scored(query, plan, False)[1]

    def _count(self, selection: Selection, lives: Sequence[Live], fold: bool) -> int:
        """How many documents, or passages, the compressed segments may offer, or a few more."""
        passages = sum(int(np.count_nonzero(live)) for live in lives)
        if not fold:
            return passages
        documents = len(self.snapshot) if selection.documents is None else len(selection.documents)
        return min(passages, documents)


def document_vectors(segments: Sequence[Segment], document: int) -> list[tuple[Segment, int]]:
    """Where a document's passages lie: segment and place in it of each."""
    for segment in segments:
        if len(local := np.flatnonzero(segment.owners == document)):
            return [(segment, int(i)) for i in local]
    return []
