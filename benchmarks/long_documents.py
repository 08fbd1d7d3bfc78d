"""Long documents whole against windows on a BEIR folder: quality, time and size side by side, as Markdown.

Run: python benchmarks/long_documents.py qmsum_summ --whole 8192 --windows 512 2048 --out long

Each way of cutting is `latewood evaluate` with that --document-length or --window, in each --mode over one index.
OUT holds a report of each, the index that is being built, and table.md, which is printed anew after each result. Run
again, it goes on where it was; what was encoded twice has no time. --documents and --queries take the first so many
(documents: that answer a query), for a trial.
"""

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from encoder import Encoder
from retriever.evaluation import METRICS, EvaluationSet, LateInteraction, evaluate_all

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


def table(ways: dict[str, list[dict[str, Any]]], modes: list[str]) -> str:
    """A row for each way of cutting that has a result; a mode that has none yet is left open."""
    columns = ["documents", *(f"{NDCG}, {m}" for m in modes), *(f"{RECALL}, {m}" for m in modes)]
    columns += ["passages", "tokens", "documents cut", "index MB", "index s", "of it processor"]
    columns += [f"ms/query, {m}" for m in modes]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for label, results in ways.items():
        by_mode = {r["mode"]: r for r in results}
        built = max(results, key=lambda r: r["encoded_tokens"])
        whole = (
            built["encoded_tokens"] >= built["tokens"]
        )  # encoded in one go, so that its time says something
        cells = [label]
        for metric in (NDCG, RECALL):
            cells += [f"{by_mode[m][metric]:.4f}" if m in by_mode else "" for m in modes]
        cells += [f"{built['passages']:,}", f"{built['tokens']:,}"]
        cells += [f"{built['cut']:,}" if whole else "", f"{built['index_bytes'] / 1e6:.1f}"]
        cells += [f"{built[key]:.0f}" if whole else "" for key in ("index_seconds", "index_cpu_seconds")]
        cells += [f"{by_mode[m]['ms_per_query']:.1f}" if m in by_mode else "" for m in modes]
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

    for label, length, window, overlap in wanted:
        encoder = Encoder.load(arguments.model, document_length=length, precision=arguments.precision)
        name = f"{'whole' if window is None else 'windows'}-{length}-{overlap}"
        index = arguments.out / f"{name}.index"
        systems = [
            LateInteraction(encoder, mode=mode, index_folder=index, window=window, overlap=overlap)
            for mode in arguments.modes
        ]

        def say(result: dict[str, Any], found: bool, label: str = label) -> None:
            ways.setdefault(label, []).append(result)
            (arguments.out / "table.md").write_text(table(ways, arguments.modes), encoding="utf-8")
            print("\n" + table(ways, arguments.modes), flush=True)

        evaluate_all(systems, [data], report_file=arguments.out / f"{name}.json", show_progress=True, say=say)
        shutil.rmtree(index, ignore_errors=True)


if __name__ == "__main__":
    main()
