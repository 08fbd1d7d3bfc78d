"""Training of encoders. Nothing here is needed to index or to search."""

__all__: list[str] = []
