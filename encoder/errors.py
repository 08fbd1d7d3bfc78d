"""The one exception tree. A message gives the fact, the value and the remedy, in one line."""

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "CorpusError",
    "EncoderMismatchError",
    "IndexFormatError",
    "IndexLockedError",
    "LatewoodError",
    "MissingDependencyError",
    "StorageError",
]


class LatewoodError(Exception):
    """Root of everything Latewood raises on purpose. The CLI prints it in one line and exits with 2."""


class ArgumentError(LatewoodError, ValueError):
    """A value that cannot be used, with the value and what would do."""


class CheckpointError(LatewoodError):
    """A model folder that cannot be read: names the file and the key."""


class CorpusError(LatewoodError):
    """A source of documents or queries that cannot be read: names the file and the line."""


class EncoderMismatchError(LatewoodError):
    """An index opened with an encoder that did not make its vectors."""


class IndexFormatError(LatewoodError):
    """An index folder that is not one, is of another version, or is damaged: names the file."""


class IndexLockedError(LatewoodError):
    """Another writer holds the index: names the holder."""


class MissingDependencyError(LatewoodError, ImportError):
    """A package of an extra is needed: names the install command."""


class StorageError(LatewoodError, OSError):
    """A full or failing disk, or one that may not be written. What was committed stays; the CLI exits with 1."""
