"""What lies in an index folder, and how it is read."""

__all__: list[str] = []
