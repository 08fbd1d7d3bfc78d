"""What a build of shards by Ray costs, what failures cost it, and what shards cost in quality.

    python benchmarks/cluster.py failures CORPUS.jsonl WORK [--documents 20000]
    python benchmarks/cluster.py memory CORPUS.jsonl WORK [--documents 5000 20000]
    python benchmarks/cluster.py time CORPUS.jsonl WORK [--documents 3000] --chars 2000
    python benchmarks/vectors.py VECTORS BEIR_FOLDER
    python benchmarks/cluster.py quality BEIR_FOLDER VECTORS

CORPUS gives the texts, of which the first CHARS characters are taken, again and again with a number before them, until
there are enough documents. All of Ray runs on this machine.

failures: three nodes, two actors. In the first run an actor is killed, then a node is removed, then the driver is
killed; a second run ends it. Work: documents encoded, over documents, at most. memory: the most that each kind of
process had of its own. time: two actors of one thread, of a Ray that runs already, against `latewood index` with two
threads. quality: nDCG@10 of one index and of four shards, of the same vectors.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from serving import family

CHARS = 80
BATCH = 512  # documents that an actor encodes before it hands them over, at most
BUILD = [sys.executable, "-m", "retriever.cli", "cluster", "build"]
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "OMP_WAIT_POLICY": "PASSIVE"}
STORE = 100 * 2**20  # bytes, for Ray's objects


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["failures", "memory", "time", "quality"])
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--chars", type=int, default=CHARS)
    parser.add_argument(
        "--seeds", type=int, default=3, help="of the codec, whose luck is as large as any difference"
    )
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(QUIET)
    if given.what == "quality":
        print(json.dumps(quality(given.source, given.work, given.seeds), indent=1))
        return
    sizes = given.documents or {"failures": [20_000], "memory": [5000, 20_000], "time": [3000]}[given.what]
    measure = {"failures": failures, "memory": memory, "time": times}[given.what]
    for n in sizes:
        corpus = written(given.source, given.work, n, given.chars)
        print(json.dumps({"documents": n} | measure(corpus, given.work, n)), flush=True)


def written(source: Path, work: Path, n: int, chars: int) -> Path:
    texts = [json.loads(line)["text"][:chars] for line in source.open(encoding="utf-8")]
    path = work / f"{n}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(islice(cycle(texts), n)):
            file.write(json.dumps({"_id": str(i), "text": f"{i} {text}"}) + "\n")
    return path


def failures(corpus: Path, work: Path, n: int) -> dict[str, Any]:
    import ray
    from ray._private.state import actors
    from ray.cluster_utils import Cluster

    from indexing import Index

    out = work / "failures.index"
    shutil.rmtree(out, ignore_errors=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    command = [*BUILD, str(corpus), "--out", str(out), "--shards", "2", "--address", cluster.address]
    command += ["--actors", "2", "--progress", "json"]

    def kill_an_actor() -> None:
        pids = [
            one["Pid"]
            for one in actors().values()
            if "MapWorker" in one["ActorClassName"] and one["State"] == "ALIVE"
        ]
        os.kill(pids[0], signal.SIGKILL)

    events = [
        (0.2, "an actor was killed", kill_an_actor),
        (0.4, "a node was removed", lambda: cluster.remove_node(nodes[1], allow_graceful=False)),
        (0.7, "the driver was killed", lambda: driver.kill()),
    ]
    try:
        print("begun", time.strftime("%T"), flush=True)
        driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        done = 0
        assert driver.stderr is not None
        for line in driver.stderr:
            step = step_of(line)
            if step is None:
                print(line.rstrip(), flush=True)
            elif step["phase"] == "encoding":
                done = max(done, step["done"])
                if events and step["done"] >= events[0][0] * n:
                    _, said, happen = events.pop(0)
                    print(said, "at", step["done"], time.strftime("%T"), flush=True)
                    happen()
        assert not events, "the build ended before all had happened"
        driver.wait()
        print("begun again", time.strftime("%T"), flush=True)
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        again = int(ended.stdout.partition(" encoded")[0].rpartition("; ")[2].replace(",", ""))
        print(ended.stdout.strip(), time.strftime("%T"), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    wanted = {row["_id"]: row["text"] for row in map(json.loads, corpus.open(encoding="utf-8"))}
    with Index.open(out) as index:
        index.verify()
        found = [(document.doc_id, document.text) for document in index]
    assert len(found) == n
    assert dict(found) == wanted
    # Encoded twice until the driver was killed: what two dead actors had in work. Encoded and not told: what two had in
    # work then, and one had just done.
    return {"passed": done, "again": again, "work at most": round((done + again + 5 * BATCH) / n, 3)}


@contextmanager
def peaks(found: dict[str, int]) -> Iterator[None]:
    """name: the most MiB that a process of that name, of Ray's or the driver, had of its own, without pages of mapped
    files, which the system may take back."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.25):
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    name = (path / "cmdline").read_text().replace("\0", " ")
                    kind = next(
                        k for k in ("MapWorker", "ShardWriter", "cluster build", "read_blocks") if k in name
                    )
                    lines = (path / "smaps_rollup").read_text().splitlines()
                except (OSError, StopIteration):
                    continue
                own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) >> 10
                found[kind] = max(found.get(kind, 0), own)

    with beside(look, ended):
        yield


