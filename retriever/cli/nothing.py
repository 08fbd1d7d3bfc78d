"""Why a search found nothing."""

from indexing import Snapshot
from retriever.options import SearchOptions

__all__ = ["why_nothing"]


def why_nothing(snapshot: Snapshot, options: SearchOptions) -> str:
    """What a line says in place of hits."""
    if not len(snapshot):
        return "the index is empty"
    chosen = snapshot.select(options.filter)
    if chosen.documents is not None and not len(chosen.documents):
        return "the filter matches nothing"
    those = "document" if options.filter is None else "document that meets the filter"
    if options.mode == "lexical":
        return f"no {those} has a word of the query, stop words aside"
    return f"nothing is encoded: no {those} has token vectors"
