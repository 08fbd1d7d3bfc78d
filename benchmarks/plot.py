"""Draw latency against recall from search.py's --json files, a panel a set of vectors.

pip install matplotlib
python benchmarks/plot.py OUT.json... FIGURE.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "exact": "k",
    "latewood": "C2",
    "latewood-32": "C4",
    "latewood-48": "C5",
    "fast-plaid": "C0",
    "xtr-warp": "C1",
}


def main(files: list[str], figure: str) -> None:
    # Files of one name, as of runs with --only, share a panel.
    sets: dict[str, dict[str, Any]] = {}
    for file in files:
        data = json.loads(Path(file).read_text())
        sets.setdefault(data["name"], {**data, "rows": []})["rows"] += data["rows"]
    fig, panels = plt.subplots(1, len(sets), figsize=(4.4 * len(sets), 3.6), squeeze=False)
    for data, panel in zip(sets.values(), panels[0], strict=True):
        for name, colour in COLOURS.items():
            rows = sorted((r for r in data["rows"] if r["contender"] == name), key=lambda r: r["median_ms"])
            if not rows:
                continue
            times, recalls = [r["median_ms"] for r in rows], [r["recall@10"] for r in rows]
            panel.plot(times, recalls, "o-", color=colour, markersize=4, linewidth=1, label=name)
            for row in rows:
                if not row["setting"]:  # its defaults
                    panel.plot(row["median_ms"], row["recall@10"], "o", color=colour, ms=9, fillstyle="none")
        panel.set_xscale("log")
        clock = "" if data["clock"] == "wall" else " of processor time"
        panel.set_xlabel(f"median ms{clock} a query, {data['threads']} thread(s)")
        panel.set_ylabel("recall@10 of brute force")
        panel.set_title(data["name"], fontsize=9)
        panel.grid(alpha=0.3)
    most = max(panels[0], key=lambda panel: len(panel.get_legend_handles_labels()[0]))
    most.legend(fontsize=8, title="ring: defaults", title_fontsize=8, loc="lower right")
    fig.tight_layout()
    fig.savefig(figure, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[-1].endswith(".png"):
        sys.exit(__doc__)
    main(sys.argv[1:-1], sys.argv[-1])
