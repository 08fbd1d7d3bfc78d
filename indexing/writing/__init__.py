"""What a writer does to an index folder."""

__all__: list[str] = []
