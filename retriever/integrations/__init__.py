"""Adapters to frameworks, one module each: `langchain`, `llamaindex`, `haystack`. Each needs the extra of its name."""

__all__: list[str] = []
