"""The comparison, as one command: contenders build and search the same vectors, each in an environment of its own.

    python benchmarks/vectors.py nf nfcorpus
    python benchmarks/peers.py nf work                                  # all of them, an hour or more
    python benchmarks/peers.py nf work tachiom-quick --threads 1        # or in pieces, which add up
    python benchmarks/peers.py nf work --report --picture peers.png     # tables and picture of what was measured

A contender's environment, index and figures are WORK/environments/PEER, WORK/NAME.index and WORK/NAME.json; an index
that is there is not built again without --build. faiss-flat and faiss-pq are limits: FAISS looks at every token of
the corpus, exactly and by a product quantiser of 32 bytes, and documents are ranked by the nearest so many tokens of
each token of the query. A name that ends in -quick is a peer that trains on less than by default. What is measured
and how: search.py.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import build
import search
from shared import LATEWOOD, LIMITS, PEERS, exact_rankings, index_of

ALL = ("exact", *LIMITS, *LATEWOOD, *PEERS)
REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4, help="a setting, about")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--build", action="store_true", help="build indexes that are there, too")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--picture", type=Path, help="draw the curves here (needs matplotlib)")
    given = parser.parse_intermixed_args()
    if unknown := set(given.names) - set(ALL):
        parser.error(f"{', '.join(sorted(unknown))}: no contender; pass some of {', '.join(ALL)}")
    given.work.mkdir(parents=True, exist_ok=True)
    for name in [] if given.report else given.names or ALL:
        measure(name, given)
    files = [given.work / f"{name}.json" for name in ALL]
    found = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
    report(found)
    if given.picture:
        draw(found, given.picture)


# Measuring ----------------------------------------------------------------------------------------------


def measure(name: str, given: argparse.Namespace) -> None:
    """Build, search with each number of threads, and keep the figures beside those of earlier runs."""
    file = given.work / f"{name}.json"
    figures: Row = json.loads(file.read_text()) if file.exists() else {"build": None, "rows": []}
    info = json.loads((given.vectors / "info.json").read_text())
    options = argparse.Namespace(**vars(given))
    options.peers_python = environment(name.removesuffix("-quick"), given.work) if name in PEERS else None
    options.queries, options.memory = None, None
    if name != "exact" and (given.build or not index_of(given.work, name).exists()):
        options.threads = max(given.threads)
        figures["build"] = build.build(name, options)
        file.write_text(json.dumps(figures, indent=1))
    for threads in given.threads:
        options.threads = threads
        exact = exact_rankings(given.vectors, threads)
        rows = search.summary(name, [search.run(name, options, given.seconds)], info, exact, given.clock)
        figures["rows"] = [row for row in figures["rows"] if row["threads"] != threads]
        figures["rows"] += [{"threads": threads, **row} for row in rows]
        file.write_text(json.dumps(figures, indent=1))


def environment(peer: str, work: Path) -> Path:
    """The peer's own interpreter; made, with its line of requirements-peers.txt, where it is not there."""
    folder = work / "environments" / peer
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        [line] = [line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(peer)]
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", line], check=True)
    return python


# Reporting ----------------------------------------------------------------------------------------------


def report(found: dict[str, Row]) -> None:
    print(
        "\n| contender | build s (threads) | processor s | bytes a token | peak MiB |\n|---|---|---|---|---|"
    )
    for name, figures in found.items():
        if (made := figures["build"]) is not None:
            print(
                f"| {name} | {made['seconds']:.1f} ({made['threads']}) | {made['cpu_seconds']:.1f} | "
                f"{made['bytes_per_token']:.2f} | {made['peak_mib']:,.0f} |"
            )
    rows = [row for figures in found.values() for row in figures["rows"]]
    for threads in sorted({row["threads"] for row in rows}):
        some = [row for row in rows if row["threads"] == threads]
        print(f"\n{threads} thread{'s' * (threads > 1)}\n")
        search.table(some)
        print()
        against(some)


def against(rows: list[Row]) -> None:
    """Of each peer's settings the one that does best beside Latewood's quickest of no greater loss. On the queries that
    both had time for: Latewood's settings that did not get as far do not count."""
    ours = [row for row in rows if row["contender"] in LATEWOOD]
    for name in PEERS:
        theirs = [row for row in rows if row["contender"] == name]
        for what, cost in (("median", one), ("64 at once", many)) if theirs else ():
            ratios = []
            for row in theirs:
                n = row["n"]
                most = search.loss(row) + 1e-9  # sums of the same numbers in another order
                if good := [own for own in ours if own["n"] >= n and search.loss(own, n) <= most]:
                    ratios.append((cost(row) / min(map(cost, good)), search.named(row)))
            least, setting = min(ratios, default=(float("nan"), "-"))
            print(
                f"{name}, {what}: at least {least:.2f} times Latewood's at equal nDCG@10 ({setting}); "
                f"{len(theirs) - len(ratios)} of {len(theirs)} settings lose less than any of Latewood's"
            )


def one(row: Row) -> float:
    return float(row["median_ms"])


def many(row: Row) -> float:
    return 1e3 / float(row["batch_per_second"])


def draw(found: dict[str, Row], figure: Path) -> None:
    """Quality against milliseconds a query; nDCG@10, where queries are judged, above recall@10; one query and 64 at
    once for each number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    rows = [row for figures in found.values() for row in figures["rows"]]
    fullest = max(rows, key=lambda row: int(row["n"]))
    judged = fullest["nDCG@10"] is not None
    best = fullest["nDCG@10"] + fullest["nDCG@10 lost"] if judged else None
    threads = sorted({row["threads"] for row in rows})
    columns = [(t, what, cost) for t in threads for what, cost in (("one query", one), ("64 at once", many))]
    metrics = ["nDCG@10", "recall@10"] if judged else ["recall@10"]
    size = (3.6 * len(columns), 3.2 * len(metrics))
    fig, panels = plt.subplots(len(metrics), len(columns), figsize=size, squeeze=False, sharey="row")
    for (t, what, cost), column in zip(columns, panels.T, strict=True):
        for metric, panel in zip(metrics, column, strict=True):
            for number, name in enumerate(found):
                own = sorted((r for r in rows if (r["contender"], r["threads"]) == (name, t)), key=cost)
                # Of settings that were stopped early: brute force's on all queries, less what they lost on theirs.
                points = [r[metric] if metric == "recall@10" else best - r["nDCG@10 lost"] for r in own]
                style = {"color": f"C{number % 10}", "linestyle": "-" if name in LATEWOOD else "--"}
                panel.plot([cost(r) for r in own], points, marker="o", ms=4, lw=1, label=name, **style)
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
            panel.grid(alpha=0.3)
            panel.set_xlabel("ms a query")
            panel.set_title(f"{metric}, {what}, {t} thread{'s' * (t > 1)}", fontsize=9)
    panels[-1][-1].legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(figure, dpi=90)


if __name__ == "__main__":
    main()
