"""BM25 on BEIR folders, the baseline beside which Latewood's figures stand.

    pip install bm25s PyStemmer
    python benchmarks/bm25.py FOLDER...

The same as `latewood evaluate FOLDER --baseline bm25` gives, without the late interaction.
"""

import sys

from retriever.evaluation import METRICS, Bm25, EvaluationSet, evaluate_system


def main(folders: list[str]) -> None:
    for folder in folders:
        result = evaluate_system(Bm25(), EvaluationSet.load(folder))
        print(result["dataset"], " ".join(f"{name}={result[name]:.4f}" for name in METRICS), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
