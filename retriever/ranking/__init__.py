"""A query's vectors → a ranking."""

__all__: list[str] = []
