"""Hits on windows of one document folded into one: the best window stands for its document."""

from collections.abc import Iterable, Mapping
from typing import Any

from retriever.searcher import Hit, Searcher

__all__ = ["fold", "search_documents"]

DEEPER = 4


def fold(hits: Iterable[Hit]) -> list[Hit]:
    """One hit a document, in the order of their best windows, ranks from 1.

    The doc_id of a folded hit is the document's; its text and metadata (`window`, `span`) are the window's.
    """
    best: dict[str, Hit] = {}
    for hit in hits:
        parent = hit.metadata.get("parent", hit.doc_id)
        best.setdefault(parent, hit.moved(len(best) + 1, parent))
    return list(best.values())


def search_documents(
    searcher: Searcher, queries: Mapping[str, str], *, k: int = 10, **options: Any
) -> dict[str, list[Hit]]:
    """As `Searcher.search_many`, for the k best documents: windows are folded.

    Where a document has several windows among the hits, the query is asked again for more, until it has k
    documents or the index no more passages. Without windows it costs what `search_many` costs.
    """
    found: dict[str, list[Hit]] = {}
    waiting, depth = dict(queries), k
    while waiting:
        for qid, hits in searcher.search_many(waiting, k=depth, **options).items():
            folded = fold(hits)
            if len(folded) >= k or len(hits) < depth:
                found[qid] = folded[:k]
                del waiting[qid]
        depth *= DEEPER
    return {qid: found[qid] for qid in queries}
