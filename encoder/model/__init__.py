"""ModernBERT and its heads, on packed sequences."""

__all__: list[str] = []
