"""Model folders and hub names in, folders out."""

__all__: list[str] = []
