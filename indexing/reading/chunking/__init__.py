"""Chunkers: one file's text → passages whose text is exact source lines, with their line numbers.

Code is cut at its functions and classes: Python by `ast`, ten more languages by tree-sitter where its grammars
are installed (the extra `code`). Without them, and in any other language, it is cut at blank lines by
indentation. Markdown is cut at headings, prose at paragraphs. Every non-blank line is in exactly one chunk, but
for the lines by which the pieces of a long function overlap.
"""

from indexing.reading.chunking.blocks import chunk_blocks
from indexing.reading.chunking.choosing import MAX_PARSED_CHARS, chunk_source
from indexing.reading.chunking.grammars import GRAMMARS, chunk_tree, has_grammar
from indexing.reading.chunking.lines import CHUNK_SIZE, Chunk, ChunkSize
from indexing.reading.chunking.prose import chunk_markdown, chunk_text
from indexing.reading.chunking.python import chunk_python

__all__ = [
    "CHUNK_SIZE",
    "GRAMMARS",
    "MAX_PARSED_CHARS",
    "Chunk",
    "ChunkSize",
    "chunk_blocks",
    "chunk_markdown",
    "chunk_python",
    "chunk_source",
    "chunk_text",
    "chunk_tree",
    "has_grammar",
]
