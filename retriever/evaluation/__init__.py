"""Evaluation: data sets in BEIR's layout, metrics by ir_measures, run files in TREC's form."""

from retriever.evaluation.datasets import EvaluationSet, Qrels, Run, query_length
from retriever.evaluation.exact import evaluate_exact
from retriever.evaluation.metrics import METRICS, evaluate, evaluate_queries, trec_order
from retriever.evaluation.report import read_run, write_run

__all__ = [
    "METRICS",
    "EvaluationSet",
    "Qrels",
    "Run",
    "evaluate",
    "evaluate_exact",
    "evaluate_queries",
    "query_length",
    "read_run",
    "trec_order",
    "write_run",
]
