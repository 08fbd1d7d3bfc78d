"""Hit: a passage that a search found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from encoder.errors import ArgumentError
from retriever.explaining import Explanation

__all__ = ["Hit"]


@dataclass(frozen=True)
class Hit:
    """rank counts from 1. score is MaxSim: a sum over query tokens, so it grows with the query's length. By
    mode "lexical" it is BM25, by "hybrid" what the fusion of ranks gives, at most sum(weights) / 61."""

    rank: int
    score: float
    doc_id: str
    text: str | None
    metadata: dict[str, Any]

    def explain(self) -> Explanation:
        """Which passage token each query token matched, its score, and where it stands in the text.

        The scores add up to MaxSim, which is this hit's score but in mode "hybrid". Raises ArgumentError for a
        hit of mode "lexical" and for what has no text or no encoder to name its tokens.
        """
        explainer: Callable[[], Explanation] | None = self.__dict__.get("_explainer")
        if explainer is None:
            raise ArgumentError(
                f"{self.doc_id!r} was found by words alone, or was copied; "
                'search with mode="late" or "hybrid" and explain what that returns'
            )
        return explainer()

    def _with(self, explainer: Callable[[], Explanation]) -> "Hit":
        # No field: it holds the index, and is no part of what equality, asdict and pickling see.
        self.__dict__["_explainer"] = explainer
        return self

    def moved(self, rank: int, doc_id: str, score: float | None = None) -> "Hit":
        """The same hit in another ranking, which explains itself as before. score: of that ranking, if another."""
        other = replace(self, rank=rank, doc_id=doc_id, score=self.score if score is None else score)
        other.__dict__.update(self.__dict__ | other.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_explainer"}
