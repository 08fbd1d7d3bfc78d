"""Which chunker a file gets."""

from indexing.reading.chunking.blocks import chunk_blocks
from indexing.reading.chunking.grammars import GRAMMARS, chunk_tree, has_grammar
from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize
from indexing.reading.chunking.prose import chunk_markdown, chunk_text
from indexing.reading.chunking.python import chunk_python

__all__ = ["MAX_PARSED_CHARS", "chunk_source"]

# Hand-written files are shorter. A parser takes seconds for a megabyte, and minutes where tree-sitter has to
# recover from errors all along.
MAX_PARSED_CHARS = 250_000


def chunk_source(source: str, language: str, size: ChunkSize = CHUNK_SIZE) -> tuple[list[Chunk], str]:
    """The chunks of a file, and why code was cut by indentation where its definitions might have been found.

    That is "" (they were, or the language has no grammar here), "no grammar" (the extra `code` is not
    installed), "no parse" (broken Python without it) or "too large" (over MAX_PARSED_CHARS).
    """
    if language == "markdown":
        return chunk_markdown(source, size), ""
    if language == "text":
        return chunk_text(source, size), ""
    reason = ""
    if language in GRAMMARS:
        if len(source) > MAX_PARSED_CHARS:
            return chunk_blocks(source, size), "too large"
        # Python's own parser first: its files then look the same with and without the extra.
        if language == "python":
            try:
                return chunk_python(source, size), ""
            except SyntaxError:
                reason = "no parse"
        if has_grammar(language):
            try:
                return chunk_tree(source, language, size), ""
            except RecursionError:  # definitions in definitions, some hundred deep
                return chunk_blocks(source, size), "no parse"
        reason = reason or "no grammar"
    return chunk_blocks(source, size), reason
