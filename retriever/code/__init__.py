"""Search of code."""

__all__: list[str] = []
