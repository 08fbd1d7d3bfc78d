"""Query → hits: candidate generation over compressed vectors, then MaxSim."""

from retriever.hits import Hit
from retriever.reranking import Ranked, rerank, rerank_embeddings
from retriever.searcher import Searcher

__all__ = ["Hit", "Ranked", "Searcher", "rerank", "rerank_embeddings"]
