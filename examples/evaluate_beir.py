"""Evaluate on a folder in BEIR's layout, beside BM25 and mean pooling, and test the differences.

Run: python examples/evaluate_beir.py [BEIR_FOLDER]

Without a folder it makes one of code that comes with Python: each function is a document, without its docstring, the
first line of which is the query that should find it.
"""

import argparse
import ast
import bisect
import fnmatch
import glob
import heapq
import inspect
import json
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from encoder import Encoder
from retriever.evaluation import Bm25, Dense, EvaluationSet, LateInteraction, Outputs, compare, evaluate_all
from retriever.evaluation.results import markdown, side_by_side

MODULES = (bisect, fnmatch, glob, heapq, shutil, textwrap)


def functions() -> Iterator[tuple[str, str]]:
    """The docstring's first line, and the source without it, of each function that has a docstring."""
    for module in MODULES:
        source = inspect.getsource(module)
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
                own = node.body[0]
                code = lines[node.lineno - 1 : own.lineno - 1] + lines[own.end_lineno or 0 : node.end_lineno]
                yield docstring.splitlines()[0], textwrap.dedent("".join(code))


def collection(folder: Path) -> Path:
    """These as a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv."""
    pairs = list(functions())
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": text} for i, (_, text) in enumerate(pairs)]
    queries = [{"_id": f"q{i}", "text": line} for i, (line, _) in enumerate(pairs)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(pairs)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    return folder


def main(folder: Path, report: Path) -> dict[str, float]:
    """nDCG@10 of each system. What the report holds already is not run again."""
    encoder = Encoder.load()
    systems = [LateInteraction(encoder), LateInteraction.of(encoder, mode="hybrid"), Bm25(), Dense(encoder)]
    results = evaluate_all(systems, [EvaluationSet.load(folder)], Outputs(report))
    print(side_by_side(results))
    print(markdown(results))
    late = results[0]
    for other in results[1:]:
        change = compare([other], [late])[0]
        print(f"late interaction - {other['system']}: {change.difference:+.4f} nDCG@10, p = {change.p:.4f}")
    return {result["system"]: result["nDCG@10"] for result in results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, help="a BEIR folder; one of functions without it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(asked.source or collection(Path(place) / "functions"), Path(place) / "report.json")
