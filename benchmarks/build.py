"""Building an index: seconds, peak memory, bytes a token and nDCG@10, beside fast-plaid, xtr-warp and TACHIOM.

    python benchmarks/vectors.py VECTORS BEIR_FOLDER
    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/requirements-peers.txt
    python benchmarks/build.py VECTORS WORK --peers-python PEERS/bin/python
    python benchmarks/build.py WORK --synthetic 10000000 [--memory 1GB]

Each contender builds WORK/NAME.index from the same vectors in a process of its own, with its defaults; search.py
uses these again. Then all queries are searched, and nDCG@10 is set beside brute force's on the vectors themselves.
With --synthetic only Latewood builds, and the vectors are made while it does, a block at a time.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from shared import LATEWOOD, PEERS, add_options, exact_rankings, folder_bytes, index_of, ndcg, recall, start
from vectors import DIM

# fast-plaid at its default of 4,096 full scores takes half a second a query.
QUALITY = {name: {"n_full_scores": 512} for name in ("fast-plaid", "fast-plaid-quick")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path, nargs="?")
    parser.add_argument("work", type=Path)
    parser.add_argument("--synthetic", type=int, metavar="TOKENS")
    parser.add_argument("--memory", help="the memory setting of Latewood's index, such as 1GB")
    parser.add_argument("--only", help=f"one contender: {', '.join((*LATEWOOD, *PEERS))}")
    add_options(parser)
    given = parser.parse_args()
    if (given.vectors is None) == (given.synthetic is None):
        parser.error("pass VECTORS and WORK, or WORK and --synthetic TOKENS")
    given.work.mkdir(parents=True, exist_ok=True)
    names = [
        *(LATEWOOD if given.vectors else LATEWOOD[:1]),
        *(PEERS if given.peers_python and given.vectors else ()),
    ]
    names = [name for name in names if given.only == name or (given.only is None and "-quick" not in name)]
    rows = [build(name, given) for name in names]
    if given.vectors is not None:
        judge(rows, given)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def build(name: str, given: argparse.Namespace) -> dict[str, Any]:
    index = index_of(given.work, name)
    shutil.rmtree(index, ignore_errors=True)
    job: dict[str, Any] = {"index": str(index), "threads": given.threads, "memory": given.memory, "dim": DIM}
    job["bytes_per_token"] = int(name.removeprefix("latewood-")) if name in LATEWOOD[1:] else None
    job["peer_options"] = PEERS.get(name, {})
    if given.vectors is None:
        job["synthetic"] = given.synthetic
    else:
        job["vectors"] = str(given.vectors)
    result = start(name, "build", job, given.peers_python)
    info = result.get("info")
    tokens = info["tokens"] if given.vectors is None else int(np.load(given.vectors / "offsets.npy")[-1])
    row = {"contender": name, "threads": given.threads, "tokens": tokens, **result}
    row["bytes_per_token"] = folder_bytes(index) / tokens
    print(
        f"{name}: {tokens:,} tokens, {row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s of processor time, "
        f"{given.threads} threads), {tokens / row['seconds']:,.0f} tokens/s, peak {row['peak_mib']:,.0f} MiB, "
        f"{row['bytes_per_token']:.2f} bytes/token in all files"
    )
    if info is not None:
        parts = {part: round(n / tokens, 2) for part, n in info["bytes"].items()}
        print(
            f"  nlist {info['nlist']}, {info['segments']} segments; bytes/token: {parts}; codes, lists and offsets "
            f"{info['bytes_per_token']:.2f}; {row['source_seconds']:.1f} s of the time went into reading or "
            "making vectors",
            flush=True,
        )
    return row


def judge(rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Add nDCG@10 and recall@10 against brute force, and print them."""
    info = json.loads((given.vectors / "info.json").read_text())
    exact = exact_rankings(given.vectors, given.threads)
    print(f"brute force on the vectors themselves: nDCG@10 {shown(ndcg(info, exact))}")
    for row in rows:
        job = {
            "vectors": str(given.vectors),
            "index": str(index_of(given.work, row["contender"])),
            "threads": given.threads,
            "settings": [QUALITY.get(row["contender"], {})],
            "queries": None,
            "seconds": 1e9,
        }
        [found] = start(row["contender"], "search", job, given.peers_python)["rows"]
        row["search_setting"] = found["setting"]
        row["nDCG@10"], row["exact nDCG@10"] = ndcg(info, found["rankings"]), ndcg(info, exact)
        row["recall@10"] = recall(found["rankings"], exact)
        print(
            f"{row['contender']} {found['setting'] or '(defaults)'}: nDCG@10 {shown(row['nDCG@10'])}, "
            f"recall@10 {row['recall@10']:.4f}",
            flush=True,
        )


def shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


if __name__ == "__main__":
    main()
