"""Training of encoders. Nothing here is needed to index or to search."""
