"""BM25 on BEIR folders, the baseline beside which Latewood's figures stand.

    pip install bm25s PyStemmer
    python benchmarks/bm25.py FOLDER...

bm25s with k1=0.9, b=0.4 (Anserini's), Snowball stemming, English stop words; scored as `latewood evaluate` does.
"""

import sys
from pathlib import Path

import bm25s
import Stemmer

from retriever.evaluation import EvaluationSet, evaluate


def main(folders: list[str]) -> None:
    stemmer = Stemmer.Stemmer("english")
    for folder in folders:
        data = EvaluationSet.load(folder)
        passages = list(data.passages())
        ids = [p["doc_id"] for p in passages]
        model = bm25s.BM25(k1=0.9, b=0.4)
        texts = [p["text"] for p in passages]
        model.index(
            bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
        )
        run = {}
        for qid, text in data.queries.items():
            tokens = bm25s.tokenize([text], stopwords="en", stemmer=stemmer, show_progress=False)
            found, scores = model.retrieve(tokens, k=min(101, len(ids)), show_progress=False)
            pairs = zip(found[0], scores[0], strict=True)
            run[qid] = {ids[i]: float(s) for i, s in pairs if s > 0}
        metrics = evaluate(data.qrels, data.drop_self_hits(run))
        print(
            Path(folder).name, " ".join(f"{name}={value:.4f}" for name, value in metrics.items()), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
