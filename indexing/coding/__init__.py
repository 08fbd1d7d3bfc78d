"""Token vectors ↔ codes."""

__all__: list[str] = []
