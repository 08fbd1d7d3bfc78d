"""Why a search found nothing."""

from indexing import Index
from retriever.ranking.knobs import Mode

__all__ = ["why_nothing"]


def why_nothing(index: Index, where: str | None, mode: Mode) -> str:
    """What a line says in place of hits. where: the filter of the search."""
    if not len(index):
        return "the index is empty"
    if not index.ids(where):
        return "the filter matches nothing"
    those = "document" if where is None else "document that meets the filter"
    if mode == "lexical":
        return f"no {those} has a word of the query"
    return f"nothing is encoded: no {those} has token vectors"
