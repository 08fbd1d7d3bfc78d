"""Long documents whole against windows: nDCG@10, passages, tokens, size and time on a BEIR folder.

Run: python benchmarks/long_documents.py qmsum_summ --whole 8192 --windows 512 2048 --out long.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from encoder import Encoder
from indexing import Index
from indexing.windows import Windows
from retriever.evaluation import EvaluationSet, evaluate
from retriever.folding import search_documents
from retriever.searcher import Searcher


def measure(data: EvaluationSet, model: str, length: int, overlap: int | None, place: Path) -> dict[str, Any]:
    """One row. overlap: None indexes whole documents, cut at length."""
    encoder = Encoder.load(model, document_length=length)
    windows = None if overlap is None else Windows(encoder.tokenizer, length, overlap)
    started, cpu = time.perf_counter(), time.process_time()
    with Index.create(place, encoder) as index:
        report = index.add(windows.cut(data.passages()) if windows else data.passages())
        info = index.info()
    indexed, indexed_cpu = time.perf_counter() - started, time.process_time() - cpu
    with Searcher.open(place, encoder) as searcher:
        search_documents(searcher, dict(list(data.queries.items())[:1]), k=100)  # compiles the kernels
        started = time.perf_counter()
        found = search_documents(searcher, data.queries, k=100)
        searched = time.perf_counter() - started
    run = {qid: {hit.doc_id: hit.score for hit in hits} for qid, hits in found.items()}
    scores = evaluate(data.qrels, run)
    return {
        "passages": "whole" if overlap is None else "windows",
        "tokens_a_passage": length,
        "overlap": overlap,
        **{name: round(value, 4) for name, value in scores.items()},
        "n_passages": info["passages"],
        "n_tokens": info["tokens"],
        "cut": report.truncated,
        "bytes": sum(n for part, n in info["bytes"].items() if part != "database"),
        "bytes_database": info["bytes"]["database"],
        "index_seconds": round(indexed, 1),
        "index_cpu_seconds": round(indexed_cpu, 1),
        "search_ms_a_query": round(1000 * searched / len(data.queries), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a BEIR folder")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--whole", type=int, nargs="*", default=[], help="lengths for whole documents")
    parser.add_argument("--windows", type=int, nargs="*", default=[], help="lengths of windows")
    parser.add_argument("--overlap", type=float, default=0.125, help="part of a window that the next repeats")
    parser.add_argument("--out", type=Path, help="JSON; rows are added to those it has")
    arguments = parser.parse_args()
    data = EvaluationSet.load(arguments.folder)
    wanted = [(n, None) for n in arguments.whole]
    wanted += [(n, int(n * arguments.overlap)) for n in arguments.windows]
    rows = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else []
    for length, overlap in wanted:
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(data, arguments.model, length, overlap, Path(place) / "x"))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
