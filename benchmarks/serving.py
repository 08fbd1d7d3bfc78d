"""Serving under load: `latewood serve` as a process of its own, clients in this one, a writer that commits beside them.

    python benchmarks/serving.py INDEX DATA [--clients 64] [--seconds 60] [--slow 32] [--processes 1] [--json OUT.json]

INDEX is copied first; DATA is a BEIR folder, whose judged queries are asked. Each client asks one query after the
other over a connection that it keeps. The writer adds a document with the text of a query, replaces the one before
and deletes the one before that, every 2 s; it keeps a snapshot of every commit, by which each answer is checked
afterwards: its hits and scores are those of `Searcher` on the commit that the answer names. Throughput is compared
with `search_many` in this process, on the same index without a writer. Slow clients send a request byte by byte and
read its answer as slowly; their answers are checked too. Before it counts, the load runs for twelve seconds; memory
is the server's (RssAnon), after these, by tenths of the time, and when nobody has asked for five seconds.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from pydantic_core import from_json

from encoder.light import encoder_for_searching
from indexing import Index
from retriever import Searcher

COMMIT_SECONDS = 2.0
WARM_SECONDS = 12.0  # of the same load, before anything is counted
SETTLE_SECONDS = 5.0  # before memory is looked at for the last time
HANGS = 45.0  # seconds; the server's own limit is 30
K = 10
HEAD_ENDS = b"\r\n\r\n"
WHO = ("search_many", "server", "clients", "writer")
TOLERANCE = 1e-3  # of a score: sums of float32 in batches of other sizes


@dataclass
class Seen:
    """What clients saw. answers: (query, generation, hits as (doc_id, score)). missing: of each, shards that it says it
    is without."""

    ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[str, int, list[tuple[str, float]]]] = field(default_factory=list)
    missing: list[tuple[str, ...]] = field(default_factory=list)
    newest: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slow", type=int, default=0, help="further clients that send and read slowly")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=1, help="that serve")
    parser.add_argument("--no-writer", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    texts = judged(args.data)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "load.index"
        shutil.copytree(args.index, folder)
        alone, took_alone = in_process(folder, texts)
        found: dict[str, Any] = {"search_many per second": alone}
        with (
            writing(None if args.no_writer else folder, texts) as writer,
            serving(folder, args.processes) as (
                url,
                process,
            ),
        ):
            server = list(family(process.pid))
            uvloop.run(load(url, texts, args, server, WARM_SECONDS))
            before, each = anonymous_mib(server), (server, [os.getpid()], [writer.pid])
            took = [-processor_seconds(pids) for pids in each]
            seen, memory = uvloop.run(load(url, texts, args, server, args.seconds))
            took = [so_far + processor_seconds(pids) for so_far, pids in zip(took, each, strict=True)]
            time.sleep(SETTLE_SECONDS)
            memory = [before, *memory, anonymous_mib(server)]
            found |= figures(seen, memory, args.seconds, alone)
            shares = [1000 * seconds / len(seen.answers) for seconds in took]
            found["processor ms an answer"] = dict(zip(WHO, [took_alone, *shares], strict=True))
            print(json.dumps(found, indent=2), file=sys.stderr)
            found |= writer.check(seen)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(vars(args) | found, indent=2, default=str))
    sys.exit(bool(found["errors"] or found["wrong answers"] or found["hung"]))


def judged(data: Path) -> list[str]:
    rows = [json.loads(line) for line in (data / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = (data / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    wanted = {line.split("\t")[0] for line in lines}
    return [row["text"] for row in rows if row["_id"] in wanted]


def in_process(folder: Path, texts: list[str]) -> tuple[float, float]:
    """Queries a second of `search_many`, and milliseconds of the processors for each: the best of three rounds, for
    the machine may do something else."""
    with Searcher.open(folder) as searcher:
        rounds = []
        for _ in range(3):
            began = time.perf_counter(), time.process_time()
            searcher.search_many(enumerate(texts), k=K)
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            rounds.append((len(texts) / took[0], 1000 * took[1] / len(texts)))
        return max(rounds)


# The server -------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, processes: int = 1) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "retriever.cli", "serve", f"load={folder}", "--port", "0"]
    command += ["--processes", str(processes)]
    with started(command) as found:
        yield found
    if code := found[1].returncode:
        raise SystemExit(f"the server ended with {code}")


@contextmanager
def started(command: list[str], **variables: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A server, once it says where it serves; ended with the block, however that ends."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("serving on "):
                    yield line.removeprefix("serving on ").partition(";")[0], process
                    break
        finally:
            process.terminate()
            process.wait(60)


def family(pid: int) -> dict[int, list[str]]:
    """{pid: what its stat says from the state on} of a process and of all that it and its children have started."""
    stats, found = {}, {pid}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stats[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()
    while more := {one for one, stat in stats.items() if int(stat[1]) in found} - found:
        found |= more
    return {one: stats[one] for one in found if one in stats}


def processor_seconds(pids: Iterable[int]) -> float:
    """Of processes and their threads so far, their own and the system's for them."""
    both = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        both += int(fields[11]) + int(fields[12])
    return both / os.sysconf("SC_CLK_TCK")


