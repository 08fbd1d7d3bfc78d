"""Evaluation: data sets in BEIR's layout or by name, metrics by ir_measures, baselines, reports, comparisons."""

from retriever.evaluation.baselines import Bm25, Dense
from retriever.evaluation.comparing import compare
from retriever.evaluation.datasets import EvaluationSet, Qrels, Run, query_length
from retriever.evaluation.exact import evaluate_exact
from retriever.evaluation.metrics import METRICS, evaluate, evaluate_queries, trec_order
from retriever.evaluation.report import RunFile, read_run, write_run
from retriever.evaluation.results import Report
from retriever.evaluation.runner import Outputs, evaluate_all, evaluate_folder, evaluate_system
from retriever.evaluation.systems import LateInteraction, System

__all__ = [
    "METRICS",
    "Bm25",
    "Dense",
    "EvaluationSet",
    "LateInteraction",
    "Outputs",
    "Qrels",
    "Report",
    "Run",
    "RunFile",
    "System",
    "compare",
    "evaluate",
    "evaluate_all",
    "evaluate_exact",
    "evaluate_folder",
    "evaluate_queries",
    "evaluate_system",
    "query_length",
    "read_run",
    "trec_order",
    "write_run",
]
