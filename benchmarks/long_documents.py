"""Long documents whole against windows on a BEIR folder: quality, time and size side by side, as Markdown.

Run: python benchmarks/long_documents.py qmsum_summ --whole 8192 --windows 512 2048 --out long

Each way of cutting is `latewood evaluate` with that --document-length or --window, in each --mode over one index.
Documents are ranked, each by its best passage; "by document / passage" is the time of such a search (late interaction,
vectors given, k=10, the median over the queries) divided by that of one that ranks passages.
OUT holds a report of each, the index that is being built, ratios.json, and table.md, which is printed anew after each
result. Run again, it goes on where it was; what was encoded twice has no time. --documents and --queries take the first
so many (documents: that answer a query), for a trial.
"""

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from encoder import Encoder
from encoder.progress import progress_shown
from retriever import Searcher
from retriever.evaluation import METRICS, EvaluationSet, LateInteraction, Outputs, evaluate_all

NDCG, RECALL = METRICS[:2]


def first_of(data: EvaluationSet, documents: int, queries: int, folder: Path) -> Path:
    """A BEIR folder of the first so many documents that answer a query, and the first so many queries of these."""
    answers = {d for judged in data.qrels.values() for d, score in judged.items() if score > 0}
    passages = list(itertools.islice((p for p in data.passages() if p["doc_id"] in answers), documents))
    known = {p["doc_id"] for p in passages}
    judged = {
        qid: own
        for qid in data.queries
        if (own := {d: score for d, score in data.qrels[qid].items() if d in known and score > 0})
    }
    chosen = dict(list(judged.items())[:queries])
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (
        ("corpus", {p["doc_id"]: p["text"] for p in passages}),
        ("queries", {qid: data.queries[qid] for qid in chosen}),
    ):
        lines = "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items())
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    rows = "".join(f"{qid}\t{d}\t{score}\n" for qid, own in chosen.items() for d, score in own.items())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows, encoding="utf-8")
    return folder


def by_document(index: Path, encoder: Encoder, queries: list[str], rounds: int = 3) -> float:
    """Median time of a search by document over that of one by passage, taken in turn."""
    vectors = encoder.encode_queries(queries)
    times: dict[str, list[float]] = {"document": [], "passage": []}
    with Searcher.open(index, encoder) as searcher:
        for number in range(rounds + 1):
            for query in vectors:
                for by, some in times.items():
                    started = time.perf_counter()
                    searcher.search_embeddings(query, k=10, by=by)
                    if number:  # the first round compiles and maps
                        some.append(time.perf_counter() - started)
    return float(np.median(times["document"]) / np.median(times["passage"]))


def table(
    ways: dict[str, list[dict[str, Any]]], modes: list[str], ratios: dict[str, float] | None = None
) -> str:
    """A row for each way of cutting that has a result; what has none yet is left open."""
    columns = ["documents", *(f"{NDCG}, {m}" for m in modes), *(f"{RECALL}, {m}" for m in modes)]
    columns += ["passages", "tokens", "documents cut", "index MB", "index s", "of it processor"]
    columns += [*(f"ms/query, {m}" for m in modes), "by document / passage"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for label, results in ways.items():
        by_mode = {r["mode"]: r for r in results}
        built = max(results, key=lambda r: r["encoded_tokens"])
        # Encoded in one go, so that its time says something.
        whole = built["encoded_tokens"] >= built["tokens"]
        cells = [label]
        for metric in (NDCG, RECALL):
            cells += [f"{by_mode[m][metric]:.4f}" if m in by_mode else "" for m in modes]
        cells += [f"{built['passages']:,}", f"{built['tokens']:,}"]
        cells += [f"{built['cut']:,}" if whole else "", f"{built['index_bytes'] / 1e6:.1f}"]
        cells += [f"{built[key]:.0f}" if whole else "" for key in ("index_seconds", "index_cpu_seconds")]
        cells += [f"{by_mode[m]['ms_per_query']:.1f}" if m in by_mode else "" for m in modes]
        cells += [f"{ratios[label]:.2f}" if ratios and label in ratios else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a BEIR folder")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--precision", help="as in Encoder.load")
    parser.add_argument("--whole", type=int, nargs="*", default=[], help="lengths for whole documents")
    parser.add_argument("--windows", type=int, nargs="*", default=[], help="lengths of windows")
    parser.add_argument("--overlap", type=float, default=0.125, help="part of a window that the next repeats")
    parser.add_argument("--modes", nargs="*", default=["late", "hybrid", "lexical"])
    parser.add_argument("--documents", type=int, help="only the first so many")
    parser.add_argument("--queries", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    data = EvaluationSet.load(arguments.folder)
    if arguments.documents or arguments.queries:
        part = first_of(
            data, arguments.documents or 1 << 40, arguments.queries or 1 << 40, arguments.out / "part"
        )
        data = EvaluationSet.load(part, name=f"part of {data.name}")
    wanted: list[tuple[str, int, int | None, int]] = [
        (f"whole, {n:,} tokens", n, None, 0) for n in arguments.whole
    ]
    for n in arguments.windows:
        overlap = int(n * arguments.overlap)
        wanted.append((f"windows of {n:,}, overlap {overlap:,}", n, n, overlap))
    ways: dict[str, list[dict[str, Any]]] = {}
    kept = arguments.out / "ratios.json"
    ratios: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}

    def show() -> None:
        text = table(ways, arguments.modes, ratios)
        (arguments.out / "table.md").write_text(text, encoding="utf-8")
        print("\n" + text, flush=True)

    for label, length, window, overlap in wanted:
        encoder = Encoder.load(arguments.model, document_length=length, precision=arguments.precision)
        name = f"{'whole' if window is None else 'windows'}-{length}-{overlap}"
        index = arguments.out / f"{name}.index"
        systems = [
            LateInteraction.of(encoder, mode=mode, k=100, index_folder=index, window=window, overlap=overlap)
            for mode in arguments.modes
        ]

        def say(result: dict[str, Any], found: bool, label: str = label) -> None:
            ways.setdefault(label, []).append(result)
            show()

        evaluate_all(
            systems, [data], Outputs(arguments.out / f"{name}.json"), progress=progress_shown(), say=say
        )
        if index.exists():
            ratios[label] = by_document(index, encoder, list(data.queries.values()))
            kept.write_text(json.dumps(ratios))
            show()
        shutil.rmtree(index, ignore_errors=True)


if __name__ == "__main__":
    main()
