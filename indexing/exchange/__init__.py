"""Token vectors from and to files of other programs."""

__all__: list[str] = []
