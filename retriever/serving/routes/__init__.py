"""What answers at which path."""

__all__: list[str] = []
