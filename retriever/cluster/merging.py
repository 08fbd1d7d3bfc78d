"""A searcher whose shards are ranked elsewhere: it encodes queries, asks all shards, and makes hits of what they say.

It holds the snapshot of all shards for document frequencies, texts and explanations, and reads no codes to search.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder.errors import LatewoodError, StorageError
from indexing.storage.fulltext import queried
from indexing.storage.snapshot import Selection, Snapshot
from retriever.cluster.asking import Answer, Ask, Asked, Asking, Lost, Version
from retriever.hits import Hits
from retriever.options import Scoring
from retriever.ranking.ranker import Found, Plan, Ranker, Ranking, Rankings
from retriever.ranking.scoring import top
from retriever.searcher import SCORING, QueryEncoder, Searcher, Seconds

__all__ = ["ClusterRanker", "ClusterSearcher"]

MOVES = 10  # times that a search begins anew because shards have been committed to meanwhile


class MovedError(LatewoodError):
    """What was to be searched is not there any more, for a newer commit is."""


class Merged(list[Found]):
    """What a query found. missing: shards that are not in it."""

    missing: tuple[str, ...] = ()


class ClusterRanker(Ranker):
    """Ranks by asking the shards of a snapshot."""

    def __init__(self, snapshot: Snapshot, asking: Asking, *, all_shards: bool = False) -> None:
        """all_shards: raise StorageError rather than answer without a shard; without any it is raised anyway."""
        super().__init__(snapshot, None)
        self._asking, self._all_shards = asking, all_shards
        parts, reader = snapshot.parts, snapshot.reader
        self._versions = [
            Version(part.folder.relative_to(snapshot.folder).as_posix(), part.state.generation, reader.texts)
            for part in parts
        ]
        # The first pid of each shard.
        self._starts = snapshot.starts[np.cumsum([0, *(len(part.segments) for part in parts)])]
        self._frequencies: dict[str, int] = {}

    @property
    def needs_kernels(self) -> bool:
        return False

    def select(self, filter: str | None) -> Selection:
        """Nothing: shards select. Raises ArgumentError for what is no filter of this index."""
        if filter is not None:
            self.snapshot.reader.condition(filter)
        return Selection([])

    def rank_all(self, asked: Sequence[Asked]) -> Sequence[list[Found]]:
        words = {
            word for text, _, plan in asked if plan.options.mode != "late" for word in queried(text or "")
        }
        frequencies = {word: self._frequency(word) for word in words}
        answers = self._asking(
            [Ask(i, version, asked, frequencies) for i, version in enumerate(self._versions)]
        )
        if Lost.GONE in answers:
            raise MovedError(f"{self.snapshot.folder} has been changed; search again")
        names = [version.name for version in self._versions]
        missing = tuple(n for n, answer in zip(names, answers, strict=True) if answer is Lost.MISSING)
        if missing and (self._all_shards or len(missing) == len(names)):
            raise StorageError(
                f"{len(missing)} of {len(names)} shards do not answer ({', '.join(missing)}); try again in a moment"
            )
        found = []
        for i, (text, vectors, plan) in enumerate(asked):
            some = Merged(self.rank(text, vectors, plan, self._merged(answers, i, plan)))
            some.missing = missing
            found.append(some)
        return found

    def _frequency(self, word: str) -> int:
        if word not in self._frequencies:
            self._frequencies[word] = self.snapshot.reader.document_frequency(word)
        return self._frequencies[word]

    def _merged(self, answers: Sequence[Answer], i: int, plan: Plan) -> Rankings:
        """The rankings of query i over all shards."""
        late: list[Ranking] = []
        words: list[Ranking] = []
        for answer, start in zip(answers, self._starts, strict=False):
            if not isinstance(answer, Lost):
                own = answer[i]
                late += [] if own.late is None else [(own.late[0] + start, own.late[1])]
                words += [] if own.words is None else [own.words]
        return Rankings(
            top(*_joined(late), plan.depth) if late else None,
            _joined(words)
            if words
            else None,  # numbers of a shard's documents are above those of the last one's
        )


class ClusterSearcher(Searcher):
    """As Searcher, of shards that are ranked elsewhere."""

    def __init__(
        self,
        snapshot: Snapshot,
        asking: Asking,
        encoder: QueryEncoder | None = None,
        *,
        scoring: Scoring = SCORING,
        all_shards: bool = False,
    ) -> None:
        """asking, all_shards: as in ClusterRanker; the rest as in Searcher. The snapshot is the searcher's to close."""
        self._asking, self._all_shards = asking, all_shards
        super().__init__(snapshot, encoder, scoring=scoring)
        self._own = True

    def _ranking(self, snapshot: Snapshot, previous: Ranker | None = None, *, once: bool = False) -> Ranker:
        return ClusterRanker(snapshot, self._asking, all_shards=self._all_shards)

    def _answers(self, ranker: Ranker, asked: Sequence[tuple[str, Plan]]) -> tuple[list[Hits], Seconds]:
        for _ in range(MOVES):
            try:
                return super()._answers(ranker, asked)
            except MovedError:
                self.reload()
                ranker = self._ranker
                plans = {id(plan): ranker.plan(plan.options, plan.sharpness) for _, plan in asked}
                asked = [(text, plans[id(plan)]) for text, plan in asked]
        raise StorageError(f"{ranker.snapshot.folder} is changed faster than it is searched; try again")

    def _hits(self, ranker: Ranker, asked: Sequence[Any], found: Sequence[list[Found]]) -> list[Hits]:
        answers = super()._hits(ranker, asked, found)
        for hits, some in zip(answers, found, strict=True):
            if isinstance(some, Merged):
                hits.missing = some.missing
        return answers


def _joined(rankings: Sequence[Ranking]) -> Ranking:
    return np.concatenate([one[0] for one in rankings]), np.concatenate([one[1] for one in rankings])
