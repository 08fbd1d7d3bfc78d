"""Hits on windows of one document folded into one: the best window stands for its document."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from indexing.storage.store import Document
from retriever.explaining import Explanation
from retriever.ranking.fusion import fusion_depth, reciprocal_rank_fusion
from retriever.ranking.knobs import Mode, checked
from retriever.searcher import Hit, Searcher

__all__ = ["document_of", "fold", "search_documents"]

DEEPER = 4


def document_of(hit: Hit | Document) -> str:
    """The doc_id of the document that a hit is a window of, or its own.

    A window is known by all that `indexing.reading.windows` gives it, so that a user's own `parent` stays the user's.
    """
    parent = str(hit.metadata.get("parent"))
    return parent if hit.doc_id == f"{parent}#{hit.metadata.get('window')}" else hit.doc_id


def fold(hits: Iterable[Hit]) -> list[Hit]:
    """One hit a document, in the order of their best windows, ranks from 1.

    The doc_id of a folded hit is the document's; its text and metadata (`window`, `span`) are the window's.
    """
    best: dict[str, Hit] = {}
    for hit in hits:
        parent = document_of(hit)
        best.setdefault(parent, hit.moved(len(best) + 1, parent))
    return list(best.values())


def search_documents(
    searcher: Searcher, queries: Mapping[str, str], *, k: int = 10, mode: Mode = "late", **options: Any
) -> dict[str, list[Hit]]:
    """As `Searcher.search_many`, for the k best documents: windows are folded.

    Where a document has several windows among the hits, the query is asked again for more, until it has k
    documents or the index no more passages. Without windows it costs what `search_many` costs. Mode "hybrid"
    fuses ranks of documents, not of windows: the two rankings may agree on a document by different windows.
    """
    asked = {name: options.pop(name, None) for name in ("nprobe", "ncandidates", "nrerank")}
    k, knobs, weights = checked(k, asked, mode, options.pop("weights", None))
    options |= knobs
    if mode != "hybrid":
        return _folded(searcher, queries, k, mode=mode, **options)
    depth = fusion_depth(k, knobs["ncandidates"], knobs["nrerank"])
    late = _folded(searcher, queries, depth, mode="late", **options)
    lexical = _folded(searcher, queries, depth, mode="lexical", filter=options.get("filter"))
    return {qid: _fused(searcher, text, late[qid], lexical[qid], weights, k) for qid, text in queries.items()}


def _folded(searcher: Searcher, queries: Mapping[str, str], k: int, **options: Any) -> dict[str, list[Hit]]:
    # No deeper than the passages that the user lets it score.
    limit = min(n for n in (1 << 62, options.get("ncandidates"), options.get("nrerank")) if n is not None)
    found: dict[str, list[Hit]] = {}
    waiting, depth = dict(queries), k
    while waiting:
        for qid, hits in searcher.search_many(waiting, k=depth, **options).items():
            folded = fold(hits)
            if len(folded) >= k or len(hits) < depth or depth >= limit:
                found[qid] = folded[:k]
                del waiting[qid]
        depth = max(k, min(DEEPER * depth, limit))
    return {qid: found[qid] for qid in queries}


def _fused(
    searcher: Searcher, query: str, late: list[Hit], lexical: list[Hit], weights: tuple[float, float], k: int
) -> list[Hit]:
    """The k best by reciprocal rank, equal scores in the order of doc_id; the window shown is late's, if any."""
    hits = {hit.doc_id: _explained_by_vectors(searcher, query, hit) for hit in lexical}
    hits |= {hit.doc_id: hit for hit in late}
    names = sorted(hits)
    numbers = {name: i for i, name in enumerate(names)}
    rankings = [np.array([numbers[hit.doc_id] for hit in some], dtype=np.int64) for some in (late, lexical)]
    best, scores = reciprocal_rank_fusion(rankings, weights, k)
    return [
        hits[names[i]].moved(rank, names[i], float(score))
        for rank, (i, score) in enumerate(zip(best, scores, strict=True), 1)
    ]


def _explained_by_vectors(searcher: Searcher, query: str, hit: Hit) -> Hit:
    """The hit, which words found, with an explanation by token vectors, made when it is asked for."""
    ids = [hit.doc_id, f"{hit.doc_id}#{hit.metadata.get('window')}"]  # the passage's is one of them
    quoted = ", ".join("'" + doc_id.replace("'", "''") + "'" for doc_id in ids)

    def explain() -> Explanation:
        found = searcher.search_many({"": query}, k=2, filter=f"doc_id in ({quoted})")[""]
        return next(other for other in found if other.text == hit.text).explain()

    return hit._with(explain)
