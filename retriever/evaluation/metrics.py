"""nDCG@10, R@100 and RR@10 by ir_measures, with documents in trec_eval's order."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from encoder.arguments import as_integer, as_list, as_strings
from encoder.errors import ArgumentError
from retriever.hits import Hit

__all__ = ["METRICS", "Ranking", "checked_run", "evaluate", "evaluate_queries", "mean", "trec_order"]

Ranking: TypeAlias = Mapping[str, float] | Sequence[str] | Sequence[Hit] | Sequence[Mapping[str, Any]]
"""What a query found: {doc_id: score}, or best first doc_ids, or hits as a search gives them, or {"id", "score"} as
PyLate's retrieve and rank give them."""

_MEASURES = (nDCG @ 10, R @ 100, RR @ 10)
METRICS = tuple(str(measure) for measure in _MEASURES)


def trec_order(scores: Ranking) -> list[str]:
    """doc_ids as trec_eval ranks them: by score in float32, ties by doc_id, the greater first.

    Raises ArgumentError on a NaN, and for what is no ranking.
    """
    scores = _scores("the ranking", scores)
    with np.errstate(over="ignore"):
        singles = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32).tolist()
    for doc, single in zip(scores, singles, strict=True):
        if math.isnan(single):
            raise ArgumentError(f"the score of document {doc!r} is NaN; a ranking needs numbers")
    return [doc for _, doc in sorted(zip(singles, scores, strict=True), reverse=True)]


def checked_run(run: Mapping[str, Ranking]) -> dict[str, dict[str, float]]:
    """{query id: {doc_id: score}}; scores are made for doc_ids without. Raises ArgumentError for what is no run, for
    ids that are no strings, scores that are no numbers, and a document that comes twice."""
    if not isinstance(run, Mapping):
        raise ArgumentError(f"run is {type(run).__name__}; pass {{query id: {{doc_id: score}}}}")
    as_strings(list(run), "query ids of the run")
    return {qid: _scores(f"run[{qid!r}]", found) for qid, found in run.items()}


def _scores(name: str, found: Any) -> dict[str, float]:
    if isinstance(found, Mapping):
        as_strings(list(found), f"doc_ids of {name}")
        for doc, score in found.items():
            if isinstance(score, bool) or not isinstance(score, int | float | np.integer | np.floating):
                raise ArgumentError(f"{name}[{doc!r}] is {score!r:.60}; pass a number")
        return dict(found)
    ranking = as_list(found, name, "doc_ids or hits, best first, or {doc_id: score}")
    if ranking and all(isinstance(hit, Mapping) and {"id", "score"} <= hit.keys() for hit in ranking):
        given = {hit["id"]: hit["score"] for hit in ranking}
        if len(given) == len(ranking):  # else it is said below which comes twice
            return _scores(name, given)
        ranking = [hit["id"] for hit in ranking]
    hits = all(isinstance(hit, Hit) for hit in ranking)
    ids = [hit.doc_id for hit in ranking] if hits else as_strings(ranking, name)
    if len(set(ids)) < len(ids):
        twice = next(doc for i, doc in enumerate(ids) if doc in ids[:i])
        raise ArgumentError(f"{name} has document {twice!r} twice; keep one")
    return {
        doc: hit.score if hits else float(-place)
        for place, (doc, hit) in enumerate(zip(ids, ranking, strict=True))
    }


def evaluate(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Ranking]) -> dict[str, float]:
    """Mean of each of METRICS over the queries of qrels: {"nDCG@10": ..., "R@100": ..., "RR@10": ...}.

    run: {query id: {doc_id: score}}; in place of scores also doc_ids or hits, best first. A judged query that the run
    lacks, or has no hit for, counts as 0; a query without judgements is left out.
    """
    return mean(evaluate_queries(qrels, run))


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each of METRICS over {query id: {metric: value}}."""
    values = per_query.values()
    return {name: math.fsum(value[name] for value in values) / len(per_query) for name in METRICS}


def evaluate_queries(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Ranking]
) -> dict[str, dict[str, float]]:
    """{query id: {metric: value}} for every query of qrels, in their order.

    Raises ArgumentError when qrels is empty, and for ids that are no strings.
    """
    if not qrels:
        raise ArgumentError("qrels holds no query; pass {query id: {doc_id: relevance}}")
    judgements = _checked_qrels(qrels)
    run = checked_run(run)
    # ir_measures takes nDCG and R from trec_eval but RR@10 from MS MARCO's script, which breaks ties the
    # other way and in float64. Distinct whole scores make them rank alike.
    ranked = {
        qid: {doc: float(-rank) for rank, doc in enumerate(trec_order(run[qid]))}
        for qid in qrels
        if run.get(qid)
    }
    values = {qid: dict.fromkeys(METRICS, 0.0) for qid in qrels}
    for metric in ir_measures.iter_calc(_MEASURES, judgements, ranked):
        values[metric.query_id][str(metric.measure)] = float(metric.value)
    return values


def _checked_qrels(qrels: Any) -> dict[str, dict[str, int]]:
    if not isinstance(qrels, Mapping) or not all(isinstance(judged, Mapping) for judged in qrels.values()):
        raise ArgumentError("qrels is no mapping of mappings; pass {query id: {doc_id: relevance}}")
    as_strings(list(qrels), "query ids of qrels")
    checked = {}
    for qid, judged in qrels.items():
        as_strings(list(judged), f"doc_ids of qrels[{qid!r}]")
        checked[qid] = {doc: as_integer(grade, f"qrels[{qid!r}][{doc!r}]") for doc, grade in judged.items()}
    return checked
