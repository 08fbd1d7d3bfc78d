"""What precision and token pooling do to quality, size and speed, on exact search.

    python benchmarks/precision.py BEIR_FOLDER [--precisions fp32 bf16 int8] [--pool-factors 2 3] [--document-length N]

Blocks of documents are encoded by every precision in turn, so that a busy machine slows all alike. Queries are encoded
in fp32, as on a machine that only searches, and once more in the documents' own precision. Vectors are rounded to
float16, as a flat index keeps them. Pooled are the vectors of the first precision. Prints a JSON line a row.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from shared import rankings

from encoder import Encoder, TokenEmbeddings
from encoder.pooling import pool_tokens
from retriever.evaluation import EvaluationSet, evaluate

__all__ = ["main"]

AT_ONCE = 128  # documents a turn


def main(arguments: Sequence[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--pool-factors", nargs="*", type=int, default=[])
    parser.add_argument("--document-length", type=int)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = EvaluationSet.load(given.folder)
    encoders = {
        p: Encoder.load(
            device="cpu",
            precision=p,
            document_length=given.document_length,
            query_length=max(data.query_length, Encoder.load(device="cpu").query_length),
        )
        for p in given.precisions
    }
    passages = list(data.passages())
    doc_ids = [passage["doc_id"] for passage in passages]
    seconds = dict.fromkeys(encoders, 0.0)
    blocks: dict[str, list[TokenEmbeddings]] = {p: [] for p in encoders}
    for start in range(0, len(passages), AT_ONCE):
        texts = [passage["text"] for passage in passages[start : start + AT_ONCE]]
        for p, encoder in encoders.items():
            began = time.process_time()
            found = encoder.encode_documents(texts)
            seconds[p] += time.process_time() - began
            blocks[p].append(TokenEmbeddings(found.vectors.astype(np.float16), found.offsets))
    first = given.precisions[0]
    rows = []
    for p, encoder in encoders.items():
        documents = [rows for block in blocks[p] for rows in block]
        row: dict[str, object] = {"collection": data.name, "precision": p, "pool_factor": 1}
        row["tokens_per_cpu_second"] = round(sum(map(len, documents)) / seconds[p])
        row |= measure(data, doc_ids, documents, encoders[first])
        if p != first:
            row["nDCG@10, queries alike"] = measure(data, doc_ids, documents, encoder)["nDCG@10"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    for factor in given.pool_factors:
        began = time.process_time()
        documents = [pool_tokens(rows, factor) for block in blocks[first] for rows in block]
        row = {"collection": data.name, "precision": first, "pool_factor": factor}
        row["pooling_cpu_seconds"] = round(time.process_time() - began, 1)
        row |= measure(data, doc_ids, documents, encoders[first])
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def measure(
    data: EvaluationSet, doc_ids: Sequence[str], documents: Sequence[np.ndarray], encoder: Encoder
) -> dict[str, object]:
    some = [i for i, rows in enumerate(documents) if len(rows)]
    blocks = (
        (np.concatenate(rows).astype(np.float16).astype(np.float32), np.cumsum([0, *map(len, rows)]))
        for first in range(0, len(some), AT_ONCE)
        for rows in [[documents[i] for i in some[first : first + AT_ONCE]]]
    )
    queries = list(encoder.encode_queries(list(data.queries.values())))
    ranked = rankings(blocks, queries, 100)
    run = {
        qid: {doc_ids[some[place]]: score for place, score in found}
        for qid, found in zip(data.queries, ranked, strict=True)
    }
    found, n = evaluate(data.qrels, data.drop_self_hits(run)), sum(map(len, documents))
    return {
        "nDCG@10": round(found["nDCG@10"], 4),
        "vectors": n,
        "float16_bytes": 2 * n * encoder.dim,
    }


if __name__ == "__main__":
    main()
