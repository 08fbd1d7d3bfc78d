"""Ray Serve under load: what it costs beside `latewood serve`, and what clients see while processes die.

    python benchmarks/cluster_serving.py overhead INDEX DATA [--clients 32] [--seconds 20] [--rounds 3]
    python benchmarks/cluster_serving.py failures DATA [--clients 32] [--seconds 30] [--replicas 2]

DATA is a BEIR folder, whose judged queries are asked, by clients as in serving.py. `overhead`: one index, as one shard,
by both servers, which run side by side and are asked in turns. `failures`: 200 documents in two shards; after a third
of the time a process of one shard is killed, after two thirds a version with 50 documents more is published. Each
answer is compared with `Searcher` on the version that it names; one that says it is without the shard, as with one
replica, with a search of the other.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import K, Seen, client, family, judged, same, started
from serving import serving as plain

from encoder.light import LightEncoder
from indexing import Index
from indexing.reading.corpus import read_source
from indexing.storage.sharded import open_snapshot
from indexing.writing.shards import publish
from retriever import Searcher
from retriever.cluster.asking import Answer, Ask, Lost
from retriever.cluster.holding import Holder
from retriever.cluster.merging import ClusterSearcher

DOCUMENTS, MORE = 200, 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["overhead", "failures"])
    parser.add_argument("paths", type=Path, nargs="+", metavar="[INDEX] DATA")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    found = overhead(args) if args.what == "overhead" else failures(args)
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found))


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    index, data = args.paths
    texts, seconds = judged(data), args.seconds or 20
    cores = str(os.cpu_count())
    rates: dict[str, list[float]] = {"latewood serve": [], "latewood cluster serve": []}
    spent: dict[str, list[float]] = {name: [] for name in rates}
    with (
        plain(index) as one,
        on_ray(index, "--replicas", "1", "--cpus", cores) as other,
    ):
        for turn in range(args.rounds + 1):
            for name, (url, process) in zip(rates, (one, other), strict=True):
                before = processor_seconds(process)
                seen = asyncio.run(asked(url, texts, args.clients, seconds if turn else 5))
                assert set(seen.statuses) == {"200"}, seen.statuses
                if turn:  # the first warms up
                    rates[name].append(len(seen.ms) / seconds)
                    spent[name].append(1000 * (processor_seconds(process) - before) / len(seen.ms))
                    median = statistics.median(seen.ms)
                    print(
                        name,
                        f"{rates[name][-1]:.1f} a second, median {median:.1f} ms, {spent[name][-1]:.2f} ms of a core",
                        flush=True,
                    )
    plainly, by_ray = map(statistics.median, rates.values())
    return {"answers a second": rates, "processor ms an answer": spent, "share": by_ray / plainly}


def failures(args: argparse.Namespace) -> dict[str, Any]:
    [data] = args.paths
    texts, seconds = judged(data), args.seconds or 30
    with tempfile.TemporaryDirectory() as work:
        folder, other = Path(work) / "index", Path(work) / "other"
        documents = [one for one, _ in zip(read_source(data), range(DOCUMENTS + MORE), strict=False)]
        with Index.create(folder, LightEncoder.load(), shards=2) as index:
            index.add(documents[:DOCUMENTS])
        for copy in (other, Path(work) / "before"):
            shutil.copytree(folder, copy)
        with Index.open(other, LightEncoder.load(), writable=True) as index:
            index.add(documents[DOCUMENTS:])
        with on_ray(folder, "--replicas", str(args.replicas)) as (url, process):

            async def run() -> Seen:
                load = asyncio.create_task(asked(url, texts, args.clients, seconds))
                await asyncio.sleep(seconds / 3)
                os.kill(replicas(process, "shard-001")[0], signal.SIGKILL)
                await asyncio.sleep(seconds / 3)
                (other / "v0001").rename(folder / "v0002")
                publish(folder, 2, 2)
                return await load

            asyncio.run(asked(url, texts, args.clients, 5))
            seen = asyncio.run(run())
        print(dict(seen.statuses), f"{len(seen.ms) / seconds:.1f} a second; now each answer is compared")
        checked = [against(place, seen) for place in (Path(work) / "before", folder)]
    whole, partial = map(sum, zip(*checked, strict=True))
    return {
        "answers": dict(seen.statuses),
        "versions": sum(map(any, checked)),
        "whole and like Searcher": whole,
        "without the shard, named, and like a search of the others": partial,
        "neither": len(seen.answers) - whole - partial,
        "a second": len(seen.ms) / seconds,
        "median ms": statistics.median(seen.ms),
        "worst ms": max(seen.ms),
    }


def against(place: Path, seen: Seen) -> list[int]:
    """Answers of this version that are right: whole, and without the second shard."""
    counts = []
    with Searcher.open(place) as searcher, Holder(place) as holder:

        def ask(asks: Sequence[Ask]) -> list[Answer]:
            return [
                Lost.MISSING if one.shard == 1 else found
                for one, found in zip(asks, holder.answer(asks), strict=True)
            ]

        generation, lost = searcher.snapshot.state.generation, searcher.snapshot.parts[1].folder
        names = (), (lost.relative_to(place).as_posix(),)
        given = list(zip(seen.answers, seen.missing, strict=True))
        with ClusterSearcher(open_snapshot(place), ask, searcher.encoder) as without:
            for who, missing in zip((searcher, without), names, strict=True):
                own = [one for one, named in given if one[1] == generation and named == missing]
                expected = who.search_many({text: text for text, _, _ in own}, k=K)
                found = {text: [(hit.doc_id, hit.score) for hit in hits] for text, hits in expected.items()}
                counts.append(sum(same(hits, found[text]) for text, _, hits in own))
    return counts


async def asked(url: str, texts: list[str], clients: int, seconds: float) -> Seen:
    seen, until = Seen(), time.monotonic() + seconds
    await asyncio.gather(*(client(url, texts, i, until, seen) for i in range(clients)))
    return seen


@contextmanager
def on_ray(folder: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "retriever.cli", "cluster", "serve", f"load={folder}"]
    command += ["--port", port, "--address", "local", *options]
    with started(command, RAY_AUTH_MODE="disabled", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0") as found:
        yield found


def replicas(process: "subprocess.Popen[str]", shard: str) -> list[int]:
    """Processes of a shard, among all that a process and its children have started."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in family(process.pid)}
    return [pid for pid, title in titles.items() if f"ServeReplica:latewood:{shard}" in title]


def processor_seconds(process: "subprocess.Popen[str]") -> float:
    """Of a process and all that it and its children have started, so far."""
    ticks = sum(int(n) for stat in family(process.pid).values() for n in stat[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
