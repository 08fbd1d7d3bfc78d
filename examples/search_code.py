"""Index a folder of code, ask it a question, follow an edit.

Run: python examples/search_code.py
"""

import shutil
import tempfile
from pathlib import Path

from indexing.writing.sources import update_folder
from latewood import Encoder, Index, Searcher
from retriever.code.search import search_code

CODE = Path(__file__).parent.parent / "retriever" / "evaluation"


def main(folder: Path) -> list[str]:
    """The places found, before and after a file is renamed."""
    source, out = folder / "code", folder / "code.index"
    shutil.copytree(CODE, source)
    encoder = Encoder.load()
    places = []
    for edit in (False, True):
        if edit:
            (source / "metrics.py").rename(source / "scores.py")
        with Index.open(out, encoder, writable=True) if edit else Index.create(out, encoder) as index:
            report = update_folder(index, source)
            print(
                f"{report.changed} files read, {report.renamed} chunks renamed, {report.added.tokens} tokens"
            )
        with Searcher.open(out, encoder) as searcher:
            hits = search_code(searcher, "documents in ties", languages=["py"], regex=r"^def ", k=3)
        for hit in hits:
            print(f"{hit.path}:{hit.line} {hit.symbol}")
            places.append(f"{hit.path}:{hit.line}")
    return places


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
