"""What a device does: the kernels' numbers against torch's; speed of encoding, building, searching and training.

    scripts/device-check [--device cuda] [--tiny] [--json FILE] [--seconds 480]

All inputs are made here. Prints a table of every figure, on a GPU beside its goal, which is of an H100, and a row for
docs/benchmarks.md; --json keeps the figures. What could not be measured is "not measured", with the reason. --tiny: the
same lines on amounts that a processor manages, whose speeds say nothing.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from device_sections import MissingError, Sizes, build, encode, kernels, search, train

MISSING = "not measured"
Section = Callable[[torch.device, Sizes], Iterator[tuple[str, float]]]


@dataclass(frozen=True)
class Figure:
    """goal: at least so much, or with `most` at most; None where there is none."""

    name: str
    unit: str
    goal: float | None = None
    most: bool = False


SECTIONS: list[tuple[str, Section, list[Figure]]] = [
    (
        "kernels",
        kernels,
        [
            Figure("fused kernels: error, in parts of torch's own", "", 2, most=True),
            Figure("MaxSim kernel: largest difference from torch", "", 1e-3, most=True),
        ],
    ),
    (
        "encoding",
        encode,
        [
            Figure("bundled model, texts to vectors", "tokens/s"),
            Figure("a query's vectors, median", "ms"),
            Figure("a query alone: largest difference from a batch", "", 0.03, most=True),
            Figure("bundled model alone", "tokens/s", 3e6),
            Figure("base, mixed lengths", "tokens/s"),
            Figure("base, share of the bf16 peak", "", 0.35),
            Figure("base, times transformers at mixed lengths", "", 1.8),
            Figure("base, times transformers at the longest", "", 2),
        ],
    ),
    (
        "building",
        build,
        [
            Figure("training a codec", "s"),
            Figure("coding vectors", "tokens/s"),
            Figure("indexing, share of the encoder's speed", "", 0.9),
        ],
    ),
    (
        "searching",
        search,
        [
            Figure("tokens searched", "tokens"),
            Figure("a query alone, median", "ms", 2, most=True),
            Figure("many at a time", "queries/s", 5000),
            Figure("recall@10 of the processor's exact ten", "", 0.99),
        ],
    ),
    (
        "training",
        train,
        [
            Figure("base at 512 tokens", "tokens/s"),
            Figure("base at 512 tokens, memory", "GiB"),
            Figure("base at the longest", "tokens/s"),
            Figure("base at the longest, memory", "GiB"),
        ],
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--seconds", type=float, default=480, help="begin no part after so many")
    given = parser.parse_args()
    device, reason = found(given.device)
    sizes, started = Sizes.tiny() if given.tiny else Sizes(), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for title, section, figures in SECTIONS:
        values: dict[str, float] = {}
        why = reason
        if device is not None and time.perf_counter() - started > given.seconds:
            why = f"no time was left after {given.seconds:g} s"
        elif device is not None:
            try:
                for name, value in section(device, sizes):
                    values[name] = value
            except MissingError as error:
                why = str(error)
            except Exception as error:  # one part that fails must not take the others along
                why = f"{type(error).__name__}: {error}".partition("\n")[0]
        for figure in figures:
            value = values.pop(figure.name, None)
            row = {
                "part": title,
                "figure": figure.name,
                "unit": figure.unit,
                "goal": figure.goal,
                "value": value,
            }
            rows.append(row | {"why": None if value is not None else why or f"{device} has none"})
            judged = device is not None and device.type == "cuda" and not given.tiny
            print(line(figure if judged else replace(figure, goal=None), value, rows[-1]["why"]), flush=True)
        assert not values, f"no Figure for {sorted(values)}"
    on_gpu = device is not None and device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else given.device
    day = time.strftime("%Y-%m-%d")
    cells = [MISSING if row["value"] is None else f"{row['value']:,.4g}" for row in rows]
    print(f"\n| {name} | torch {torch.__version__} | {day} | {' | '.join(cells)} |")
    if given.json:
        about = {"device": name, "torch": torch.__version__, "day": day, "tiny": given.tiny}
        given.json.write_text(json.dumps(about | {"figures": rows}, indent=1))


def found(name: str) -> tuple[torch.device | None, str]:
    """The device, or why there is none."""
    from encoder.devices import as_device
    from encoder.errors import ArgumentError

    try:
        return as_device(name), ""
    except ArgumentError as error:
        return None, str(error)


def line(figure: Figure, value: float | None, why: str) -> str:
    if value is None:
        return f"{figure.name:48} {MISSING} ({why})"
    goal = ""
    if figure.goal is not None:
        met = value <= figure.goal if figure.most else value >= figure.goal
        goal = f"  goal {'<=' if figure.most else '>='} {figure.goal:,.4g}: {'met' if met else 'not met'}"
    return f"{figure.name:48} {value:>14,.4g} {figure.unit}{goal}"


if __name__ == "__main__":
    main()
