"""Files, corpora and long texts → documents to be indexed."""

__all__: list[str] = []
