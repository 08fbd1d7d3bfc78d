"""The losses of retrieval training, on scores of every query with every document of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "contrastive_loss",
    "kl_loss",
    "margin_mse_loss",
    "maxsim_scores",
    "mean_pooled",
    "pooled_scores",
    "same_text_mask",
    "standardised",
    "token_cosine_loss",
]


def token_cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine over tokens. student, teacher: (total_tokens, dim), unit rows."""
    return 1.0 - (student * teacher).sum(-1).mean()


def maxsim_scores(
    queries: Tensor,
    query_lengths: Tensor,
    documents: Tensor,
    document_lengths: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over a query's tokens of the best match in a document: (n_queries, n_documents).

    The mean, and not MaxSim's sum, gives short and long queries one temperature. queries: (query tokens, dim),
    documents: (document tokens, dim), end to end; lengths: (n,) int64; weights: (query tokens,), all alike
    if None. -inf where a document has no token.
    """
    similarity = documents @ queries.T  # (document tokens, query tokens)
    best = torch.segment_reduce(similarity, "max", lengths=document_lengths, initial=-torch.inf)
    best = best.T.contiguous()  # (query tokens, n_documents)
    if weights is None:
        sums = torch.segment_reduce(best, "sum", lengths=query_lengths, initial=0.0)
        return sums / query_lengths[:, None]
    sums = torch.segment_reduce(best * weights[:, None], "sum", lengths=query_lengths, initial=0.0)
    total = torch.segment_reduce(weights, "sum", lengths=query_lengths, initial=0.0)
    return sums / total[:, None]


def mean_pooled(vectors: Tensor, lengths: Tensor) -> Tensor:
    """(total_tokens, dim) → (n, dim) unit means: one vector a text."""
    return F.normalize(torch.segment_reduce(vectors, "mean", lengths=lengths), dim=-1)


def pooled_scores(
    queries: Tensor, query_lengths: Tensor, documents: Tensor, document_lengths: Tensor
) -> Tensor:
    """Cosine of mean-pooled vectors: (n_queries, n_documents)."""
    return mean_pooled(queries, query_lengths) @ mean_pooled(documents, document_lengths).T


def same_text_mask(queries: list[str], documents: list[str], positives: Tensor) -> Tensor:
    """(n_queries, n_documents) True where a document must not count as a negative: it is the query's positive
    once more, or the positive of the same query elsewhere in the batch."""
    text_ids = {text: i for i, text in enumerate(dict.fromkeys(documents))}
    document_ids = torch.tensor([text_ids[text] for text in documents])
    same = document_ids[positives][:, None] == document_ids  # (n_queries, n_documents)
    query_ids = {text: i for i, text in enumerate(dict.fromkeys(queries))}
    asks = torch.tensor([query_ids[text] for text in queries])
    same |= ((asks[:, None] == asks).float() @ same.float()) > 0
    same[torch.arange(len(queries)), positives] = False
    return same


def contrastive_loss(scores: Tensor, positives: Tensor, ignored: Tensor, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy of the positive against every document of the batch (van den Oord et al. 2018).

    scores: (n_queries, n_documents). positives: (n_queries,) columns. ignored: bool, as scores.
    """
    return F.cross_entropy((scores / temperature).masked_fill(ignored, -torch.inf), positives)


def kl_loss(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's distribution over documents to the student's, mean over queries.

    scores, teacher: (n_queries, n_documents) of the same documents; both are divided by `temperature`.
    """
    student = F.log_softmax(scores / temperature, dim=-1)
    return F.kl_div(
        student, F.log_softmax(teacher / temperature, dim=-1), reduction="batchmean", log_target=True
    )


def standardised(scores: Tensor) -> Tensor:
    """Each query's scores at mean 0 and standard deviation 1 over the documents. Gradients flow through the
    scores alone: a model should order them, not spread them."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / scores.detach().std(dim=-1, keepdim=True).clamp_min(1e-6)


def margin_mse_loss(scores: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the margins positive - negative (Hofstätter et al. 2020).

    scores, teacher: (n_queries, width), the positive in column 0.
    """
    return F.mse_loss(scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:])