@contextmanager
def beside(look: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    """Within, a thread looks, until the event."""
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def memory(corpus: Path, work: Path, n: int) -> dict[str, Any]:
    found: dict[str, int] = {}
    with peaks(found):
        seconds, _ = built(corpus, work, actors=1)
    return {"seconds": round(seconds, 1), "MiB": found}


@contextmanager
def processor_seconds(found: list[float]) -> Iterator[None]:
    """Appends what the processes that this one has started, and theirs, take within."""
    ended, seen = threading.Event(), dict[int, int]()

    def look() -> None:
        for pid, stat in family(os.getpid()).items():
            seen[pid] = sum(int(n) for n in stat[11:13])

    def keep_looking() -> None:
        while not ended.wait(0.25):
            look()

    look()
    before = seen.copy()
    try:
        with beside(keep_looking, ended):
            yield
    finally:
        ticks = sum(n - before.get(pid, 0) for pid, n in seen.items() if pid != os.getpid())
        found.append(ticks / os.sysconf("SC_CLK_TCK"))


def times(corpus: Path, work: Path, n: int) -> dict[str, Any]:
    import ray

    out, spent = work / "plain.index", list[float]()
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "retriever.cli", "index", str(corpus), "--out", str(out), "--quiet"]
    started = time.perf_counter()
    with processor_seconds(spent):
        subprocess.run(
            command, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"}, stdout=subprocess.DEVNULL
        )
    plain = time.perf_counter() - started
    print("plain", round(plain, 1), spent, flush=True)
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=STORE)
    try:
        with processor_seconds(spent):
            by_ray, phases = built(corpus, work, 2, ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
    return {
        "seconds": {"plain": round(plain, 1), "ray": round(by_ray, 1), "ratio": round(by_ray / plain, 3)},
        "of the processors": {"plain": spent[0], "ray": spent[1], "ratio": round(spent[1] / spent[0], 3)},
        "phases": phases,
    }


def built(
    corpus: Path, work: Path, actors: int, address: str = "local"
) -> tuple[float, list[tuple[str, float]]]:
    """Seconds of a whole command, and of its phases."""
    out = work / "ray.index"
    shutil.rmtree(out, ignore_errors=True)
    command = [*BUILD, str(corpus), "--out", str(out), "--shards", "2", "--address", address]
    command += ["--actors", str(actors), "--progress", "json"]
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    steps = [step for line in ended.stderr.splitlines() if (step := step_of(line))]
    print(*(line for line in ended.stderr.splitlines() if step_of(line) is None), sep="\n", flush=True)
    return seconds, [(step["phase"], round(step["seconds"], 1)) for step in steps if step["ended"]]


def step_of(line: str) -> dict[str, Any] | None:
    """Of --progress json; what Ray says may stand behind it."""
    return json.JSONDecoder().raw_decode(line)[0] if line.startswith("{") else None


def quality(folder: Path, vectors: Path, seeds: int) -> dict[str, Any]:
    import numpy as np

    from encoder import Encoder
    from encoder.embeddings import TokenEmbeddings
    from indexing import Index
    from retriever import Searcher
    from retriever.evaluation import EvaluationSet, evaluate

    data = EvaluationSet.load(folder, "test")
    encoder = Encoder.load(query_length=data.query_length)
    documents = list(data.passages())
    arrays = (np.load(vectors / f"{name}.npy") for name in ("vectors", "offsets", "token_ids"))
    half, offsets, token_ids = arrays
    embeddings = TokenEmbeddings(half.astype(np.float32), offsets, token_ids=token_ids)
    scores: dict[str, list[float]] = {}
    for seed, shards in product(range(seeds), (1, 4)):
        with (
            tempfile.TemporaryDirectory() as place,
            Index.create(
                Path(place) / "x", encoder, shards=None if shards == 1 else shards, seed=seed
            ) as index,
        ):
            ids, texts = ([document[key] for document in documents] for key in ("doc_id", "text"))
            index.add_embeddings(ids, embeddings, texts)
            with Searcher(index, encoder) as searcher:
                for mode in ("late", "hybrid"):
                    hits = {q: searcher.search(text, k=100, mode=mode) for q, text in data.queries.items()}
                    run = {q: {hit.doc_id: hit.score for hit in own} for q, own in hits.items()}
                    score = evaluate(data.qrels, run)["nDCG@10"]
                    scores.setdefault(f"{shards} {mode}", []).append(round(score, 5))
                    print(folder.name, shards, seed, mode, f"{score:.5f}", flush=True)
    means = {f"{name} mean": round(sum(own) / seeds, 5) for name, own in scores.items()}
    return {"data": folder.name} | scores | means


if __name__ == "__main__":
    main()
