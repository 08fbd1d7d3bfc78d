"""How words and token embeddings are best added: nDCG@10 of modes late, lexical and hybrid, and of hybrid with the
weight of words that was chosen on the other collections; and what a search costs.

    python benchmarks/hybrid.py DATA [DATA ...] --indexes FOLDER

DATA are BEIR folders. The index of each is FOLDER/NAME, as `latewood evaluate DATA --index FOLDER/NAME` makes it; it is
made where there is none.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from encoder import Encoder
from indexing import Index
from retriever import Searcher, SearchOptions
from retriever.evaluation.datasets import EvaluationSet
from retriever.evaluation.metrics import evaluate_queries, mean
from retriever.evaluation.systems import LateInteraction
from retriever.ranking.fusion import WEIGHTS, fusion_depth, words_weight

K = 10
OF_WORDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
LOST = 0.001  # a weight that loses more than this to the better half anywhere is chosen only where each does
TIMED = 100  # queries


def measured(data: EvaluationSet, searcher: Searcher) -> dict[str | float, float]:
    """nDCG@10 of "late", "lexical", and of hybrid by each weight of words; "ratio", of the median times of a search."""
    ranker, depth = searcher._ranker, fusion_depth(K, None, None)
    plan = ranker.plan(SearchOptions(k=depth, mode="late"), searcher.scoring.sharpness)
    names = ranker.snapshot.doc_ids(range(ranker.snapshot.state.next_document))
    runs: dict[str | float, dict[str, dict[str, float]]] = {how: {} for how in ("late", "lexical", *OF_WORDS)}
    for qid, text in data.queries.items():
        late = ranker.rank(None, searcher.encode([text])[0], plan)
        words = ranker.snapshot.lexical(text, plan.selection)
        ranked: dict[str | float, list] = {
            "late": late[:K],
            "lexical": ranker.rank(text, None, ranker.plan(SearchOptions(k=K, mode="lexical"), 0.0)),
        }
        for of_words in OF_WORDS:
            ranked[of_words] = ranker.fused(late, words, (WEIGHTS[0], of_words * words_weight(text)), K)
        for how, found in ranked.items():
            runs[how][qid] = {names[one.document]: -rank for rank, one in enumerate(found)}
    found = {how: mean(evaluate_queries(data.qrels, run))["nDCG@10"] for how, run in runs.items()}
    return found | {"ratio": ratio(searcher, list(data.queries.values())[:TIMED])}


def ratio(searcher: Searcher, texts: list[str]) -> float:
    """Median seconds of a search for 10 in mode hybrid, over those in mode late, query by query in turn."""
    seconds: dict[str, list[float]] = {"late": [], "hybrid": []}
    for text in texts:
        for mode, own in seconds.items():
            started = time.perf_counter()
            searcher.search(text, k=K, mode=mode)
            own.append(time.perf_counter() - started)
    return statistics.median(seconds["hybrid"]) / statistics.median(seconds["late"])


def chosen(collections: list[dict[str | float, float]]) -> float:
    """The weight of words with the highest mean over collections among those that lose at most LOST anywhere."""

    def worth(of_words: float) -> tuple[float, float]:
        lost = max(max(c["late"], c["lexical"]) - c[of_words] for c in collections)
        return -max(0.0, lost - LOST), float(np.mean([c[of_words] for c in collections]))

    return max(OF_WORDS, key=worth)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--indexes", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, dict[str | float, float]] = {}
    for folder in given.data:
        data = EvaluationSet.load(folder)
        encoder = LateInteraction(Encoder.load()).encoder_for(data)
        index = given.indexes / data.name
        if not index.exists():
            with Index.create(index, encoder) as new:
                new.add(data.passages())
        with Searcher.open(index, encoder) as searcher:
            found[data.name] = measured(data, searcher)
        print(data.name, {how: round(value, 4) for how, value in found[data.name].items()}, flush=True)
    columns = ("", "late", "lexical", "hybrid", "by the others' weight", "that weight", "time, hybrid / late")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    rows = []
    for name, own in found.items():
        weight = chosen([other for key, other in found.items() if key != name] or [own])
        rows.append((own["late"], own["lexical"], own[WEIGHTS[1]], own[weight]))
        cells = " | ".join(f"{value:.4f}" for value in rows[-1])
        print(f"| {name} | {cells} | {weight} | {own['ratio']:.2f} |")
    print("| mean | " + " | ".join(f"{value:.4f}" for value in np.mean(rows, axis=0)) + " | | |")


if __name__ == "__main__":
    main()
