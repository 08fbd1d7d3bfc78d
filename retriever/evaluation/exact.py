"""Evaluation without an index, for a model that changes from minute to minute: every passage is scored."""

import torch

from encoder import Encoder
from encoder.embeddings import TokenEmbeddings
from encoder.maxsim import maxsim
from retriever.evaluation.datasets import EvaluationSet
from retriever.evaluation.metrics import evaluate

__all__ = ["evaluate_exact"]

PASSAGES_AT_ONCE = 512
DEPTH = 100


def evaluate_exact(data: EvaluationSet, encoder: Encoder, *, pooled: bool = False) -> dict[str, float]:
    """nDCG@10, R@100 and RR@10 of exact scores; memory is bounded by a block of passages.

    pooled: score by the cosine of mean-pooled vectors instead of MaxSim, for models of `train dense`.
    """
    queries = encoder.encode_queries(list(data.queries.values()))
    doc_ids: list[str] = []
    columns: list[torch.Tensor] = []
    block: list[tuple[str, str]] = []
    for passage in data.passages():
        block.append((passage["doc_id"], passage["text"]))
        if len(block) == PASSAGES_AT_ONCE:
            columns.append(_scores(queries, encoder.encode_documents([text for _, text in block]), pooled))
            doc_ids += [doc_id for doc_id, _ in block]
            block = []
    if block:
        columns.append(_scores(queries, encoder.encode_documents([text for _, text in block]), pooled))
        doc_ids += [doc_id for doc_id, _ in block]
    scores = torch.cat(columns, dim=1)
    depth = min(DEPTH + data.drops_self_hits, len(doc_ids))
    values, places = scores.topk(depth, dim=1)
    run = {
        qid: {
            doc_ids[p]: v
            for p, v in zip(places[i].tolist(), values[i].tolist(), strict=True)
            if v > -torch.inf
        }
        for i, qid in enumerate(data.queries)
    }
    return evaluate(data.qrels, data.drop_self_hits(run))


def _scores(queries: TokenEmbeddings, passages: TokenEmbeddings, pooled: bool) -> torch.Tensor:
    """(n_queries, n_passages)."""
    if pooled:
        return torch.from_numpy(queries.means() @ passages.means().T)
    vectors, offsets = torch.from_numpy(passages.vectors), torch.from_numpy(passages.offsets)
    return torch.stack([maxsim(torch.from_numpy(queries[i]), vectors, offsets) for i in range(len(queries))])
