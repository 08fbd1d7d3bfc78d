"""nDCG@10, R@100 and RR@10 by ir_measures, with documents in trec_eval's order."""

import math
from collections.abc import Mapping

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from encoder.errors import ArgumentError

__all__ = ["METRICS", "evaluate", "evaluate_queries", "mean", "trec_order"]

_MEASURES = (nDCG @ 10, R @ 100, RR @ 10)
METRICS = tuple(str(measure) for measure in _MEASURES)


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """doc_ids as trec_eval ranks them: by score in float32, ties by doc_id, the greater first.

    Raises ArgumentError on a NaN.
    """
    with np.errstate(over="ignore"):
        singles = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32).tolist()
    for doc, single in zip(scores, singles, strict=True):
        if math.isnan(single):
            raise ArgumentError(f"the score of document {doc!r} is NaN; a ranking needs numbers")
    return [doc for _, doc in sorted(zip(singles, scores, strict=True), reverse=True)]


def evaluate(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Mean of each of METRICS over the queries of qrels: {"nDCG@10": ..., "R@100": ..., "RR@10": ...}.

    A judged query that the run lacks, or has no hit for, counts as 0; a query without judgements is left out.
    """
    return mean(evaluate_queries(qrels, run))


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each of METRICS over {query id: {metric: value}}."""
    values = per_query.values()
    return {name: math.fsum(value[name] for value in values) / len(per_query) for name in METRICS}


def evaluate_queries(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """{query id: {metric: value}} for every query of qrels, in their order.

    Raises ArgumentError when qrels is empty.
    """
    if not qrels:
        raise ArgumentError("qrels holds no query; pass {query id: {doc_id: relevance}}")
    # ir_measures takes nDCG and R from trec_eval but RR@10 from MS MARCO's script, which breaks ties the
    # other way and in float64. Distinct whole scores make them rank alike.
    ranked = {
        qid: {doc: float(-rank) for rank, doc in enumerate(trec_order(run[qid]))}
        for qid in qrels
        if run.get(qid)
    }
    values = {qid: dict.fromkeys(METRICS, 0.0) for qid in qrels}
    judgements = {qid: dict(judged) for qid, judged in qrels.items()}
    for metric in ir_measures.iter_calc(_MEASURES, judgements, ranked):
        values[metric.query_id][str(metric.measure)] = float(metric.value)
    return values
