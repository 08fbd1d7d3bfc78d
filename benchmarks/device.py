"""What a device does: the kernels' numbers against torch's; speed of encoding, building, searching and training.

    scripts/device-check [--device cuda] [--tiny] [--json FILE] [--seconds 480] [--part NAME]

All inputs are made here. Prints a table of every figure, on a GPU beside its goal, which is of an H100, and a row for
docs/benchmarks.md; --json keeps the figures. What could not be measured is "not measured", with the reason. On a GPU
each part has a process of its own, so that one that fails, or ends its process, takes no other along. --tiny: the
same lines on amounts that a processor manages, whose speeds say nothing.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import device_sections as sections
import torch
from device_sections import MissingError, Sizes

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
        "fused kernels",
        sections.fused_kernels,
        [Figure("fused kernels: error, in parts of torch's own", "", 2, most=True)],
    ),
    (
        "MaxSim kernel",
        sections.maxsim_kernel,
        [Figure("MaxSim kernel: largest difference from torch", "", 1e-3, most=True)],
    ),
    (
        "a query's vectors",
        sections.query_vectors,
        [
            Figure("a query's vectors, median", "ms"),
            Figure("a query alone: largest difference from a batch", "", 0.03, most=True),
        ],
    ),
    (
        "bundled model",
        sections.bundled,
        [
            Figure("bundled model alone", "tokens/s", 3e6),
            Figure("bundled model, texts to vectors", "tokens/s"),
        ],
    ),
    (
        "indexing",
        sections.indexing_texts,
        [Figure("indexing, share of the encoder's speed", "", 0.9)],
    ),
    (
        "searching",
        sections.search,
        [
            Figure("tokens searched", "tokens"),
            Figure("a query alone, median", "ms", 2, most=True),
            Figure("many at a time", "queries/s", 5000),
        ],
    ),
    ("recall", sections.recall, [Figure("recall@10 of the processor's exact ten", "", 0.99)]),
    (
        "coding",
        sections.coding,
        [Figure("training a codec", "s"), Figure("coding vectors", "tokens/s")],
    ),
    (
        "base",
        sections.base,
        [Figure("base, mixed lengths", "tokens/s"), Figure("base, share of the bf16 peak", "", 0.35)],
    ),
    (
        "transformers",
        sections.against_transformers,
        [
            Figure("base, times transformers at mixed lengths", "", 1.8),
            Figure("base, times transformers at the longest", "", 2),
        ],
    ),
    (
        "training at 512",
        sections.train_short,
        [Figure("base at 512 tokens", "tokens/s"), Figure("base at 512 tokens, memory", "GiB")],
    ),
    (
        "training at the longest",
        sections.train_long,
        [Figure("base at the longest", "tokens/s"), Figure("base at the longest, memory", "GiB")],
    ),
    ("train colbert", sections.chunks, [Figure("train colbert, two steps: held-out loss", "")]),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here, after each part")
    parser.add_argument("--seconds", type=float, default=480, help="be done after so many")
    parser.add_argument("--part", choices=[title for title, *_ in SECTIONS], help="this one alone")
    parser.add_argument("--apart", action="store_true", help="a process for each part, as on a GPU")
    parser.add_argument(
        "--lines", action="store_true", help="a line of JSON for each figure, in this process"
    )
    given = parser.parse_args()
    (device, reason), started = found(given.device), time.perf_counter()
    chosen = [section for section in SECTIONS if given.part in (None, section[0])]
    if given.lines:
        out = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):  # what is trained says how far it is
            for told in told_here(chosen[0][1], device, given.tiny):
                print(json.dumps(told), file=out, flush=True)
        return
    on_gpu = device is not None and device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else given.device
    day, rows = time.strftime("%Y-%m-%d"), list[dict[str, Any]]()
    for title, section, figures in chosen:
        values: dict[str, float] = {}
        why, left = reason, given.seconds - (time.perf_counter() - started)
        if device is not None and left <= 0:
            why = f"no time was left after {given.seconds:g} s"
        elif device is not None:
            again = [sys.executable, __file__, "--lines", "--part", title, "--device", given.device]
            again += ["--tiny"] * given.tiny
            apart = on_gpu or given.apart
            with contextlib.redirect_stdout(sys.stderr):
                for figure_name, value in (
                    told_by(again, left) if apart else told_here(section, device, given.tiny)
                ):
                    if figure_name:
                        values[figure_name] = float(value)
                    else:
                        why = str(value)
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
            judged = on_gpu and not given.tiny
            print(line(figure if judged else replace(figure, goal=None), value, rows[-1]["why"]), flush=True)
        assert not values, f"no Figure for {sorted(values)}"
        if given.json:
            about = {"device": name, "torch": torch.__version__, "day": day, "tiny": given.tiny}
            given.json.write_text(json.dumps(about | {"figures": rows}, indent=1))
    cells = [MISSING if row["value"] is None else f"{row['value']:,.4g}" for row in rows]
    print(f"\n| {name} | torch {torch.__version__} | {day} | {' | '.join(cells)} |")


def told_here(section: Section, device: torch.device | None, tiny: bool) -> Iterator[tuple[str, Any]]:
    """The figures of a part as they are measured; where it fails, "" and why, in one line."""
    if device is None:
        return
    try:
        yield from section(device, Sizes.tiny() if tiny else Sizes())
    except MissingError as error:
        yield "", str(error)
    except Exception as error:  # whatever it is, the other parts go on
        yield "", f"failed: {type(error).__name__}: {error}".partition("\n")[0]


def told_by(command: list[str], seconds: float) -> Iterator[tuple[str, Any]]:
    """The same of a process, which prints them by `told_here`; also where it ends early or takes too long."""
    late = threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(seconds, end)
    clock.start()
    try:
        assert process.stdout is not None
        with process.stdout as lines:
            for told in lines:
                yield tuple(json.loads(told))
        code = process.wait()
    finally:
        clock.cancel()
        process.kill()
    if late.is_set():
        yield "", f"no time was left: ended after {seconds:.0f} s"
    elif code:
        yield (
            "",
            f"failed: its process ended by {signal.Signals(-code).name if code < 0 else f'exit code {code}'}",
        )


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
