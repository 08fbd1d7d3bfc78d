"""More than one machine: Ray Data builds the shards of an index, Ray Serve answers from them. Extra `ray`."""

__all__: list[str] = []
