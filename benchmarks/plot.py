"""Draw latency against recall (or nDCG@10), a panel a file of search.py's --json.

pip install matplotlib
python benchmarks/plot.py OUT.json... FIGURE.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"latewood": "C2", "fast-plaid": "C0", "xtr-warp": "C1"}


def main(files: list[str], figure: str) -> None:
    fig, panels = plt.subplots(1, len(files), figsize=(4.4 * len(files), 3.6), squeeze=False)
    for file, panel in zip(files, panels[0], strict=True):
        data = json.loads(Path(file).read_text())
        measure = "recall@10" if data["rows"][0]["nDCG@10"] is None else "nDCG@10"
        for name, colour in COLOURS.items():
            rows = sorted((r for r in data["rows"] if r["contender"] == name), key=lambda r: r["median_ms"])
            if not rows:
                continue
            panel.plot(
                [r["median_ms"] for r in rows],
                [r[measure] for r in rows],
                "o-",
                color=colour,
                markersize=4,
                linewidth=1,
                label=name,
            )
            for row in rows:
                if not row["setting"]:  # its defaults
                    panel.plot(
                        row["median_ms"], row[measure], "o", color=colour, markersize=9, fillstyle="none"
                    )
        exact = data["rows"][0]
        panel.plot(exact["median_ms"], exact[measure], "k*", label="brute force")
        panel.axhline(exact[measure], color="k", linewidth=0.5, linestyle=":")
        panel.set_xscale("log")
        panel.set_xlabel(f"median ms a query, {data['threads']} thread{'s' * (data['threads'] > 1)}")
        panel.set_ylabel(measure)
        panel.set_title(data["name"], fontsize=9)
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8, title="ring: defaults", title_fontsize=8)
    fig.tight_layout()
    fig.savefig(figure, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:-1], sys.argv[-1])
