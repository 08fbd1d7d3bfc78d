"""Searching: latency, throughput, peak memory, and recall and nDCG@10 against brute force, beside the peers.

    python benchmarks/search.py VECTORS WORK --peers-python PEERS/bin/python [--threads 2] [--json OUT.json]

VECTORS is from vectors.py; WORK holds the indexes that build.py left. Query vectors are given, so encoding is not
in the times; looking up the hits' ids is. Contenders run in processes of their own, one after the other, --rounds
times over, so that what else the machine does falls on all alike; times are pooled. A setting that takes long is
stopped after --seconds, with 10 queries at least: n says how many, which are then asked 64 at a time, too. A
setting's nDCG@10 stands beside brute force's on the same queries. Recall@10 is of brute force's ten on the vectors
as they were before compression.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from shared import LATEWOOD, LIMITS, PEERS, add_options, exact_rankings, index_of, losses, ndcg, recall, start

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "exact": [{}],
    "latewood": [
        {},
        {"nprobe": 2, "nrerank": 32},
        {"nprobe": 4, "nrerank": 64},
        {"nprobe": 8, "nrerank": 64},
        {"nprobe": 16, "nrerank": 128},
        {"nprobe": 32, "ncandidates": 2048, "nrerank": 512},
        {"nprobe": 64, "ncandidates": 8192, "nrerank": 1024},
    ],
    "fast-plaid": [
        {},
        {"n_full_scores": 1024, "n_ivf_probe": 8},
        {"n_full_scores": 256, "n_ivf_probe": 8},
        {"n_full_scores": 256, "n_ivf_probe": 4},
        {"n_full_scores": 128, "n_ivf_probe": 4},
        {"n_full_scores": 128, "n_ivf_probe": 2},
        {"n_full_scores": 64, "n_ivf_probe": 4},
        {"n_full_scores": 64, "n_ivf_probe": 2},
        {"n_full_scores": 32, "n_ivf_probe": 2},
    ],
    "xtr-warp": [
        {},
        {"nprobe": 1},
        {"nprobe": 4},
        {"nprobe": 8},
        {"nprobe": 16},
        {"nprobe": 32},
        {"nprobe": 64},
        {"nprobe": 128},
    ],
}
SETTINGS["tachiom"] = [
    {},
    *(
        {"k_centroids": n, "ef_search": round(1.5 * n), "k_docs_to_score": m}
        for n, m in ((4, 50), (4, 100), (8, 100), (12, 200), (20, 200), (20, 1000), (40, 1000), (80, 2000))
    ),
    {"k_centroids": 80, "ef_search": 120, "k_docs_to_score": 2000, "alpha": None},
]
SETTINGS |= dict.fromkeys(LATEWOOD[1:], SETTINGS["latewood"])
SETTINGS |= {name: SETTINGS[name.removesuffix("-quick")] for name in PEERS}
SETTINGS |= {name: [{}, {"tokens": 100}, {"tokens": 10_000}] for name in LIMITS}
EQUAL = 0.002  # of nDCG@10, or of recall@10 where nothing is judged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--queries", type=int, help="only the first so many")
    parser.add_argument("--seconds", type=float, default=20, help="a setting and round, about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: where others compute too"
    )
    parser.add_argument("--only", nargs="*", help=f"contenders, of {', '.join((*LIMITS, *LATEWOOD, *PEERS))}")
    add_options(parser)
    given = parser.parse_args()
    info = json.loads((given.vectors / "info.json").read_text())
    names = [name for name in (*LIMITS, *LATEWOOD, *PEERS) if given.only is None or name in given.only]
    names = [name for name in names if index_of(given.work, name).exists()]
    if given.peers_python is None:
        names = [name for name in names if name not in PEERS]

    exact = run("exact", given, given.seconds)
    reference = exact_rankings(given.vectors, given.threads)[: given.queries]
    found = {"exact": [exact]}
    for _ in range(given.rounds):
        for name in names:
            found.setdefault(name, []).append(run(name, given, given.seconds))
    rows = [
        row for name, rounds in found.items() for row in summary(name, rounds, info, reference, given.clock)
    ]
    report(info, rows, given)
    compare(rows)
    if given.json:
        given.json.write_text(
            json.dumps(
                {"name": info["name"], "threads": given.threads, "clock": given.clock, "rows": rows}, indent=1
            )
        )


def run(name: str, given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    job = {
        "vectors": str(given.vectors),
        "index": str(index_of(given.work, name)),
        "threads": given.threads,
        "settings": SETTINGS[name],
        "queries": given.queries,
        "seconds": seconds,
    }
    return start(name, "search", job, given.peers_python)


def summary(
    name: str, rounds: list[dict[str, Any]], info: dict[str, Any], exact: list[Any], clock: str
) -> list[dict[str, Any]]:
    """A row a setting: times of all rounds pooled, rankings of the round that got furthest."""
    rows = []
    for i, setting in enumerate(SETTINGS[name]):
        measured = [one["rows"][i] for one in rounds]
        times = np.concatenate([m[clock]["ms"] for m in measured])
        rankings = max((m["rankings"] for m in measured), key=len)
        quality, lost = ndcg(info, rankings), losses(info, rankings, exact)
        rows.append(
            {
                "contender": name,
                "setting": setting,
                "n": len(rankings),
                "median_ms": float(np.median(times)),
                "p95_ms": float(np.percentile(times, 95)),
                "batch_per_second": len(times) / sum(m[clock]["batch_seconds"] for m in measured),
                "peak_mib": max(one["peak_mib"] for one in rounds),
                "recall@10": recall(rankings, exact),
                "nDCG@10": quality,
                "nDCG@10 lost": None if quality is None else float(np.mean(lost)),
                "losses": lost,
            }
        )
    return rows


def report(info: dict[str, Any], rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    offsets = np.load(given.vectors / "offsets.npy")
    lengths = np.diff(np.load(given.vectors / "query_offsets.npy"))
    print(
        f"{info['name']}: {len(offsets) - 1:,} passages, {offsets[-1]:,} tokens; {len(lengths)} queries of "
        f"{np.median(lengths):.0f} tokens (median); {given.threads} threads, {given.rounds} rounds, "
        f"{'wall clock' if given.clock == 'wall' else 'processor time'}\n"
    )
    table(rows)


def table(rows: list[dict[str, Any]]) -> None:
    print(
        "| contender | setting | n | median ms | p95 ms | 64 at once, queries/s | recall@10 | nDCG@10 (lost) "
        "| peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        quality = "-" if row["nDCG@10"] is None else f"{row['nDCG@10']:.4f} ({row['nDCG@10 lost']:+.4f})"
        print(
            f"| {row['contender']} | {named(row)} | {row['n']} | {row['median_ms']:.2f} | {row['p95_ms']:.2f} | "
            f"{row['batch_per_second']:.0f} | {row['recall@10']:.4f} | {quality} | {row['peak_mib']:,.0f} |"
        )


def compare(rows: list[dict[str, Any]]) -> None:
    """Each contender's defaults, and its fastest setting as good as Latewood's defaults, against the latter."""
    ours = next((row for row in rows if row["contender"] == "latewood" and not row["setting"]), None)
    if ours is None:
        return
    print(f"\nAs good: within {EQUAL} of latewood's defaults. Medians, as times of latewood's defaults:")
    for name in SETTINGS:
        some = [row for row in rows if row["contender"] == name]
        good = [row for row in some if loss(row) <= loss(ours, row["n"]) + EQUAL]
        for what, row in (
            ("defaults", some[0] if some else None),
            ("fastest as good", min(good, key=lambda r: float(r["median_ms"]), default=None)),
        ):
            times = "none" if row is None else f"{row['median_ms'] / ours['median_ms']:.2f} ({named(row)})"
            print(f"  {name}, {what}: {times}")


def loss(row: dict[str, Any], n: int | None = None) -> float:
    """Of nDCG@10 or recall@10, over the first n queries: those that a slower setting had time for."""
    return float(np.mean(row["losses"][:n]))


def named(row: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in row["setting"].items()) or "defaults"


if __name__ == "__main__":
    main()