def anonymous_mib(pids: Iterable[int]) -> int:
    found = (Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2] for pid in pids)
    return sum(int(one.split()[0]) for one in found) // 1024


# The writer -------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    pid: int
    pipe: Connection

    def check(self, seen: Seen) -> dict[str, Any]:
        """What there is to say of answers, by the commits that they name."""
        self.pipe.send(seen.answers)
        checked: dict[str, Any] = self.pipe.recv()
        return checked


@contextmanager
def writing(folder: Path | None, texts: list[str]) -> Iterator[Writer]:
    """Within, a process commits; what it gives checks answers against the commits. None: nothing is written."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=write, args=(folder, texts, theirs))
    process.start()
    theirs.close()  # so that its end is noticed
    if folder is not None:
        ours.recv()  # it has begun

    yield Writer(process.pid, ours)
    process.join(30)


def write(folder: Path | None, texts: list[str], pipe: Connection) -> None:
    if folder is None:
        pipe.recv()
        pipe.send({"commits": 0, "wrong answers": 0})
        return
    encoder = encoder_for_searching({"name": "bundled"})
    with Index.open(folder, encoder, writable=True) as index:
        snapshots = {now.state.generation: now for now in [index.snapshot()]}
        n = 0
        pipe.send("begun")
        while not pipe.poll(COMMIT_SECONDS):
            n += 1
            changed = [{"doc_id": f"w{n}", "text": texts[n % len(texts)]}]
            changed += [{"doc_id": f"w{n - 1}", "text": texts[(7 * n) % len(texts)]}]
            index.add(changed)
            now = index.snapshot()
            snapshots[now.state.generation] = now
            index.delete([f"w{n - 2}"])
            now = index.snapshot()
            snapshots[now.state.generation] = now
    answers = pipe.recv()
    wrong, generations = 0, Counter(generation for _, generation, _ in answers)
    for generation in generations:
        some = [(query, hits) for query, one, hits in answers if one == generation]
        known = min(one for one in snapshots if one >= generation)  # what merges segments changes no document
        expected = Searcher(snapshots[known], encoder).search_many({query: query for query, _ in some}, k=K)
        for query, hits in some:
            wrong += not same(hits, [(hit.doc_id, hit.score) for hit in expected[query]])
    pipe.send({"commits": 2 * n, "commits seen": len(generations), "wrong answers": wrong})


def same(hits: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    """The same scores, and the same documents but for the order of those that score alike."""
    if len(hits) != len(expected) or len({doc_id for doc_id, _ in hits}) != len(hits):
        return False
    if any(abs(a - b) > TOLERANCE for (_, a), (_, b) in zip(hits, expected, strict=True)):
        return False
    cut = expected[-1][1] + TOLERANCE if expected else 0.0
    return {d for d, s in hits if s > cut} == {d for d, s in expected if s > cut}


# The clients ------------------------------------------------------------------------------------------------


async def load(
    url: str, texts: list[str], args: argparse.Namespace, pids: list[int], seconds: float
) -> tuple[Seen, list[int]]:
    """Memory by tenths of the time, in MiB."""
    seen, until = Seen(), time.monotonic() + seconds
    clients = [client(url, texts, i, until, seen) for i in range(args.clients)]
    clients += [slow_client(url, texts, i, until, seen) for i in range(args.slow)]

    async def measured() -> list[int]:
        found = []
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            found.append(anonymous_mib(pids))
        return found

    memory, *_ = await asyncio.gather(measured(), *clients)
    return seen, memory


def request(query: str, host: str) -> bytes:
    body = json.dumps({"query": query, "k": K}).encode()
    head = f"POST /v1/indexes/load/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


class Asking(asyncio.Protocol):
    """A connection that is kept. It does as little as can be: clients share the processors with the server."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Status and body of the answer, or EOFError."""
        self._parts: list[bytes] = []
        self._left = 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        assert self._answer is not None
        if not self._parts:  # the head is in one piece
            end = data.index(HEAD_ENDS)
            self._head, data = data[:end], data[end + len(HEAD_ENDS) :]
            self._left = length_of(self._head)
        self._parts.append(data)
        self._left -= len(data)
        if self._left <= 0:
            self._answer.set_result((status_of(self._head), b"".join(self._parts)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or EOFError())


async def client(url: str, texts: list[str], number: int, until: float, seen: Seen) -> None:
    address, loop = urlsplit(url), asyncio.get_running_loop()
    requests = [request(text, address.netloc) for text in texts]
    _, asking = await loop.create_connection(Asking, address.hostname, address.port)
    i = 7919 * number
    while time.monotonic() < until:
        at, started = i % len(texts), time.perf_counter()
        i += 1
        try:
            status, body = await asyncio.wait_for(asking.ask(requests[at]), HANGS)
        except TimeoutError:
            seen.statuses["hung"] += 1
            break
        except (OSError, EOFError):
            seen.statuses["closed"] += 1
            _, asking = await loop.create_connection(Asking, address.hostname, address.port)
            continue
        if status == 200:
            seen.ms.append(1000 * (time.perf_counter() - started))
        record(seen, texts[at], status, body)
        if status == 503:
            await asyncio.sleep(1)  # as Retry-After has it
    asking.transport.close()


async def slow_client(url: str, texts: list[str], number: int, until: float, seen: Seen) -> None:
    address = urlsplit(url)
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        query = texts[number % len(texts)]
        for byte in request(query, address.netloc):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        status, body = await answer(reader, pause=0.05)
        record(seen, query, status, body)
        seen.statuses["slow"] += 1
        writer.close()


async def answer(reader: asyncio.StreamReader, pause: float) -> tuple[int, bytes]:
    head = await reader.readuntil(HEAD_ENDS)
    left = length_of(head)
    parts: list[bytes] = []
    while left:
        parts.append(await reader.read(min(left, 1024 if pause else left)))
        if not parts[-1]:
            raise EOFError
        left -= len(parts[-1])
        await asyncio.sleep(pause)
    return status_of(head), b"".join(parts)


def status_of(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


def record(seen: Seen, query: str, status: int, body: bytes) -> None:
    seen.statuses[str(status)] += 1
    if status == 200:
        found = from_json(body)
        hits = [(hit["doc_id"], hit["score"]) for hit in found["hits"]]
        seen.answers.append((query, found["generation"], hits))
        seen.missing.append(tuple(found.get("missing", ())))


def figures(seen: Seen, memory: list[int], seconds: float, in_process: float) -> dict[str, Any]:
    ms = sorted(seen.ms)
    counts = seen.statuses
    errors = sum(n for status, n in counts.items() if status not in ("200", "503", "slow", "hung"))
    per_second = len(ms) / seconds
    return {
        "answers": counts["200"],
        "refused (503)": counts["503"],
        "hung": counts["hung"],
        "errors": errors,
        "slow answers": counts["slow"],
        "per second": per_second,
        "of search_many": per_second / in_process,
        "median ms": statistics.median(ms),
        "p99 ms": ms[int(0.99 * len(ms))],
        "p99 of median": ms[int(0.99 * len(ms))] / statistics.median(ms),
        "worst ms": ms[-1],
        "MiB before, by tenths, and after": memory,
        "memory": memory[-1] / memory[0],
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }


if __name__ == "__main__":
    main()
