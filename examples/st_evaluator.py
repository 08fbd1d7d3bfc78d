"""sentence-transformers 6: its evaluator of retrieval over Latewood's search in place of brute force.

Run: python examples/st_evaluator.py    (extra: st)
"""

import tempfile
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
from sentence_transformers.util.similarity import maxsim

from latewood import Encoder, Index, Scoring, Searcher

CORPUS = {
    "heart": "The heart pumps blood through the body.",
    "bank": "The central bank raised interest rates.",
    "compiler": "A compiler translates source code into machine code.",
    "volcano": "Volcanoes erupt when magma reaches the surface.",
}
QUERIES = {"q1": "cardiac circulation", "q2": "monetary policy", "q3": "program translation"}
RELEVANT = {"q1": {"heart"}, "q2": {"bank"}, "q3": {"compiler"}}


class LatewoodEvaluator(MultiVectorInformationRetrievalEvaluator):
    """Indexes the corpus by the model under evaluation, and ranks by plain MaxSim over the index."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, score_functions={"latewood": maxsim}, **options)

    def compute_all_metrics(self, model: Any, *args: Any, **options: Any) -> dict[str, Any]:
        plain = Scoring(idf=False, sharpness=0)
        with tempfile.TemporaryDirectory() as place:
            with Index.create(Path(place) / "corpus.index", model) as index:
                index.add({"doc_id": i, "text": t} for i, t in zip(self.corpus_ids, self.corpus, strict=True))
            with Searcher.open(Path(place) / "corpus.index", model, scoring=plain) as searcher:
                asked = dict(zip(self.queries_ids, self.queries, strict=True))
                found = searcher.search_many(asked, k=max(*self.map_at_k, *self.ndcg_at_k))
        hits = [
            [{"corpus_id": hit.doc_id, "score": hit.score} for hit in found[qid]] for qid in self.queries_ids
        ]
        return {"latewood": self.compute_metrics(hits)}


def main(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics by their brute force and by Latewood's search."""
    Encoder.load().save(folder / "model")
    model = MultiVectorEncoder(str(folder / "model"), device="cpu")  # or a hub name
    found = []
    for kind in (MultiVectorInformationRetrievalEvaluator, LatewoodEvaluator):
        evaluator = kind(queries=QUERIES, corpus=CORPUS, relevant_docs=RELEVANT)
        found.append(evaluator(model))
        print(f"{evaluator.primary_metric:18s} {found[-1][evaluator.primary_metric]:.4f}")
    return found[0], found[1]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
