"""Indexes that the peers make of the same vectors, imported: what is found beside exact scores and beside the peers.

    python benchmarks/importing.py nf work --peer fast-plaid=peers/bin/python --peer colbert=colbert/bin/python

nf is a folder of vectors.py, of a BEIR folder. Of its first 1,000 documents and of 50 queries with a judged one among
them, their vectors made of unit length, a table: the share of the ten best by MaxSim on the source's decoded vectors
that a search of the imported index finds, and nDCG@10 of the peer, of the imported index and of these exact scores.
Exits with 1 where an overlap is below .9, or nDCG@10 .005 under the peer's. What a peer has made of the same in `work`
is not made again. importing_peer.py has the peers, each to be run in an environment of its own (requirements-peers.txt,
requirements-parity-pylate.txt, requirements-colbert.txt).
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from shared import query_vectors

from indexing import Index, open_vectors
from retriever import ImportOptions, Searcher, import_index
from retriever.agreement import Queries
from retriever.evaluation.metrics import evaluate

HERE = Path(__file__).parent
DOCUMENTS, QUERIES, K = 1000, 50, 10


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME[:KIND]=PYTHON", help="repeatable"
    )
    parser.add_argument("--document-length", type=int, default=8192, help="tokens of a document, at most")
    parser.add_argument(
        "--flat-tokens", type=int, help="from how many tokens on vectors are coded, in place of 262,144"
    )
    parser.add_argument(
        "--bytes-per-token", type=int, help="of the imported index; by default the import's own"
    )
    given = parser.parse_args()
    print("| peer | versions | documents | overlap@10 with exact | nDCG@10 peer | imported | exact |")
    print("|---|---|---|---|---|---|---|")
    failed = False
    for entry in given.peer:
        name, _, python = entry.partition("=")
        row = compare(name, python, given)
        failed |= row["overlap"] < 0.9 or row["imported"] < row["peer"] - 0.005
        told = ", ".join(f"{package} {number}" for package, number in row["versions"].items())
        figures = (f"{row[key]:.4f}" for key in ("overlap", "peer", "imported", "exact"))
        print(f"| {name} | {told} | {row['documents']:,} | {' | '.join(figures)} |", flush=True)
    return int(failed)


def compare(name: str, python: str, given: argparse.Namespace) -> dict[str, Any]:
    info = json.loads((given.vectors / "info.json").read_text(encoding="utf-8"))
    ids, queries, judged = info["doc_ids"][:DOCUMENTS], info["query_ids"], info["qrels"]
    chosen = [i for i, q in enumerate(queries) if any(judged[q].get(doc, 0) > 0 for doc in ids)][:QUERIES]
    place = given.work.resolve() / name.replace(":", "-")
    peer, _, kind = name.partition(":")
    job = {
        "vectors": str(given.vectors.resolve()),
        "documents": DOCUMENTS,
        "queries": chosen,
        "kind": kind or "fast",
        "document_length": given.document_length,
    }
    job |= {"index": str(place / "peer"), "result": str(place / "result.json")}
    told, made = json.dumps(job), place / "job.json"
    if not (place / "result.json").exists() or made.read_text(encoding="utf-8") != told:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        made.write_text(told, encoding="utf-8")
        with (place / "log").open("w") as log:
            command = [python, str(HERE / "importing_peer.py"), peer, str(made)]
            subprocess.run(command, check=True, stdout=log, stderr=log)
    result = json.loads((place / "result.json").read_text(encoding="utf-8"))

    shutil.rmtree(place / "index", ignore_errors=True)
    if given.flat_tokens is not None:
        Index.create(
            place / "index", dim=open_vectors(place / "peer").dim, flat_tokens=given.flat_tokens
        ).close()
    options = ImportOptions(check=0, bytes_per_token=given.bytes_per_token)
    report = import_index(place / "peer", place / "index", options)
    vectors, asked = query_vectors(given.vectors), Queries(0, 2 * K)
    asked.vectors = [vectors[i] / np.linalg.norm(vectors[i], axis=1, keepdims=True) for i in chosen]
    for batch in open_vectors(place / "peer").batches():
        asked.score(batch)
    exact = asked.best
    with Searcher.open(place / "index") as searcher:
        found = [
            [(hit.doc_id, hit.score) for hit in searcher.search_embeddings(q, k=2 * K)] for q in asked.vectors
        ]
    overlaps = [
        len({doc for doc, _ in own[:K]} & {doc for doc, _ in best[:K]}) / K
        for own, best in zip(found, exact, strict=True)
    ]
    name_of = NAMES.get(peer, str)
    qrels: dict[str, dict[str, int]] = {}
    for i in chosen:
        own = qrels.setdefault(queries[i], {})
        for place_of, doc in enumerate(ids):
            if grade := judged[queries[i]].get(doc):
                own[name_of(place_of)] = max(grade, own.get(name_of(place_of), 0))
    scores = {}
    for system, rankings in {"peer": result["rankings"], "imported": found, "exact": exact}.items():
        run = {}
        for i, ranking in zip(chosen, rankings, strict=True):  # of a document's passages the best counts
            run[queries[i]] = dict(sorted(ranking, key=lambda pair: pair[1]))
        scores[system] = evaluate(qrels, run)["nDCG@10"]
    return {
        "versions": result["versions"],
        "documents": report.documents,
        "overlap": float(np.mean(overlaps)),
        **scores,
    }


# What a peer calls the document of a place, as importing_peer.py has it.
NAMES = {"pylate": "d{}".format, "ragatouille": lambda place: f"d{place // 2}"}

if __name__ == "__main__":
    sys.exit(main())
