"""Query → hits: candidate generation over compressed vectors, then MaxSim."""

from retriever.searcher import Hit, Searcher

__all__ = ["Hit", "Searcher"]
