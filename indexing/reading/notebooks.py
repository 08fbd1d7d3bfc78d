"""Jupyter notebooks: the sources of their cells, without what these printed."""

import functools
import json
from dataclasses import dataclass
from typing import Any

from indexing.reading.languages import language_named

__all__ = ["Cell", "is_notebook", "notebook_cells"]


@dataclass(frozen=True, slots=True)
class Cell:
    """number: its place in the notebook, from 1. language: of its source; "markdown" and "text" for what is no code."""

    number: int
    language: str
    source: str


def is_notebook(name: str) -> bool:
    return name.lower().endswith(".ipynb")


@functools.lru_cache(maxsize=1)  # whether it is one is asked before its cells are
def notebook_cells(text: str) -> list[Cell] | None:
    """The cells of a notebook, of nbformat 4 or 3; None for what is none."""
    try:
        notebook = json.loads(text)
        cells = [
            *notebook.get("cells", ()),
            *(cell for sheet in notebook.get("worksheets", ()) for cell in sheet["cells"]),
        ]
        language = _language(notebook.get("metadata", {}))
        return [_cell(n, cell, language) for n, cell in enumerate(cells, 1)]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None


def _cell(number: int, cell: dict[str, Any], language: str) -> Cell:
    kind = cell["cell_type"]
    source = cell["source"] if "source" in cell else cell["input"]
    text = source if isinstance(source, str) else "".join(source)
    text = text.encode("utf-8", "replace").decode()  # JSON may hold halves of surrogate pairs
    if kind == "code":
        return Cell(number, language, text)
    return Cell(number, "markdown" if kind == "markdown" else "text", text)


def _language(metadata: dict[str, Any]) -> str:
    found = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language")
    return language_named(found or "python") or "text"
