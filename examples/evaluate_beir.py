"""Evaluate on a folder in BEIR's layout, beside BM25 and mean pooling, and test the differences.

Run: python examples/evaluate_beir.py [BEIR_FOLDER]

Without a folder it makes one of this project's own documentation: each section is a document, its heading the
query that should find it.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from encoder import Encoder
from retriever.evaluation import Bm25, Dense, EvaluationSet, LateInteraction, compare, evaluate_all
from retriever.evaluation.results import markdown

DOCS = Path(__file__).parent.parent / "docs"


def documentation(folder: Path) -> Path:
    """docs/*.md as a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv."""
    sections = [
        (heading.strip(), text.strip())
        for path in sorted(DOCS.glob("*.md"))
        for heading, text in re.findall(
            r"^## (.+)\n((?:(?!^## ).*\n?)*)", path.read_text("utf-8"), re.MULTILINE
        )
    ]
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": text} for i, (_, text) in enumerate(sections)]
    queries = [{"_id": f"q{i}", "text": heading} for i, (heading, _) in enumerate(sections)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(sections)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    return folder


def main(folder: Path, report: Path) -> dict[str, float]:
    """nDCG@10 of each system. What the report holds already is not run again."""
    encoder = Encoder.load()
    systems = [LateInteraction(encoder), Bm25(), Dense(encoder)]
    results = evaluate_all(systems, [EvaluationSet.load(folder)], report_file=report)
    print(markdown(results))
    late = results[0]
    for other in results[1:]:
        change = compare([other], [late])[0]
        print(f"late interaction - {other['system']}: {change.difference:+.4f} nDCG@10, p = {change.p:.4f}")
    return {result["system"]: result["nDCG@10"] for result in results}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else documentation(Path(place) / "docs")
        main(source, Path(place) / "report.json")
