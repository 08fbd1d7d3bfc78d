"""Query → hits: candidate generation over compressed vectors, then MaxSim."""

from retriever.explaining import Explanation
from retriever.hits import Hit, Hits, Passage
from retriever.options import Scoring, SearchOptions
from retriever.reranking import Ranked, rerank, rerank_embeddings
from retriever.searcher import Searcher

__all__ = [
    "Explanation",
    "Hit",
    "Hits",
    "Passage",
    "Ranked",
    "Scoring",
    "SearchOptions",
    "Searcher",
    "rerank",
    "rerank_embeddings",
]
