"""A random history of an index, and two programs on it: a writer that is killed, and readers beside a writer.

    python -m tests.helpers.kills kill FOLDER KILLS     SIGKILL at so many random instants; checked after each
    python -m tests.helpers.kills read FOLDER SECONDS   one writer and four readers for so long

Each prints a JSON object of what it did, and fails where an index is not what its history says. A process is killed
here, not the machine: that what was acknowledged also survives a power cut rests on fsync (test_crashes.py).
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss  # noqa: F401  before the forks, which would each load it
import numpy as np

from indexing import Index
from retriever import Searcher
from tests.helpers.fakes import DIM, WORDS, FakeEncoder, assert_equals, record, stored, texts_of

__all__: list[str] = []

Model = dict[str, tuple[str, dict[str, Any], bool]]  # doc_id → text, metadata, whether it is encoded
KINDS = (
    "add",
    "replace",
    "add texts",
    "delete",
    "delete by filter",
    "update_metadata",
    "encode",
    "rename",
    "compact",
)
READERS = 4
STEPS = 24  # at least, of the writer beside readers


def new_encoder() -> FakeEncoder:
    return FakeEncoder(DIM, document_length=16, windows=True)


def step(number: int, model: Model) -> tuple[str, Callable[[Index], Any], Model]:
    """The step of this number on an index that equals `model`: its kind, what does it, and the model after it."""
    random = np.random.default_rng([7, number])
    kind = KINDS[number % len(KINDS)]
    some = [str(i) for i in random.permutation(sorted(model))[: len(model) // 6 + 1]] if model else []

    def text() -> str:
        return " ".join(
            random.choice(WORDS, random.integers(1, 30))
        )  # of 16 words and more: several passages

    if kind in ("add", "replace", "add texts"):
        new = [f"d{number}-{i}" for i in range(random.integers(5, 25))]
        docs = [record(0, text(), n=number) | {"doc_id": i} for i in (some if kind == "replace" else new)]
        if kind == "add texts":
            docs += [record(0, text(), n=number) | {"doc_id": i} for i in some]
        encode = kind != "add texts"
        after = model | {d["doc_id"]: (d["text"], d["metadata"], encode) for d in docs}
        return kind, lambda index: index.add(docs, encode=encode), encoded(after) if encode else after
    if kind == "encode":
        return kind, lambda index: index.encode(), encoded(model)
    if kind == "rename":
        names = dict(zip(some, [*some[1:], f"r{number}"], strict=True))
        return kind, lambda index: index.rename(names), {names.get(k, k): v for k, v in model.items()}
    if kind == "delete":
        return kind, lambda index: index.delete(some), {k: v for k, v in model.items() if k not in some}
    if kind == "delete by filter":  # what is not of the last few rounds, so that the index keeps its size
        oldest = number - 5 * len(KINDS)
        after = {k: v for k, v in model.items() if v[1]["n"] >= oldest}
        return kind, lambda index: index.delete(filter=f"n < {oldest}"), after
    if kind == "update_metadata":
        metadata = {k: {"n": number, "note": "é"} for k in some}
        after = model | {k: (model[k][0], metadata[k], model[k][2]) for k in some}
        return kind, lambda index: index.update_metadata(metadata), after
    return kind, lambda index: index.compact(), model


def encoded(model: Model) -> Model:
    return {k: (text, metadata, True) for k, (text, metadata, _) in model.items()}


def between(found: Model, before: Model, after: Model) -> bool:
    """Whether a step has happened but for the vectors of documents that an earlier one stored without: `add` makes
    them in a later commit."""
    waiting = {k for k, v in before.items() if not v[2] and after.get(k, (None,))[0] == v[0]}
    return found == {k: (*v[:2], v[2] and k not in waiting) for k, v in after.items()}


def write(path: Path, number: int, model: Model, told: int, stop: Callable[[int], bool]) -> None:
    """Go on with the history from a step on; each is told to the file descriptor before and after it."""
    with Index.open(path, new_encoder(), writable=True) as index:
        while not stop(number):
            _, act, model = step(number, model)
            os.write(told, b"+")  # begun
            act(index)
            os.write(told, b".")  # acknowledged
            number += 1


def kill(folder: Path, kills: int) -> dict[str, Any]:
    path, random = folder / "docs.index", np.random.default_rng(0)
    Index.create(path, new_encoder(), flat_tokens=400).close()
    model: Model = {}
    number = 0
    struck: Counter[str] = Counter()
    kept = 0  # commits in flight that had happened
    for n in range(kills):
        said, acknowledged = killed(path, number, model, random)
        for _ in range(acknowledged):
            _, _, model = step(number, model)
            number += 1
        begun = said > acknowledged
        kind, _, after = step(number, model)
        struck[kind if begun else "opening, or between two steps"] += 1
        with Index.open(path) as index:
            index.verify()
            found = stored(index)
            half = begun and between(found, model, after)
            assert found == model or (begun and found == after) or half, f"kill {n}, in {kind}, step {number}"
            if begun and found == after:  # where the step changes nothing, it may be done again or not
                kept += after != model
                model, number = after, number + 1
            elif half and found != model:  # the same step again does the rest
                model = found
            assert_equals(index, *texts_of(found, new_encoder()))
        if n % 10 == 0:  # else the next writer sweeps
            with Index.open(path, new_encoder(), writable=True) as index:
                known = {file.path for file in index.snapshot().files}
                left = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
                assert {p for p in left if "index." not in p} == known, f"kill {n}"
    return {"kills": kills, "steps": number, "in flight and kept": kept, "struck in": dict(struck)}


def killed(path: Path, number: int, model: Model, random: np.random.Generator) -> tuple[int, int]:
    """Kills a writer at a random instant: steps that it had begun, and those of them acknowledged.

    The instant is some marks of the writer, then a part of about a step's time, so that a busy machine, which makes
    steps longer, spreads the kills no worse.
    """
    reading, writing = os.pipe()
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        write(path, number, model, writing, lambda _: False)
    os.close(writing)
    said = b""
    for _ in range(random.integers(0, 14)):
        said += os.read(reading, 1)
    lasted = (time.monotonic() - before) / (1 + len(said) / 2)
    time.sleep(random.uniform(0, 1.5) * lasted)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"the writer ended by itself after step {number}"
    while more := os.read(reading, 4096):
        said += more
    os.close(reading)
    return said.count(b"+"), said.count(b".")


def read(folder: Path, seconds: float) -> dict[str, Any]:
    path, log = folder / "docs.index", folder / "told"
    Index.create(path, new_encoder(), flat_tokens=400).close()
    log.touch()
    readers = {}
    for i in range(READERS):
        if (child := os.fork()) == 0:
            (folder / f"reader-{i}").write_text(json.dumps(watch(path, log, reopens=i % 2 == 0)))
            os._exit(0)
        readers[child] = f"reader {i}"
    told = os.open(log, os.O_WRONLY | os.O_APPEND)
    if (child := os.fork()) == 0:
        until = time.monotonic() + seconds
        write(path, 0, {}, told, lambda n: n >= STEPS and time.monotonic() > until)
        os._exit(0)
    failed = ["the writer"] if os.waitpid(child, 0)[1] else []
    os.write(told, b"e")  # the readers end
    failed += [name for reader, name in readers.items() if os.waitpid(reader, 0)[1]]
    assert not failed, f"{', '.join(failed)} failed"
    with Index.open(path) as index:
        index.verify()
    found = [json.loads((folder / f"reader-{i}").read_text()) for i in range(READERS)]
    total = {key: sum(one[key] for one in found) for key in found[0]}
    return {"seconds": seconds, "steps": log.read_bytes().count(b"."), "readers": READERS, **total}


def watch(path: Path, log: Path, *, reopens: bool) -> dict[str, int]:
    """Read again and again; all that is seen must be one commit, none older than the last acknowledged before."""
    encoder = new_encoder()
    models: list[Model] = [{}]

    def known(number: int) -> Model:
        while len(models) <= number:
            models.append(step(len(models) - 1, models[-1])[2])
        return models[number]

    index = Index.open(path)
    reads = moves = last = 0
    while reads == 0 or not log.read_bytes().endswith(b"e"):
        oldest = log.read_bytes().count(b".")
        if reopens:
            index.close()
            index = Index.open(path)
        else:
            index.reload()
        newest = log.read_bytes().count(b"+")
        found = stored(index)
        at = next((n for n in range(max(oldest, last), newest + 1) if known(n) == found), None)
        if at is None:
            steps = range(max(oldest, last), newest)
            at = next((n for n in steps if between(found, known(n), known(n + 1))), None)
        assert at is not None, f"what is read is no commit from {max(oldest, last)} to {newest}"
        assert_equals(index, *texts_of(found, encoder))
        reachable = sum(v[2] for v in found.values())
        hits = Searcher(index._now, encoder).search("w1 w2", k=10, mode="late") if reachable else []
        assert len(hits) == min(10, reachable)
        assert all((hit.text, hit.metadata, True) == found[hit.doc_id] for hit in hits)
        assert stored(index) == found  # the snapshot has not moved
        reads, moves, last = reads + 1, moves + (at > last), at
    index.close()
    return {"reads": reads, "of a newer commit": moves}


def main() -> None:
    what, folder, amount = sys.argv[1:]
    report = kill(Path(folder), int(amount)) if what == "kill" else read(Path(folder), float(amount))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
